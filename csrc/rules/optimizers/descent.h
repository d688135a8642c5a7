// Steps along the gradient or its sign: SGD, Lion.
#pragma once

#include "rules/optimizers/common.h"

namespace innerloop::INNERLOOP_ISA {

// Sutskever et al. 2013, in the form of torch.optim.SGD.
struct Sgd {
  static constexpr const char* name = "sgd";
  static constexpr Parameter parameters[] = {not_negative("lr", 1e-3), not_negative("momentum", 0),
                                             not_negative("dampening", 0), not_negative("weight_decay", 0),
                                             flag("nesterov", false)};
  static constexpr State states[] = {{"momentum_buffer", "momentum"}};
  double lr, momentum, dampening, weight_decay, nesterov;

  const char* refuse() const {
    if (nesterov != 0 && (momentum == 0 || dampening != 0)) return "nesterov needs momentum above 0 and dampening 0";
    return nullptr;
  }

  template <class T>
  struct Step {
    T lr, momentum, gain;
    bool first, nesterov;
    Decay<T> decay;

    Step(const Sgd& h, double step)
        : lr(T(h.lr)),
          momentum(T(h.momentum)),
          gain(T(1 - h.dampening)),
          first(step == 1),
          nesterov(h.nesterov != 0),
          decay(h.weight_decay) {}

    template <unsigned Used, class V>
    HD V update(V p, V g, V* state) const {
      g = decay.gradient(p, g);
      if constexpr (Used & 1) {
        V& buffer = state[0];
        buffer = first ? g : fma(V(momentum), buffer, V(gain) * g);
        g = nesterov ? fma(V(momentum), buffer, g) : buffer;
      }
      return fma(V(-lr), g, p);
    }
  };
};

// Chen et al. 2023, arXiv:2302.06675, Algorithm 2.
struct Lion {
  static constexpr const char* name = "lion";
  static constexpr Parameter parameters[] = {not_negative("lr", 1e-4), below_1("beta1", 0.9), below_1("beta2", 0.99),
                                             not_negative("weight_decay", 0)};
  static constexpr State states[] = {{"exp_avg"}};
  double lr, beta1, beta2, weight_decay;

  template <class T>
  struct Step {
    T lr, beta1, gain1, beta2, gain2;
    Decay<T> decay;

    Step(const Lion& h, double)
        : lr(T(h.lr)),
          beta1(T(h.beta1)),
          gain1(T(1 - h.beta1)),
          beta2(T(h.beta2)),
          gain2(T(1 - h.beta2)),
          decay(h.weight_decay, h.lr, true) {}

    template <unsigned Used, class V>
    HD V update(V p, V g, V* state) const {
      V& exp_avg = state[0];
      const V direction = sign_of(fma(V(beta1), exp_avg, V(gain1) * g));
      exp_avg = fma(V(beta2), exp_avg, V(gain2) * g);
      return fma(V(-lr), direction, decay.parameter(p));
    }
  };
};

}  // namespace innerloop::INNERLOOP_ISA
