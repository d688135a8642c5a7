// The exponentials of a row and their sum, in one pass over memory: what softmax and its losses are made of.
#pragma once

#include <math.h>

#include "cpu/rows.h"

namespace innerloop::INNERLOOP_ISA {

template <class T>
HD T exp_below_1_of(T x) {
  return exp_below_1(Native<T>(x))[0];
}

// Where a task keeps the exponentials of a row of one block, and what it knows of the blocks of a longer one.
template <class T>
struct Workspace {
  T* tops;
  alignas(64) char near[kRowBlock * sizeof(T)];
};

// Of a row x: its largest element and the sum of exp(x - top), which is NaN where the row holds NaN or +inf or nothing
// but -inf. e holds the exponentials: of a short row in the workspace, with room for whole vectors.
template <class T>
struct RowSum {
  T top, total;
  const char* e;
};

template <class T>
HD T largest_of(const char* x, int64_t begin, int64_t end) {
  using L = Lanes<Native<T>>;
  L top(-(T)INFINITY), other(-(T)INFINITY);
  int64_t i = begin;
  for (; i + 32 <= end; i += 32) {
    top = larger(L::load(x + i * sizeof(T)), top);
    other = larger(L::load(x + (i + 16) * sizeof(T)), other);
  }
  for_lanes(i, end, [&](int64_t j, int n) INNERLOOP_INLINE { top = larger(Row<T>::load(x, j, n, -(T)INFINITY), top); });
  return largest(larger(top, other));
}

// Note [exponentials in one pass]
// A long row does not fit the nearest cache, so its maximum is not looked for beforehand. Each block of 2048 elements
// is searched and may raise `top`; its exponentials are taken relative to the top so far and written
// to e, which may be x itself; meanwhile the next block is fetched, which no hardware does over so long a pause.
// tops[block] remembers which top that was: whoever reads e again, while the row is in the second-level cache,
// multiplies by exp(tops[block] - top). All that depends on the row's values alone.
//
// also(i, n, z) is given each 16 elements, after also.begin_block(top) and before also.end_block() of their block.
template <bool store, class T, class Also>
HD RowSum<T> exponentials(const char* x, char* out, int64_t length, Workspace<T>& work, Also& also) {
  using L = Lanes<Native<T>>;
  const bool near = length <= kRowBlock;
  char* e = near ? work.near : out;
  const int64_t ahead = near ? 0 : kRowBlock;
  T top = -(T)INFINITY;
  L total(0);
  for (int64_t begin = 0; begin < length; begin += kRowBlock) {
    const int64_t end = length - begin < kRowBlock ? length : begin + kRowBlock;
    const T here = largest_of<T>(x, begin, end);
    if (here > top) {
      if (begin > 0) total = total * L(exp_below_1_of(top - here));
      top = here;
    }
    if (!near) work.tops[begin / kRowBlock] = top;
    also.begin_block(top);
    // Nothing but -inf so far: relative to 0, so that these count as 0 if something larger follows.
    const L shift(top == -(T)INFINITY ? T(0) : top);
    L sum(0);
    for_lanes(begin, end, [&](int64_t i, int n) INNERLOOP_INLINE {
      for (size_t line = 0; line < L::count * sizeof(T); line += 64) prefetch(x + (i + ahead) * sizeof(T) + line);
      const L z = Row<T>::load(x, i, n, -(T)INFINITY);
      const L exponential = exp_below_1(z - shift);
      if constexpr (store) Row<T>::store(exponential, e, i, near ? L::count : n);
      sum = sum + exponential;
      also(i, n, z);
    });
    total = total + sum;
    also.end_block();
  }
  return {top, top == -(T)INFINITY ? (T)NAN : sum(total), e};
}

// f(i, n, e, factor) over a row's exponentials: factor makes those of this block relative to the row's top.
template <class T, class F>
HD void for_exponentials(const RowSum<T>& row, int64_t length, const Workspace<T>& work, const F& f) {
  using L = Lanes<Native<T>>;
  const bool near = length <= kRowBlock;
  for (int64_t begin = 0; begin < length; begin += kRowBlock) {
    const int64_t end = length - begin < kRowBlock ? length : begin + kRowBlock;
    const T factor = near ? T(1) : exp_below_1_of(work.tops[begin / kRowBlock] - row.top);
    for_lanes(begin, end,
              [&](int64_t i, int n) INNERLOOP_INLINE { f(i, n, Row<T>::load(row.e, i, near ? L::count : n), factor); });
  }
}

struct Nothing {
  template <class T>
  HD void begin_block(T) {}
  template <class L>
  HD void operator()(int64_t, int, L) {}
  HD void end_block() {}
};

}  // namespace innerloop::INNERLOOP_ISA
