// Steps along the gradient, scaled by its squares so far: RMSprop, Adagrad, Adadelta.
#pragma once

#include "rules/optimizers/common.h"

namespace innerloop::INNERLOOP_ISA {

// Hinton 2012, lecture 6e; centered: Graves 2013. In the form of torch.optim.RMSprop, but for the estimate of the
// variance, which is kept from falling below 0 by rounding.
struct RmsProp {
  static constexpr const char* name = "rmsprop";
  static constexpr Parameter parameters[] = {not_negative("lr", 1e-2),    fraction("alpha", 0.99),
                                             not_negative("eps", 1e-8),   not_negative("weight_decay", 0),
                                             not_negative("momentum", 0), flag("centered", false)};
  static constexpr State states[] = {
      {"square_avg", nullptr, nullptr, false}, {"grad_avg", "centered"}, {"momentum_buffer", "momentum"}};
  double lr, alpha, eps, weight_decay, momentum, centered;

  template <class T>
  struct Step {
    T lr, alpha, gain, eps, momentum;
    Decay<T> decay;

    Step(const RmsProp& h, double)
        : lr(T(h.lr)),
          alpha(T(h.alpha)),
          gain(T(1 - h.alpha)),
          eps(round_eps<T>(h.eps)),
          momentum(T(h.momentum)),
          decay(h.weight_decay) {}

    template <unsigned Used, class V>
    HD V update(V p, V g, V* state) const {
      g = decay.gradient(p, g);
      V variance = state[0] = fma(V(alpha), state[0], V(gain) * g * g);
      if constexpr (Used & 2) {
        const V mean = state[1] = fma(V(alpha), state[1], V(gain) * g);
        variance = max(fma(-mean, mean, variance), V(0));
      }
      V d = g / (sqrt(variance) + V(eps));
      if constexpr (Used & 4) d = state[2] = fma(V(momentum), state[2], d);
      return fma(V(-lr), d, p);
    }
  };
};

// Duchi et al. 2011, in the form of torch.optim.Adagrad.
struct Adagrad {
  static constexpr const char* name = "adagrad";
  static constexpr Parameter parameters[] = {not_negative("lr", 1e-2), not_negative("lr_decay", 0),
                                             not_negative("weight_decay", 0),
                                             not_negative("initial_accumulator_value", 0), not_negative("eps", 1e-10)};
  static constexpr State states[] = {{"state_sum", nullptr, "initial_accumulator_value", false}};
  double lr, lr_decay, weight_decay, initial_accumulator_value, eps;

  template <class T>
  struct Step {
    T lr, eps;
    Decay<T> decay;

    Step(const Adagrad& h, double step)
        : lr(T(h.lr / (1 + (step - 1) * h.lr_decay))), eps(round_eps<T>(h.eps)), decay(h.weight_decay) {}

    template <unsigned Used, class V>
    HD V update(V p, V g, V* state) const {
      g = decay.gradient(p, g);
      state[0] = fma(g, g, state[0]);
      return fma(V(-lr), g / (sqrt(state[0]) + V(eps)), p);
    }
  };
};

// Zeiler 2012, Algorithm 1, with the learning rate of torch.optim.Adadelta.
struct Adadelta {
  static constexpr const char* name = "adadelta";
  static constexpr Parameter parameters[] = {not_negative("lr", 1), fraction("rho", 0.9), not_negative("eps", 1e-6),
                                             not_negative("weight_decay", 0)};
  static constexpr State states[] = {{"square_avg", nullptr, nullptr, false}, {"acc_delta", nullptr, nullptr, false}};
  double lr, rho, eps, weight_decay;

  template <class T>
  struct Step {
    T lr, rho, gain, eps;
    Decay<T> decay;

    Step(const Adadelta& h, double)
        : lr(T(h.lr)), rho(T(h.rho)), gain(T(1 - h.rho)), eps(round_eps<T>(h.eps)), decay(h.weight_decay) {}

    template <unsigned Used, class V>
    HD V update(V p, V g, V* state) const {
      g = decay.gradient(p, g);
      state[0] = fma(V(rho), state[0], V(gain) * g * g);
      const V d = sqrt(state[1] + V(eps)) / sqrt(state[0] + V(eps)) * g;
      state[1] = fma(V(rho), state[1], V(gain) * d * d);
      return fma(V(-lr), d, p);
    }
  };
};

}  // namespace innerloop::INNERLOOP_ISA
