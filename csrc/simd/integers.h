// What random numbers need of integer lanes: products of two words, and four words a lane laid out in order.
#pragma once

#include "simd/scalar.h"
#include "simd/simd.h"

// Lanes of two vectors: i names lane i of a, N + i lane i of b.
#ifdef __clang__
#define INNERLOOP_SHUFFLE2(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define INNERLOOP_SHUFFLE2(a, b, ...) __builtin_shuffle(a, b, typename Raw<T, N>::type{__VA_ARGS__})
#endif

namespace innerloop::INNERLOOP_ISA {

// Each four lanes of the result are the lanes i0 .. i3 of the same four of a (0 to 3) and of b (4 to 7).
template <int i0, int i1, int i2, int i3, class T, int N>
HD Vec<T, N> shuffle_fours(Vec<T, N> a, Vec<T, N> b) {
#define INNERLOOP_FOUR(q)                                                                                        \
  (i0 & 3) + 4 * q + (i0 & 4) / 4 * N, (i1 & 3) + 4 * q + (i1 & 4) / 4 * N, (i2 & 3) + 4 * q + (i2 & 4) / 4 * N, \
      (i3 & 3) + 4 * q + (i3 & 4) / 4 * N
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

template <int N>
HD WideProduct<Vec<uint32_t, N>> multiply_words(Vec<uint32_t, N> a, Vec<uint32_t, N> b) {
  using Wide = typename Raw<uint64_t, N / 2>::type;
  using Words = typename Raw<uint32_t, N>::type;
  const Vec<uint32_t, N> a_odd = (Words)((Wide)a.v >> 32), b_odd = (Words)((Wide)b.v >> 32);
  const Wide even = (Wide)multiply_even(a, b).v, odd = (Wide)multiply_even(a_odd, b_odd).v;
  const Vec<uint32_t, N> even_high = (Words)(even >> 32), even_low = (Words)even;
  const Vec<uint32_t, N> odd_high = (Words)odd, odd_low = (Words)(odd << 32);
  return {shuffle_fours<0, 5, 2, 7>(even_high, odd_high), shuffle_fours<0, 5, 2, 7>(even_low, odd_low)};
}

// Where each lane holds four words, which four lanes' worth of memory takes them in order: lane i is number
// in_order(i) of the lanes (see store_fours).
template <class V>
HD V order_of_fours() {
  uint32_t number[V::lanes];
  for (int i = 0; i < V::lanes; i++) number[i] = V::lanes == 1 ? 0 : uint32_t(i % 4 * (V::lanes / 4) + i / 4);
  return V::load(number);
}
// Stores the four words of every lane, those of the lane with number 0 first.
template <class T, int N>
HD void store_fours(const Vec<T, N> (&w)[4], T* to) {
  if constexpr (N == 1) {
    for (int i = 0; i < 4; i++) to[i] = w[i].v;
  } else {
    // A transposition of 4 x 4 words in each four lanes; the numbering puts these side by side.
    const Vec<T, N> ab_low = shuffle_fours<0, 4, 1, 5>(w[0], w[1]), ab_high = shuffle_fours<2, 6, 3, 7>(w[0], w[1]);
    const Vec<T, N> cd_low = shuffle_fours<0, 4, 1, 5>(w[2], w[3]), cd_high = shuffle_fours<2, 6, 3, 7>(w[2], w[3]);
    shuffle_fours<0, 1, 4, 5>(ab_low, cd_low).store(to);
    shuffle_fours<2, 3, 6, 7>(ab_low, cd_low).store(to + N);
    shuffle_fours<0, 1, 4, 5>(ab_high, cd_high).store(to + 2 * N);
    shuffle_fours<2, 3, 6, 7>(ab_high, cd_high).store(to + 3 * N);
  }
}

}  // namespace innerloop::INNERLOOP_ISA
