// Sums over a row, of u and of u v: what the norms' statistics and gradients are made of.
#pragma once

#include "cpu/rows.h"

namespace innerloop::INNERLOOP_ISA {

template <class T>
struct Sums {
  T u, uv;
};
// Of u(i, n) and v(i, n), 16 lanes of which the last may be unused: u is 0 there and v finite. (Two functions, because
// g++ 12 takes a struct of the two through memory.)
template <class T, class U, class V>
HD Sums<T> sums_of_row(int64_t length, const U& u, const V& v) {
  using L = Lanes<Native<T>>;
  RowTotal<L> sum_u, sum_uv;
  for (int64_t at = 0; at < length; at += kRowBlock) {
    const int64_t stop = length - at < kRowBlock ? length : at + kRowBlock;
    for_lanes(at, stop, [&](int64_t i, int n) INNERLOOP_INLINE {
      const L here = u(i, n);
      sum_u.block = sum_u.block + here;
      sum_uv.block = fma(here, v(i, n), sum_uv.block);
    });
    sum_u.end_block();
    sum_uv.end_block();
  }
  return {sum(sum_u.total), sum(sum_uv.total)};
}

template <class T>
HD T sum_of_row(const char* x, int64_t length) {
  using L = Lanes<Native<T>>;
  RowTotal<L> total;
  for (int64_t at = 0; at < length; at += kRowBlock) {
    const int64_t stop = length - at < kRowBlock ? length : at + kRowBlock;
    for_lanes(at, stop, [&](int64_t i, int n) INNERLOOP_INLINE { total.block = total.block + Row<T>::load(x, i, n); });
    total.end_block();
  }
  return sum(total.total);
}

// Of d = x - base and of d d.
template <class T>
HD Sums<T> moments_of_row(const char* x, T base, int64_t length) {
  using L = Lanes<Native<T>>;
  // 0 in unused lanes, NaN if base is infinite.
  auto d = [&](int64_t i, int n) INNERLOOP_INLINE { return Row<T>::load(x, i, n, base) - L(base); };
  return sums_of_row<T>(length, d, d);
}

}  // namespace innerloop::INNERLOOP_ISA
