// The losses that compare two arrays element by element, value beside derivative, over any V; and nll_loss.
// To add an elementwise loss: write its struct here, put it in `ElementwiseLosses` below, and write its NumPy reference
// in python/innerloop/reference/elementwise_losses.py. Nothing else needs to know.
//
// A rule has
//   name            as in the public function
//   parameters[]    optional: name, default and range of each number it takes, which its constructor is given in order
//   array           optional: the name of a third array that broadcasts to the others, 1 where it is not given
//   batchmean       optional, true: has the reduction "batchmean", too
//   pred_range[2]   optional: where the predictions must lie
//   both(x, t)      of the prediction x and the target t (and the third array): the loss, and its derivative by x
#pragma once

#include "kernels.h"
#include "rules/list.h"
#include "simd/math.h"

namespace innerloop::INNERLOOP_ISA {

template <class V>
struct LossAndSlope {
  V loss, slope;
};

// The derivative of |x|, as PyTorch has it: 1, -1, or 0 at 0 and at NaN.
template <class V>
HD V slope_of_abs(V x) {
  return select(x > V(0), V(1), select(x < V(0), V(-1), V(0)));
}

// (x - t)^2
struct MseLoss {
  static constexpr const char* name = "mse_loss";
  template <class V>
  HD LossAndSlope<V> both(V x, V t) const {
    const V d = x - t;
    return {d * d, d + d};
  }
};

// |x - t|; the derivative at 0 is 0, and where x - t is NaN, as in PyTorch.
struct L1Loss {
  static constexpr const char* name = "l1_loss";
  template <class V>
  HD LossAndSlope<V> both(V x, V t) const {
    const V d = x - t;
    return {abs(d), slope_of_abs(d)};
  }
};

// With d = x - t: d^2 / (2 beta) where |d| < beta, else |d| - beta / 2 (Girshick 2015, equation 3, at beta = 1).
struct SmoothL1Loss {
  static constexpr const char* name = "smooth_l1_loss";
  static constexpr Parameter parameters[] = {{"beta", 1.0, 0.0}};
  double beta;
  template <class V>
  HD LossAndSlope<V> both(V x, V t) const {
    if (beta == 0) return L1Loss().both(x, t);
    const V d = x - t, a = abs(d), quotient = d / V(beta);
    const auto far = a >= V(beta);  // not so for NaN
    return {select(far, a - V(0.5 * beta), V(0.5) * d * quotient), select(far, slope_of_abs(d), quotient)};
  }
};

// With d = x - t: d^2 / 2 where |d| < delta, else delta (|d| - delta / 2) (Huber 1964).
struct HuberLoss {
  static constexpr const char* name = "huber_loss";
  static constexpr Parameter parameters[] = {{"delta", 1.0, 0.0, __builtin_inf(), false, false, true}};
  double delta;
  template <class V>
  HD LossAndSlope<V> both(V x, V t) const {
    const V d = x - t, a = abs(d);
    const auto far = a >= V(delta);
    return {select(far, V(delta) * (a - V(0.5 * delta)), V(0.5) * d * d), select(far, V(delta) * slope_of_abs(d), d)};
  }
};

// -(t log x + (1 - t) log(1 - x)), with PyTorch's limits: logarithms of -100 at least, and x (1 - x), which divides the
// derivative, of 1e-12 at least.
struct BinaryCrossEntropy {
  static constexpr const char* name = "binary_cross_entropy";
  static constexpr double pred_range[] = {0, 1};
  template <class V>
  HD LossAndSlope<V> both(V x, V t) const {
    const V log_x = at_least(log(x), V(-100)), log_rest = at_least(log1p(-x), V(-100));
    return {fma(t - V(1), log_rest, -(t * log_x)), (x - t) / at_least((V(1) - x) * x, V(1e-12))};
  }
};

// The same of sigmoid(x), the positive part times p: -(p t log s(x) + (1 - t) log(1 - s(x)))
// = (1 - t) x + w (max(-x, 0) + log(1 + e^-|x|)), w = 1 + (p - 1) t; the derivative is w s(x) - p t.
struct BinaryCrossEntropyWithLogits {
  static constexpr const char* name = "binary_cross_entropy_with_logits";
  static constexpr const char* array = "pos_weight";
  template <class V>
  HD LossAndSlope<V> both(V x, V t, V p) const {
    const V e = exp(-abs(x)), w = fma(p - V(1), t, V(1));
    const V sigmoid = select(x < V(0), e, V(1)) / (V(1) + e);
    return {fma(V(1) - t, x, w * (at_least(-x, V(0)) + log1p(e))), fma(w, sigmoid, -(p * t))};
  }
};

// t (log t - x), which is 0 at t = 0: the terms of the divergence of a distribution t from one of logarithms x. With
// log_target t holds logarithms, too: e^t (t - x) (Kullback & Leibler 1951).
struct KlDiv {
  static constexpr const char* name = "kl_div";
  static constexpr Parameter parameters[] = {{"log_target", 0, 0, 1, false, true}};
  static constexpr bool batchmean = true;
  double log_target;
  template <class V>
  HD LossAndSlope<V> both(V x, V t) const {
    if (log_target != 0) {
      const V p = exp(t);
      return {p * (t - x), -p};
    }
    return {fma(-t, x, select(t == V(0), V(0), t * log(t))), -t};
  }
};

// -log of the Poisson distribution of mean e^x at the count t, without log t!: e^x - t x; or of mean x where log_input
// is false: x - t log(x + eps). With `full`, Stirling's t log t - t + log(2 pi t) / 2 in its place, where t > 1.
struct PoissonNllLoss {
  static constexpr const char* name = "poisson_nll_loss";
  static constexpr Parameter parameters[] = {
      {"log_input", 1, 0, 1, false, true}, {"full", 0, 0, 1, false, true}, {"eps", 1e-8, 0.0}};
  double log_input, full, eps;
  template <class V>
  HD LossAndSlope<V> both(V x, V t) const {
    LossAndSlope<V> made;
    if (log_input != 0) {
      const V mean = exp(x);
      made = {fma(-t, x, mean), mean - t};
    } else {
      const V shifted = x + V(eps);
      made = {fma(-t, log(shifted), x), V(1) - t / shifted};
    }
    if (full != 0) {
      constexpr double two_pi = 6.283185307179586;
      const V stirling = fma(t, log(t), -t) + V(0.5) * log(V(two_pi) * t);
      made.loss = made.loss + select(t > V(1), stirling, V(0));
    }
    return made;
  }
};

using ElementwiseLosses = List<MseLoss, L1Loss, SmoothL1Loss, HuberLoss, BinaryCrossEntropy,
                               BinaryCrossEntropyWithLogits, KlDiv, PoissonNllLoss>;

// nll_loss: -w x of the label's logarithm x and the row's weight w.
struct NegativeLogLikelihood {
  template <class V>
  static HD V loss(V x, V w) {
    return -(w * x);
  }
  template <class V>
  static HD V slope(V w) {
    return -w;
  }
};

}  // namespace innerloop::INNERLOOP_ISA
