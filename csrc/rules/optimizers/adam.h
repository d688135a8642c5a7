// Adam and its kin: steps along a running mean of the gradient, scaled by its running size.
#pragma once

#include "rules/optimizers/common.h"

namespace innerloop::INNERLOOP_ISA {

// The running means of the gradient and of its square, with what they are corrected by for their start at zero.
template <class T>
struct Moments {
  T beta1, gain1, beta2, gain2;

  Moments(double beta1, double beta2) : beta1(T(beta1)), gain1(T(1 - beta1)), beta2(T(beta2)), gain2(T(1 - beta2)) {}

  template <class V>
  HD void update(V g, V& exp_avg, V& exp_avg_sq) const {
    exp_avg = fma(V(beta1), exp_avg, V(gain1) * g);
    exp_avg_sq = fma(V(beta2), exp_avg_sq, V(gain2) * g * g);
  }
};
inline double correction(double beta, double step) { return 1 - power(beta, step); }

// Kingma & Ba 2015, Algorithm 1. With m and v corrected, m / (sqrt(v) + eps) = scale exp_avg / (root sqrt(exp_avg_sq) +
// eps): one square root and one division an element. With amsgrad (Reddi et al. 2018, in torch.optim's form) the
// largest exp_avg_sq so far stands for the last.
template <class T>
struct AdamStep {
  T step_size, root, eps;
  Moments<T> moments;
  Decay<T> decay;

  template <class Rule>
  AdamStep(const Rule& h, double step, Decay<T> decay)
      : step_size(T(h.bias_correction != 0 ? h.lr / correction(h.beta1, step) : h.lr)),
        root(T(h.bias_correction != 0 ? 1 / ::sqrt(correction(h.beta2, step)) : 1)),
        eps(round_eps<T>(h.eps)),
        moments(h.beta1, h.beta2),
        decay(decay) {}

  template <unsigned Used, class V>
  HD V update(V p, V g, V* state) const {
    moments.update(decay.gradient(p, g), state[0], state[1]);
    V square = state[1];
    if constexpr (Used & 4) square = state[2] = max(state[2], square);
    return fma(V(-step_size), state[0] / fma(V(root), sqrt(square), V(eps)), decay.parameter(p));
  }
};

struct Adam {
  static constexpr const char* name = "adam";
  static constexpr Parameter parameters[] = {
      not_negative("lr", 1e-3),        below_1("beta1", 0.9),  below_1("beta2", 0.999),      not_negative("eps", 1e-8),
      not_negative("weight_decay", 0), flag("amsgrad", false), flag("bias_correction", true)};
  static constexpr State states[] = {
      {"exp_avg"}, {"exp_avg_sq", nullptr, nullptr, false}, {"max_exp_avg_sq", "amsgrad", nullptr, false}};
  double lr, beta1, beta2, eps, weight_decay, amsgrad, bias_correction;

  template <class T>
  struct Step : AdamStep<T> {
    Step(const Adam& h, double step) : AdamStep<T>(h, step, Decay<T>(h.weight_decay)) {}
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
                                             flag("amsgrad", false),
                                             flag("bias_correction", true)};
  static constexpr State states[] = {
      {"exp_avg"}, {"exp_avg_sq", nullptr, nullptr, false}, {"max_exp_avg_sq", "amsgrad", nullptr, false}};
  double lr, beta1, beta2, eps, weight_decay, amsgrad, bias_correction;

  template <class T>
  struct Step : AdamStep<T> {
    Step(const AdamW& h, double step) : AdamStep<T>(h, step, Decay<T>(h.weight_decay, h.lr, true)) {}
  };
};

// Kingma & Ba 2015, Algorithm 2, in the form of torch.optim.Adamax: eps is added to |g|.
struct Adamax {
  static constexpr const char* name = "adamax";
  static constexpr Parameter parameters[] = {not_negative("lr", 2e-3), below_1("beta1", 0.9), below_1("beta2", 0.999),
                                             not_negative("eps", 1e-8), not_negative("weight_decay", 0)};
  static constexpr State states[] = {{"exp_avg"}, {"exp_inf", nullptr, nullptr, false}};
  double lr, beta1, beta2, eps, weight_decay;

  template <class T>
  struct Step {
    T step_size, beta1, gain1, beta2, eps;
    Decay<T> decay;

    Step(const Adamax& h, double step)
        : step_size(T(h.lr / correction(h.beta1, step))),
          beta1(T(h.beta1)),
          gain1(T(1 - h.beta1)),
          beta2(T(h.beta2)),
          eps(round_eps<T>(h.eps)),
          decay(h.weight_decay) {}

    template <unsigned Used, class V>
    HD V update(V p, V g, V* state) const {
      g = decay.gradient(p, g);
      V &exp_avg = state[0], &exp_inf = state[1];
      exp_avg = fma(V(beta1), exp_avg, V(gain1) * g);
      exp_inf = max(V(beta2) * exp_inf, abs(g) + V(eps));
      return fma(V(-step_size), exp_avg / exp_inf, p);
    }
  };
};

// The momentum of NAdam's steps: mu(t) = beta1 (1 - 0.96^(t momentum_decay) / 2), and the product of mu(1) .. mu(step).
struct NAdamMomentum {
  double now, next, product;

  NAdamMomentum(double beta1, double momentum_decay, double step) {
    using V = Vec<double, 1>;
    const double log_decay = -0.040821994520255166 * momentum_decay;  // ln 0.96
    auto mu = [&](double t) { return beta1 * (1 - 0.5 * exp(V(t * log_decay)).v); };
    now = mu(step);
    next = mu(step + 1);
    // Below 2^-80 the product no longer counts beside 1. It falls by half and more a step until 0.96^... is small,
    // and when that is lost beside 1 too, the rest is a power: some 3000 rounds at the very most, mostly 80.
    product = 1;
    for (double t = 1; t <= step && product > 8e-25; t++) {
      if (t * log_decay < -40) {
        product *= power(beta1, step - t + 1);
        break;
      }
      product *= mu(t);
    }
  }
};

// Dozat 2016, in the form of torch.optim.NAdam, which keeps the product of the momenta as a state; here it is a
// function of the step.
struct NAdam {
  static constexpr const char* name = "nadam";
  static constexpr Parameter parameters[] = {not_negative("lr", 2e-3),
                                             below_1("beta1", 0.9),
                                             below_1("beta2", 0.999),
                                             not_negative("eps", 1e-8),
                                             not_negative("weight_decay", 0),
                                             not_negative("momentum_decay", 4e-3),
                                             flag("decoupled_weight_decay", false)};
  static constexpr State states[] = {{"exp_avg"}, {"exp_avg_sq", nullptr, nullptr, false}};
  double lr, beta1, beta2, eps, weight_decay, momentum_decay, decoupled_weight_decay;

  template <class T>
  struct Step {
    T of_gradient, of_momentum, root, eps;
    Moments<T> moments;
    Decay<T> decay;

    Step(const NAdam& h, double step)
        : root(T(1 / ::sqrt(correction(h.beta2, step)))),
          eps(round_eps<T>(h.eps)),
          moments(h.beta1, h.beta2),
          decay(h.weight_decay, h.lr, h.decoupled_weight_decay != 0) {
      const NAdamMomentum mu(h.beta1, h.momentum_decay, step);
      of_gradient = T(-h.lr * (1 - mu.now) / (1 - mu.product));
      of_momentum = T(-h.lr * mu.next / (1 - mu.product * mu.next));
    }

    template <unsigned Used, class V>
    HD V update(V p, V g, V* state) const {
      g = decay.gradient(p, g);
      moments.update(g, state[0], state[1]);
      const V d = fma(V(of_momentum), state[0], V(of_gradient) * g);
      return decay.parameter(p) + d / fma(V(root), sqrt(state[1]), V(eps));
    }
  };
};

// Liu et al. 2020, Algorithm 2, in the form of torch.optim.RAdam.
struct RAdam {
  static constexpr const char* name = "radam";
  static constexpr Parameter parameters[] = {not_negative("lr", 1e-3),        below_1("beta1", 0.9),
                                             below_1("beta2", 0.999),         not_negative("eps", 1e-8),
                                             not_negative("weight_decay", 0), flag("decoupled_weight_decay", false)};
  static constexpr State states[] = {{"exp_avg"}, {"exp_avg_sq", nullptr, nullptr, false}};
  double lr, beta1, beta2, eps, weight_decay, decoupled_weight_decay;

  template <class T>
  struct Step {
    T step_size, eps;
    bool rectified;  // the variance of 1 / sqrt(exp_avg_sq) can be told, and so it is used
    Moments<T> moments;
    Decay<T> decay;

    Step(const RAdam& h, double step)
        : eps(round_eps<T>(h.eps)),
          moments(h.beta1, h.beta2),
          decay(h.weight_decay, h.lr, h.decoupled_weight_decay != 0) {
      const double all = 2 / (1 - h.beta2) - 1;
      const double length = all - 2 * step * power(h.beta2, step) / correction(h.beta2, step);
      rectified = length > 5;
      double size = h.lr / correction(h.beta1, step);
      if (rectified) {
        size *= ::sqrt(correction(h.beta2, step)) *
                ::sqrt((length - 4) * (length - 2) * all / ((all - 4) * (all - 2) * length));
      }
      step_size = T(size);
    }

    template <unsigned Used, class V>
    HD V update(V p, V g, V* state) const {
      moments.update(decay.gradient(p, g), state[0], state[1]);
      const V d = rectified ? state[0] / (sqrt(state[1]) + V(eps)) : state[0];
      return fma(V(-step_size), d, decay.parameter(p));
    }
  };
};

}  // namespace innerloop::INNERLOOP_ISA
