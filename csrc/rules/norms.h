// The norms' arithmetic, forward beside derivative, over any V. With xhat = (x - mean) rstd, rstd = 1 / sqrt(var +
// eps):
//
//   y = xhat w + b        dw = sum(dy xhat)        db = sum(dy)        g = dy w
//   dx = rstd (g - mean(g) - xhat mean(g xhat))
//
// layer_norm (Ba, Kiros and Hinton, arXiv:1607.06450, 2016) takes mean and var along a row, batch_norm (Ioffe and
// Szegedy, ICML 2015) along a channel. rms_norm (Zhang and Sennrich, NeurIPS 2019) has mean 0 and the mean square for
// var, so mean(g) does not appear. In inference batch_norm's mean and var are constants: dx = rstd g.
//
// Variance comes from sums of d = x - base and of d d, where base is near the mean: the corrected two-pass algorithm of
// Chan, Golub and LeVeque, "Algorithms for computing the sample variance", The American Statistician 37, 1983. The
// mean, too: base + mean(d) is known to more digits than a T holds, so that x - base, which is exact, is corrected
// by mean(d) and never x by a rounded mean.
#pragma once

#include "rules/list.h"
#include "simd/math.h"

namespace innerloop::INNERLOOP_ISA {

// sum (x - mean)^2 of n elements, from the sums of d and of d d. Not negative, but NaN where one of them is.
template <class V>
HD V squared_deviations(V sum_d, V sum_dd, V n) {
  const V s = fma(-sum_d, sum_d / n, sum_dd);
  return select(s < V(0), V(0), s);
}

template <class V>
HD V reciprocal_deviation(V variance, V eps) {
  return V(1) / sqrt(variance + eps);
}

struct LayerNorm {
  static constexpr const char* name = "layer_norm";
  static constexpr bool has_mean = true;

  template <class V>
  static HD V variance(V sum_d, V sum_dd, V n) {
    return squared_deviations(sum_d, sum_dd, n) / n;
  }
  // g - mean(g) - xhat mean(g xhat)
  template <class V>
  static HD V backward(V g, V xhat, V mean_g, V mean_gx) {
    return fma(-xhat, mean_gx, g - mean_g);
  }
};

struct RmsNorm {
  static constexpr const char* name = "rms_norm";
  static constexpr bool has_mean = false;

  template <class V>
  static HD V variance(V, V sum_dd, V n) {
    return sum_dd / n;
  }
  template <class V>
  static HD V backward(V g, V xhat, V, V mean_gx) {
    return fma(-xhat, mean_gx, g);
  }
};

using RowNorms = List<LayerNorm, RmsNorm>;

// One channel, in double, as numbers for the loops over its elements.
struct BatchNorm {
  // y = (x - base) scale + shift, of a mean that base is a rounding of.
  struct Forward {
    double scale, shift;
  };
  static HD Forward forward(double mean, double base, double rstd, double w, double b) {
    const double scale = rstd * w;
    return {scale, b - (mean - base) * scale};
  }
  // dx = (x - mean) slope + dy scale + shift in training, from the sums of dy and of dy (x - mean) over n elements.
  struct Backward {
    double scale, slope, shift;
  };
  static HD Backward backward(double sum_dy, double sum_dyx, double n, double rstd, double w) {
    const double scale = rstd * w;
    return {scale, -scale * rstd * rstd * (sum_dyx / n), -scale * (sum_dy / n)};
  }
  static HD double dweight(double sum_dyx, double rstd) { return sum_dyx * rstd; }
  // PyTorch's: the share `momentum` is new, and the variance the unbiased one.
  static HD double running(double old, double now, double momentum) { return (1 - momentum) * old + momentum * now; }
};

}  // namespace innerloop::INNERLOOP_ISA
