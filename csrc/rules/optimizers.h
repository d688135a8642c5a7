// Every optimizer's arithmetic for one element, over any V (simd/vector.h).
// To add one: write its struct here, put it in `Optimizers` below, and write its NumPy reference in
// python/innerloop/reference/optimizers.py. Nothing else needs to know.
//
// A rule has
//   name           as in the public function, <name>_step
//   parameters[]   name, default and range of each number it takes. Its members are just these, all double, in this
//                  order. Python's betas=(0.9, 0.999) are beta1 and beta2 here, its bools are flags
//   states[]       optional: the arrays it keeps for each parameter array, and which number must not be 0 for one to be
//                  used. They start as zeros
//   refuse()       optional: why its numbers do not go together, or nullptr
//   Step<T>        what one step needs of them, worked out once a call, on the host, in double, and rounded to T
//     Step(rule, step)         steps count from 1
//     update<Used>(p, g, s)    the new p; s[i] becomes the new state i. State i may be touched where bit i of Used is
//                              set, so that a step without momentum reads and writes nothing more
// An `if` may ask Step's numbers, which are the same for all lanes, never a V: see `select`.
#pragma once

#include <math.h>

#include "kernels.h"
#include "rules/list.h"
#include "simd/vector.h"

namespace innerloop::INNERLOOP_ISA {

// Ranges. Larger than any float32, a number would be infinite in the loop, and 0 times it NaN.
constexpr Parameter not_negative(const char* name, double value) { return {name, value, 0, 3.4028234663852886e38}; }
constexpr Parameter fraction(const char* name, double value) { return {name, value, 0, 1}; }
constexpr Parameter below_1(const char* name, double value) { return {name, value, 0, 1, true}; }
constexpr Parameter flag(const char* name, bool value) { return {name, (double)value, 0, 1, false, true}; }

// base^n for a whole n >= 0 by squaring: the same bits with every C library, whose pow differ.
inline double power(double base, double n) {
  double result = 1;
  for (uint64_t k = (uint64_t)n; k != 0; k >>= 1, base *= base) {
    if (k & 1) result *= base;
  }
  return result;
}

// An eps above 0 stays above 0 in T, where 0 / (0 + eps) would else be NaN.
template <class T>
inline T round_eps(double eps) {
  const double least = sizeof(T) == 4 ? 1.1754943508222875e-38 : 2.2250738585072014e-308;
  return T(eps > 0 && eps < least ? least : eps);
}

// The gradient to descend: g, or -g to maximize, with the L2 penalty's share.
template <class T>
struct Gradient {
  T sign, weight_decay;

  template <class V>
  HD V of(V p, V g) const {
    g = V(sign) * g;
    if (weight_decay != 0) g = fma(V(weight_decay), p, g);  // without it, an infinite p is no business of g's
    return g;
  }
};

// Sutskever et al. 2013, in the form of torch.optim.SGD.
struct Sgd {
  static constexpr const char* name = "sgd";
  static constexpr Parameter parameters[] = {not_negative("lr", 1e-3),     not_negative("momentum", 0),
                                             not_negative("dampening", 0), not_negative("weight_decay", 0),
                                             flag("nesterov", false),      flag("maximize", false)};
  static constexpr State states[] = {{"momentum_buffer", "momentum"}};
  double lr, momentum, dampening, weight_decay, nesterov, maximize;

  const char* refuse() const {
    if (nesterov != 0 && (momentum == 0 || dampening != 0)) return "nesterov needs momentum above 0 and dampening 0";
    return nullptr;
  }

  template <class T>
  struct Step {
    T lr, momentum, gain;
    bool first, nesterov;
    Gradient<T> gradient;

    Step(const Sgd& h, double step)
        : lr(T(h.lr)),
          momentum(T(h.momentum)),
          gain(T(1 - h.dampening)),
          first(step == 1),
          nesterov(h.nesterov != 0),
          gradient{T(h.maximize != 0 ? -1 : 1), T(h.weight_decay)} {}

    template <unsigned Used, class V>
    HD V update(V p, V g, V* state) const {
      g = gradient.of(p, g);
      if constexpr (Used & 1) {
        V& buffer = state[0];
        buffer = first ? g : fma(V(momentum), buffer, V(gain) * g);
        g = nesterov ? fma(V(momentum), buffer, g) : buffer;
      }
      return fma(V(-lr), g, p);
    }
  };
};

// Kingma & Ba 2015, Algorithm 1. With m and v corrected, m / (sqrt(v) + eps) = scale exp_avg / (root sqrt(exp_avg_sq) +
// eps): one square root and one division an element.
template <class T>
struct AdamStep {
  T step_size, root, eps, beta1, gain1, beta2, gain2;

  AdamStep(double lr, double beta1, double beta2, double eps, bool bias_correction, double step)
      : step_size(T(bias_correction ? lr / (1 - power(beta1, step)) : lr)),
        root(T(bias_correction ? 1 / ::sqrt(1 - power(beta2, step)) : 1)),
        eps(round_eps<T>(eps)),
        beta1(T(beta1)),
        gain1(T(1 - beta1)),
        beta2(T(beta2)),
        gain2(T(1 - beta2)) {}

  template <class V>
  HD V update(V p, V g, V& exp_avg, V& exp_avg_sq) const {
    exp_avg = fma(V(beta1), exp_avg, V(gain1) * g);
    exp_avg_sq = fma(V(beta2), exp_avg_sq, V(gain2) * g * g);
    return fma(V(-step_size), exp_avg / fma(V(root), sqrt(exp_avg_sq), V(eps)), p);
  }
};

struct Adam {
  static constexpr const char* name = "adam";
  static constexpr Parameter parameters[] = {not_negative("lr", 1e-3),        below_1("beta1", 0.9),
                                             below_1("beta2", 0.999),         not_negative("eps", 1e-8),
                                             not_negative("weight_decay", 0), flag("bias_correction", true),
                                             flag("maximize", false)};
  static constexpr State states[] = {{"exp_avg"}, {"exp_avg_sq"}};
  double lr, beta1, beta2, eps, weight_decay, bias_correction, maximize;

  template <class T>
  struct Step {
    AdamStep<T> adam;
    Gradient<T> gradient;

    Step(const Adam& h, double step)
        : adam(h.lr, h.beta1, h.beta2, h.eps, h.bias_correction != 0, step),
          gradient{T(h.maximize != 0 ? -1 : 1), T(h.weight_decay)} {}

    template <unsigned Used, class V>
    HD V update(V p, V g, V* state) const {
      return adam.update(p, gradient.of(p, g), state[0], state[1]);
    }
  };
};

// Adam with decoupled weight decay (Loshchilov & Hutter 2019, Algorithm 2).
struct AdamW {
  static constexpr const char* name = "adamw";
  static constexpr Parameter parameters[] = {not_negative("lr", 1e-3),
                                             below_1("beta1", 0.9),
                                             below_1("beta2", 0.999),
                                             not_negative("eps", 1e-8),
                                             not_negative("weight_decay", 1e-2),
                                             flag("bias_correction", true),
                                             flag("maximize", false)};
  static constexpr State states[] = {{"exp_avg"}, {"exp_avg_sq"}};
  double lr, beta1, beta2, eps, weight_decay, bias_correction, maximize;

  template <class T>
  struct Step {
    AdamStep<T> adam;
    T sign, kept;

    Step(const AdamW& h, double step)
        : adam(h.lr, h.beta1, h.beta2, h.eps, h.bias_correction != 0, step),
          sign(T(h.maximize != 0 ? -1 : 1)),
          kept(T(1 - h.lr * h.weight_decay)) {}

    template <unsigned Used, class V>
    HD V update(V p, V g, V* state) const {
      return adam.update(V(kept) * p, V(sign) * g, state[0], state[1]);
    }
  };
};

// Hinton 2012, lecture 6e; centered: Graves 2013. In the form of torch.optim.RMSprop, but for the estimate of the
// variance, which is kept from falling below 0 by rounding.
struct RmsProp {
  static constexpr const char* name = "rmsprop";
  static constexpr Parameter parameters[] = {
      not_negative("lr", 1e-2),    fraction("alpha", 0.99), not_negative("eps", 1e-8), not_negative("weight_decay", 0),
      not_negative("momentum", 0), flag("centered", false), flag("maximize", false)};
  static constexpr State states[] = {{"square_avg"}, {"grad_avg", "centered"}, {"momentum_buffer", "momentum"}};
  double lr, alpha, eps, weight_decay, momentum, centered, maximize;

  template <class T>
  struct Step {
    T lr, alpha, gain, eps, momentum;
    Gradient<T> gradient;

    Step(const RmsProp& h, double)
        : lr(T(h.lr)),
          alpha(T(h.alpha)),
          gain(T(1 - h.alpha)),
          eps(round_eps<T>(h.eps)),
          momentum(T(h.momentum)),
          gradient{T(h.maximize != 0 ? -1 : 1), T(h.weight_decay)} {}

    template <unsigned Used, class V>
    HD V update(V p, V g, V* state) const {
      g = gradient.of(p, g);
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

using Optimizers = List<Sgd, Adam, AdamW, RmsProp>;

}  // namespace innerloop::INNERLOOP_ISA
