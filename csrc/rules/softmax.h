// Softmax and its logarithm along a row, forward beside derivative, over any V.
//
// Of a row x: top is its largest element, e = exp(x - top), and total the sum of e. The derivative needs one sum over
// the row, of `term`.
#pragma once

#include "rules/list.h"
#include "simd/math.h"

namespace innerloop::INNERLOOP_ISA {

// y = e / total; dx = y (dy - sum(dy y))
struct Softmax {
  static constexpr const char* name = "softmax";
  static constexpr bool from_exponentials = true;  // y is made from e, else from x
  template <class V>
  static HD V forward(V e, V one_over_total) {
    return e * one_over_total;
  }
  template <class V>
  static HD V term(V dy, V y) {
    return dy * y;
  }
  template <class V>
  static HD V backward(V dy, V y, V sum) {
    return y * (dy - sum);
  }
};

// y = x - top - log(total); dx = dy - exp(y) sum(dy)
struct LogSoftmax {
  static constexpr const char* name = "log_softmax";
  static constexpr bool from_exponentials = false;
  template <class V>
  static HD V forward(V x, V top, V log_total) {
    return (x - top) - log_total;
  }
  template <class V>
  static HD V term(V dy, V) {
    return dy;
  }
  template <class V>
  static HD V backward(V dy, V y, V sum) {
    return fma(-exp(y), sum, dy);
  }
};

using Softmaxes = List<Softmax, LogSoftmax>;

}  // namespace innerloop::INNERLOOP_ISA
