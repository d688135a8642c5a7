// The bodies of the gated pairs, forward and backward, grown from rules/gated.h.
#pragma once

#include "cuda/list.h"
#include "cuda/pieces.h"
#include "cuda/threads.h"
#include "rules/gated.h"

namespace innerloop::INNERLOOP_ISA {

// Pieces of rows: of `half` elements in dy and y, and two halves one after the other in x and dx.
template <class S>
struct HalfRows {
  int64_t half, per_row, pieces;
  FixedDivisor row_of;
  bool aligned;  // all arrays, and each half

  HalfRows(const GatedArrays& a) : half(a.half), per_row((a.half + kPiece<S> - 1) / kPiece<S>) {
    pieces = per_row * a.rows;
    row_of = FixedDivisor(per_row);
    aligned = a.half * (int64_t)sizeof(S) % 16 == 0 && is_aligned(a.dy) && is_aligned(a.x) && is_aligned(a.out);
  }
  // f(byte of the row's half, byte of the row's first half among two, number of elements)
  template <class F>
  HD void each_piece(Thread thread, const F& f) const {
    constexpr int64_t item = sizeof(S);
    for (int64_t piece = thread.index; piece < pieces; piece += thread.count) {
      const int64_t row = row_of.quotient(piece), first = (piece - row * per_row) * kPiece<S>;
      f((row * half + first) * item, (2 * row * half + first) * item, fewer(half - first, kPiece<S>));
    }
  }
};

template <class Rule, class S>
struct GatedForward {
  HalfRows<S> rows;
  const char* x;
  char* y;

  HD void operator()(const Block& block) const {
    using V = typename ComputedAs<S>::type;
    constexpr int N = kPiece<S>;
    const int64_t other = rows.half * (int64_t)sizeof(S);
    rows.each_piece(block.thread(), [&](int64_t at, int64_t at_two, int count) {
      const char* const first = x + at_two;
      V gate[N], value[N];
      load_run<S, N>(Rule::gate_is_first ? first : first + other, rows.aligned, count, gate);
      load_run<S, N>(Rule::gate_is_first ? first + other : first, rows.aligned, count, value);
      INNERLOOP_UNROLL
      for (int j = 0; j < N; j++) gate[j] = Rule::forward(gate[j], value[j]);
      store_run<S, N>(gate, y + at, rows.aligned, count);
    });
  }
};

template <class Rule, class S>
struct GatedBackward {
  HalfRows<S> rows;
  const char *dy, *x;
  char* dx;

  HD void operator()(const Block& block) const {
    using V = typename ComputedAs<S>::type;
    constexpr int N = kPiece<S>;
    const int64_t half = rows.half * (int64_t)sizeof(S);
    const int64_t to_gate = Rule::gate_is_first ? 0 : half, to_value = Rule::gate_is_first ? half : 0;
    rows.each_piece(block.thread(), [&](int64_t at, int64_t at_two, int count) {
      V of_y[N], gate[N], value[N], of_value[N];
      load_run<S, N>(dy + at, rows.aligned, count, of_y);
      load_run<S, N>(x + at_two + to_gate, rows.aligned, count, gate);
      load_run<S, N>(x + at_two + to_value, rows.aligned, count, value);
      INNERLOOP_UNROLL
      for (int j = 0; j < N; j++) {
        of_value[j] = Rule::value_backward(gate[j], of_y[j]);
        gate[j] = Rule::gate_backward(gate[j], value[j], of_y[j]);
      }
      store_run<S, N>(gate, dx + at_two + to_gate, rows.aligned, count);
      store_run<S, N>(of_value, dx + at_two + to_value, rows.aligned, count);
    });
  }
};

}  // namespace innerloop::INNERLOOP_ISA
