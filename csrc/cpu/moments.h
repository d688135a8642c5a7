// Sums over a row, of u and of u v: what the norms' statistics and gradients are made of.
#pragma once

#include "cpu/rows.h"

namespace innerloop::INNERLOOP_ISA {

template <class T>
struct Sums {
  T u, uv;
};
template <class L>
struct Pair {
  L u, v;
};

// Of get(i, n), a Pair of 16 lanes of which the last may be unused: u is 0 there and v finite.
template <class T, class Get>
HD Sums<T> sums_of_row(int64_t length, const Get& get) {
  using L = Lanes<Native<T>>;
  RowTotal<L> u, uv;
  for (int64_t at = 0; at < length; at += kRowBlock) {
    const int64_t stop = length - at < kRowBlock ? length : at + kRowBlock;
    for_lanes(at, stop, [&](int64_t i, int n) INNERLOOP_INLINE {
      const Pair<L> p = get(i, n);
      u.block = u.block + p.u;
      uv.block = fma(p.u, p.v, uv.block);
    });
    u.end_block();
    uv.end_block();
  }
  return {sum(u.total), sum(uv.total)};
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
  return sums_of_row<T>(length, [&](int64_t i, int n) INNERLOOP_INLINE {
    const L d = Row<T>::load(x, i, n, base) - L(base);  // 0 in unused lanes, NaN if base is infinite
    return Pair<L>{d, d};
  });
}

}  // namespace innerloop::INNERLOOP_ISA
