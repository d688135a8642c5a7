// Our rules as what CUTLASS calls for a fragment of a product.
#pragma once

#include <cutlass/array.h>
#include <cutlass/numeric_conversion.h>
#include <cutlass/numeric_types.h>

#include "cuda/linear_epilogue.h"

namespace innerloop::cuda {

template <int N>
CUTLASS_HOST_DEVICE cutlass::Array<float, N> activate_fragment(const Act& act, cutlass::Array<float, N> x) {
  constexpr int kAtOnce = N < 8 ? N : 8;
  static_assert(N % kAtOnce == 0);
  CUTLASS_PRAGMA_UNROLL
  for (int first = 0; first < N; first += kAtOnce) {
    Lanes<float, kAtOnce> part;
    CUTLASS_PRAGMA_UNROLL
    for (int i = 0; i < kAtOnce; i++) part.lane[i] = x[first + i];
    part = activate(act, part);
    CUTLASS_PRAGMA_UNROLL
    for (int i = 0; i < kAtOnce; i++) x[first + i] = part.lane[i].v;
  }
  return x;
}

// y = act(a @ b + c + bias), and the same before the activation.
template <class Element, int N>
class Finish {
 public:
  using ElementOutput = Element;
  using ElementC = Element;
  using ElementZ = Element;
  using ElementT = Element;
  using ElementVector = Element;
  using ElementAccumulator = float;
  using ElementCompute = float;
  static constexpr int kElementsPerAccess = N;
  static constexpr int kCount = N;
  static constexpr bool kIsSingleSource = true;
  static constexpr bool kStoreZ = true;
  static constexpr bool kStoreT = true;  // where there is a pointer
  using Fragment = cutlass::Array<Element, N>;
  using Sums = cutlass::Array<float, N>;

  struct Params {
    Act act;
    bool accumulate;
  };

  CUTLASS_HOST_DEVICE explicit Finish(const Params& params) : params(params) {}
  CUTLASS_HOST_DEVICE bool is_source_needed() const { return params.accumulate; }
  CUTLASS_HOST_DEVICE void set_k_partition(int, int) {}  // k is never split

  CUTLASS_HOST_DEVICE void operator()(Fragment& y, Fragment& z, const Sums& sums, const Fragment& c,
                                      const Sums& bias) const {
    const Sums from = cutlass::NumericArrayConverter<float, Element, N>()(c);
    Sums sum;
    CUTLASS_PRAGMA_UNROLL
    for (int i = 0; i < N; i++) sum[i] = sums[i] + from[i];
    (*this)(y, z, sum, bias);
  }
  CUTLASS_HOST_DEVICE void operator()(Fragment& y, Fragment& z, const Sums& sums, const Sums& bias) const {
    Sums sum;
    CUTLASS_PRAGMA_UNROLL
    for (int i = 0; i < N; i++) sum[i] = sums[i] + bias[i];
    const cutlass::NumericArrayConverter<Element, float, N> round;
    z = round(sum);
    y = round(activate_fragment(params.act, sum));
  }

 private:
  const Params& params;
};

}  // namespace innerloop::cuda
