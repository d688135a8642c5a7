// What the optimizers' rules share: ranges of their numbers, powers of a decay, weight decay.
#pragma once

#include <math.h>

#include "kernels.h"
#include "simd/math.h"
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

// -1, 0 or 1; NaN stays NaN, and 0 keeps its sign.
template <class V>
HD V sign_of(V x) {
  return select(x > V(0), V(1), select(x < V(0), V(-1), x));
}

// Weight decay: coupled, as the L2 penalty's share of the gradient; or decoupled, as what lr takes off the parameter
// (Loshchilov & Hutter 2019).
template <class T>
struct Decay {
  T coupled, kept;

  explicit Decay(double weight_decay) : coupled(T(weight_decay)), kept(1) {}
  Decay(double weight_decay, double lr, bool decoupled)
      : coupled(T(decoupled ? 0 : weight_decay)), kept(T(decoupled ? 1 - lr * weight_decay : 1)) {}

  template <class V>
  HD V gradient(V p, V g) const {
    if (coupled != 0) g = fma(V(coupled), p, g);  // without it, an infinite p is no business of g's
    return g;
  }
  template <class V>
  HD V parameter(V p) const {
    return V(kept) * p;
  }
};

}  // namespace innerloop::INNERLOOP_ISA
