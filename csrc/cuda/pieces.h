// Runs of elements, and where an element of a broadcast array lies: what several bodies need of their indices.
#pragma once

#include "cuda/storage.h"

namespace innerloop::INNERLOOP_ISA {

// The elements of 16 bytes.
template <class S>
constexpr int kPiece = 16 / (int)sizeof(S);

// N elements from p on, `count` of them there, as pieces of up to 16 bytes. `aligned`: p is a multiple of such a piece.
template <class S, int N>
HD void load_run(const char* p, bool aligned, int count, typename ComputedAs<S>::type* to) {
  constexpr int M = N < kPiece<S> ? N : kPiece<S>;
  INNERLOOP_UNROLL
  for (int i = 0; i < N; i += M) {
    load_piece<S, M>(p + i * (int)sizeof(S), aligned && count - i >= M, count - i, to + i);
  }
}
template <class S, int N>
HD void store_run(const typename ComputedAs<S>::type* from, char* p, bool aligned, int count) {
  constexpr int M = N < kPiece<S> ? N : kPiece<S>;
  INNERLOOP_UNROLL
  for (int i = 0; i < N; i += M) {
    store_piece<S, M>(from + i, p + i * (int)sizeof(S), aligned && count - i >= M, count - i);
  }
}
template <class S>
HD typename ComputedAs<S>::type load_one(const char* p, int64_t index) {
  return widen(reinterpret_cast<const Piece<S, 1>*>(p)[index].lane[0]);
}
template <class S>
HD void store_one(typename ComputedAs<S>::type value, char* p, int64_t index) {
  narrow(value, reinterpret_cast<Piece<S, 1>*>(p)[index].lane[0]);
}

HD int fewer(int64_t left, int most) { return left < most ? (int)left : most; }

// Quotients by a number that a launch knows, without a division: Granlund and Montgomery, "Division by invariant
// integers using multiplication", PLDI 1994, figure 4.1.
class FixedDivisor {
 public:
  FixedDivisor() = default;
  explicit FixedDivisor(int64_t divisor) {
    by = divisor > 0 ? (uint64_t)divisor : 1;
    int bits = 0;
    while (((uint64_t)1 << bits) < by) bits++;
    magic = (uint64_t)(((Wide)(((uint64_t)1 << bits) - by) << 64) / by) + 1;
    first = bits > 0 ? 1 : 0;
    second = bits > 0 ? bits - 1 : 0;
  }
  HD int64_t quotient(int64_t n) const {
    const uint64_t high = (uint64_t)((Wide)magic * (uint64_t)n >> 64);
    return (int64_t)((high + (((uint64_t)n - high) >> first)) >> second);
  }
  HD int64_t rest(int64_t n) const { return n - quotient(n) * (int64_t)by; }

 private:
  __extension__ typedef unsigned __int128 Wide;
  uint64_t by, magic;
  int first, second;
};

// Element i of an array that goes with element (i / inner) % period of a smaller one.
class Cycle {
 public:
  struct At {
    int64_t index, within;  // of the smaller array, and how far into its `inner` elements
  };

  Cycle() = default;
  Cycle(int64_t inner, int64_t period) : inner(inner), period(period), by_inner(inner), by_all(inner * period) {}

  HD At at(int64_t i) const {
    const int64_t rest = by_all.rest(i), index = by_inner.quotient(rest);
    return {index, rest - index * inner};
  }
  HD void next(At& at) const {
    if (++at.within < inner) return;
    at.within = 0;
    if (++at.index == period) at.index = 0;
  }
  // Those for N elements from `first` on, which is a multiple of N. `aligned`: p is one of a piece's bytes.
  template <class S, int N>
  HD void load(const char* p, int64_t first, bool aligned, typename ComputedAs<S>::type* to) const {
    At i = at(first);
    if (i.within + N <= inner) {
      const auto value = load_one<S>(p, i.index);
      INNERLOOP_UNROLL
      for (int j = 0; j < N; j++) to[j] = value;
    } else if (inner == 1 && i.index % N == 0 && i.index + N <= period) {
      load_run<S, N>(p + i.index * (int64_t)sizeof(S), aligned, N, to);
    } else {
      INNERLOOP_UNROLL
      for (int j = 0; j < N; j++) {
        to[j] = load_one<S>(p, i.index);
        next(i);
      }
    }
  }

 private:
  int64_t inner, period;
  FixedDivisor by_inner, by_all;
};

inline bool is_aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

}  // namespace innerloop::INNERLOOP_ISA
