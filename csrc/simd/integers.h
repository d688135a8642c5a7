// What random numbers need of integer lanes: four words a lane, laid out in order.
#pragma once

#include "simd/scalar.h"
#include "simd/simd.h"

// Lanes of two vectors: i names lane i of a, N + i lane i of b.
#ifdef __clang__
#define INNERLOOP_SHUFFLE2(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define INNERLOOP_SHUFFLE2(a, b, ...) __builtin_shuffle(a, b, typename Mask<float, N>::raw{__VA_ARGS__})
#endif

namespace innerloop::INNERLOOP_ISA {

// Of each four lanes, those of a and then of b with an even number (odd: 0) or an odd one (odd: 1). As floats, because
// x86 has one instruction for these and none for integers.
template <int odd, int N>
HD Vec<float, N> every_other(Vec<float, N> a, Vec<float, N> b) {
#define INNERLOOP_FOUR(q) 4 * q + odd, 4 * q + 2 + odd, N + 4 * q + odd, N + 4 * q + 2 + odd
  if constexpr (N == 4) {
    return INNERLOOP_SHUFFLE2(a.v, b.v, INNERLOOP_FOUR(0));
  } else if constexpr (N == 8) {
    return INNERLOOP_SHUFFLE2(a.v, b.v, INNERLOOP_FOUR(0), INNERLOOP_FOUR(1));
  } else {
    static_assert(N == 16);
    return INNERLOOP_SHUFFLE2(a.v, b.v, INNERLOOP_FOUR(0), INNERLOOP_FOUR(1), INNERLOOP_FOUR(2), INNERLOOP_FOUR(3));
  }
#undef INNERLOOP_FOUR
}
#undef INNERLOOP_SHUFFLE2

// Each lane's low halves of four V make four words; they are stored lane after lane in the order of these numbers.
template <class V>
HD V order_of_fours() {
  uint64_t number[V::lanes];
  for (int i = 0; i < V::lanes; i++) number[i] = uint64_t(i % 2 * (V::lanes / 2) + i / 2);
  return V::load(number);
}
template <int N>
HD void store_fours(const Vec<uint64_t, N> (&word)[4], uint32_t* to) {
  using Words = Vec<float, 2 * N>;
  Words w[4];
  for (int i = 0; i < 4; i++) w[i] = (typename Words::raw)word[i].v;
  const Words first = every_other<0>(w[0], w[1]), second = every_other<0>(w[2], w[3]);
  every_other<0>(first, second).store(to);
  every_other<1>(first, second).store(to + 2 * N);
}

}  // namespace innerloop::INNERLOOP_ISA
