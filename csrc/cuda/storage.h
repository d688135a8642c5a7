// Elements as they lie in a GPU's memory, to and from what is computed in: Vec<float, 1>, or Vec<double, 1>.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "simd/half_bits.h"
#include "simd/scalar.h"

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define INNERLOOP_UNROLL _Pragma("unroll")  // so that what the loop indexes can stay in registers
#else
#define INNERLOOP_UNROLL
#endif

namespace innerloop::INNERLOOP_ISA {

struct Bfloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

template <class S>
struct ComputedAs {
  using type = Vec<float, 1>;
};
template <>
struct ComputedAs<double> {
  using type = Vec<double, 1>;
};

HD Vec<float, 1> widen(float x) { return x; }
HD Vec<double, 1> widen(double x) { return x; }
HD Vec<float, 1> widen(Bfloat16 x) { return from_bits<Vec<float, 1>>(Vec<uint32_t, 1>((uint32_t)x.bits << 16)); }
HD Vec<float, 1> widen(Float16 x) {
#ifdef __CUDA_ARCH__
  return __half2float(__ushort_as_half(x.bits));
#else
  return float16_value<Vec<float, 1>>(Vec<uint32_t, 1>(x.bits));
#endif
}

// Rounded to the nearest, and to even in the middle: one instruction from sm_80 on.
HD void narrow(Vec<float, 1> x, float& to) { to = x.v; }
HD void narrow(Vec<double, 1> x, double& to) { to = x.v; }
HD void narrow(Vec<float, 1> x, Bfloat16& to) {
#ifdef __CUDA_ARCH__
  to.bits = __bfloat16_as_ushort(__float2bfloat16_rn(x.v));
#else
  to.bits = (uint16_t)nearest_bfloat16(x).v;
#endif
}
HD void narrow(Vec<float, 1> x, Float16& to) {
#ifdef __CUDA_ARCH__
  to.bits = __half_as_ushort(__float2half_rn(x.v));
#else
  to.bits = (uint16_t)nearest_float16(x).v;
#endif
}

// Elements that lie side by side, read and written by one access of up to 16 bytes where `whole` says that their
// address and their number allow it, else one by one: an address is always a multiple of one element's size.
template <class S, int N>
struct __attribute__((may_alias, aligned(N * sizeof(S)))) Piece {
  static_assert(N * sizeof(S) <= 16);
  S lane[N];
};
template <class S, int N>
HD void load_piece(const char* p, bool whole, int count, typename ComputedAs<S>::type* to) {
  Piece<S, N> piece = {};
  if (whole) {
    piece = *reinterpret_cast<const Piece<S, N>*>(p);
  } else {
    INNERLOOP_UNROLL
    for (int i = 0; i < N; i++) {
      if (i < count) piece.lane[i] = reinterpret_cast<const Piece<S, 1>*>(p)[i].lane[0];
    }
  }
  INNERLOOP_UNROLL
  for (int i = 0; i < N; i++) to[i] = widen(piece.lane[i]);
}
template <class S, int N>
HD void store_piece(const typename ComputedAs<S>::type* from, char* p, bool whole, int count) {
  Piece<S, N> piece;
  INNERLOOP_UNROLL
  for (int i = 0; i < N; i++) narrow(from[i], piece.lane[i]);
  if (whole) {
    *reinterpret_cast<Piece<S, N>*>(p) = piece;
    return;
  }
  INNERLOOP_UNROLL
  for (int i = 0; i < N; i++) {
    if (i < count) reinterpret_cast<Piece<S, 1>*>(p)[i].lane[0] = piece.lane[i];
  }
}

}  // namespace innerloop::INNERLOOP_ISA
