// The elementwise loop: one to three inputs, one output, any strides. It owns loads, stores and tails; `f` is a rule's
// arithmetic on V. The tail is a partial load of the same V, so body and tail cannot differ.
#pragma once

#include "kernels.h"
#include "simd/simd.h"

namespace innerloop::INNERLOOP_ISA {

// Calls row(pointers, n) for each run along the innermost axis that [begin, end) of the flattened index covers.
template <int Operands, class Row>
HD void for_rows(const Walk<Operands>& walk, int64_t begin, int64_t end, const Row& row) {
  const int last = walk.ndim - 1;
  int64_t index[kMaxDims];
  char* pointer[Operands];
  for (int op = 0; op < Operands; op++) pointer[op] = walk.data[op];
  int64_t rest = begin;
  for (int d = last; d >= 0; d--) {
    index[d] = d > 0 ? rest % walk.shape[d] : rest;  // no division where there is one axis
    if (d > 0) rest /= walk.shape[d];
    for (int op = 0; op < Operands; op++) pointer[op] += index[d] * walk.stride[op][d];
  }
  while (begin < end) {
    int64_t n = walk.shape[last] - index[last];
    if (n > end - begin) n = end - begin;
    row(pointer, n);
    begin += n;
    if (begin >= end) return;
    for (int op = 0; op < Operands; op++) pointer[op] -= index[last] * walk.stride[op][last];
    index[last] = 0;
    for (int d = last - 1; d >= 0; d--) {
      for (int op = 0; op < Operands; op++) pointer[op] += walk.stride[op][d];
      if (++index[d] < walk.shape[d]) break;
      for (int op = 0; op < Operands; op++) pointer[op] -= index[d] * walk.stride[op][d];
      index[d] = 0;
    }
  }
}

// f(x0, ..) on the V that operands 0 .. Operands - 2 hold at byte offset 0, through `get`.
template <int Operands, class F, class Get>
HD auto apply(const F& f, const Get& get) {
  static_assert(Operands >= 2 && Operands <= 4);
  if constexpr (Operands == 2) return f(get(0));
  if constexpr (Operands == 3) return f(get(0), get(1));
  if constexpr (Operands == 4) return f(get(0), get(1), get(2));
}

// The last operand = f(the others), over [begin, end) of the flattened index. f is held by value, as must be what it
// captures: a store might have changed what lies behind a reference, so that it would be read again for each V.
// Operand `Still`, if there is one, stands still along a run.
template <class T, int Still, int Operands, class F>
void map_runs(const Walk<Operands>& walk, int64_t begin, int64_t end, const F f) {
  using V = Native<T>;
  constexpr int out = Operands - 1;
  const int last = walk.ndim - 1;
  bool contiguous = true;
  for (int op = 0; op < Operands; op++) contiguous &= op == Still || walk.stride[op][last] == (ptrdiff_t)sizeof(T);

  for_rows(walk, begin, end, [&](char* const* p, int64_t n) {
    V still(T(0));
    if constexpr (Still >= 0) still = V(load_partial<V>(p[Still], 1)[0]);
    int64_t i = 0;
    if (contiguous) {
      auto body = [&](int64_t at) {
        return apply<Operands>(f, [&](int op) { return op == Still ? still : V::load(p[op] + at * sizeof(T)); });
      };
      auto part = [&](int64_t at, int count) {
        const V y = apply<Operands>(
            f, [&](int op) { return op == Still ? still : load_partial<V>(p[op] + at * sizeof(T), count); });
        store_partial(y, p[out] + at * sizeof(T), count);
      };
      // By twos: f's chain of dependent operations is long, and two that are independent fill its gaps (gelu: 8%).
      auto pairs = [&](auto put) {
        for (; i + 2 * V::lanes <= n; i += 2 * V::lanes) {
          const V y0 = body(i), y1 = body(i + V::lanes);
          put(y0, p[out] + i * sizeof(T));
          put(y1, p[out] + i * sizeof(T) + sizeof(V));
        }
      };
      if (walk.stream && n >= 4 * V::lanes && (uintptr_t)p[out] % sizeof(T) == 0) {
        const int peel = (int)((-(uintptr_t)p[out] & (sizeof(V) - 1)) / sizeof(T));
        if (peel) part(0, peel);
        i = peel;
        pairs([](V y, char* to) { stream(y, to); });
        stream_end();
      } else {
        pairs([](V y, char* to) { y.store(to); });
      }
      for (; i < n; i += V::lanes) part(i, n - i < V::lanes ? (int)(n - i) : V::lanes);
    } else {
      for (; i < n; i += V::lanes) {
        const int count = n - i < V::lanes ? (int)(n - i) : V::lanes;
        auto get = [&](int op) {
          return op == Still ? still : gather<V>(p[op] + i * walk.stride[op][last], walk.stride[op][last], count);
        };
        scatter(apply<Operands>(f, get), p[out] + i * walk.stride[out][last], walk.stride[out][last], count);
      }
    }
  });
}

// The same where operand `MayBeStill` may be such a one.
template <class T, int MayBeStill = -1, int Operands, class F>
void map(const Walk<Operands>& walk, int64_t begin, int64_t end, const F f) {
  if constexpr (MayBeStill >= 0) {
    if (walk.stride[MayBeStill][walk.ndim - 1] == 0) return map_runs<T, MayBeStill>(walk, begin, end, f);
  }
  map_runs<T, -1>(walk, begin, end, f);
}

}  // namespace innerloop::INNERLOOP_ISA
