// The rectified linear unit whose slope is an operand, over any V.
#pragma once

#include "simd/vector.h"

namespace innerloop::INNERLOOP_ISA {

// y = x > 0 ? x : slope x; dx = dy times 1 or the slope, which it is at 0; dslope = the sum of x dy where x is not
// above 0 (He et al. 2015, section 2.1).
struct Prelu {
  template <class V>
  static HD V forward(V x, V slope) {
    return select(x > V(0), x, x * slope);
  }
  template <class V>
  static HD V backward(V x, V slope, V dy) {
    return select(x > V(0), dy, dy * slope);
  }
  // What one element adds to dslope.
  template <class V>
  static HD V slope_term(V x, V dy) {
    return select(x > V(0), V(0), x * dy);
  }
};

}  // namespace innerloop::INNERLOOP_ISA
