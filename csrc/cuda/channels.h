// Sums over the channels of arrays (samples, channels, inner), in double, by trees that depend on the shape alone. Two
// launches: the first sums parts of each channel, the second adds the parts in their order.
//
// Where a channel has many elements of a sample side by side, a block takes pieces of 16 bytes of one channel
// (SumRows); where it has few, the columns of the matrix (samples, channels inner), a strip of samples at a time
// (SumColumns). A thread adds up to 64 pieces in the type that is computed in; all else is in double.
//
// What is summed is an Op, of one storage type S, with
//   inputs, outputs   arrays: pieces of the inputs are read, then those of the outputs written
//   quantities        sums a channel, 1 or 2
//   moments           their sums are those of d = x - base and d d, as in rules/norms.h: the results are the mean and
//                     the squared deviations from it
//   Number            what an element's term is made with: number(c) of channel c
//   term(in, number, sum, out)     adds one element's terms to sum[quantities] and fills in out[outputs]
//   finish(c, total)               in one thread of the second launch
#pragma once

#include "cuda/pieces.h"
#include "cuda/threads.h"
#include "rules/norms.h"

namespace innerloop::INNERLOOP_ISA {

constexpr int kChannelThreads = 256;
constexpr int kMostPieces = 64;          // of a thread: bounds the error of its sums
constexpr int64_t kChannelParts = 1024;  // parts of all channels, if each is large enough: several blocks of any GPU
constexpr int64_t kLeastInner = 16;      // from here on SumRows

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int log2_at_least(int64_t n, int most) {
  int log = 0;
  while (log < most && ((int64_t)1 << log) < n) log++;
  return log;
}

// How the elements of each channel are divided into parts.
struct ChannelShape {
  int64_t samples, channels, inner;
  bool rows;
  int64_t columns;   // sums of a part: one a channel, or one a column
  int64_t parts;     // of each of them
  int64_t per_row;   // pieces of a row of `inner`
  int64_t per_part;  // pieces, or samples
  int wide;          // SumColumns: 2^wide threads side by side
  int64_t tiles;     // SumColumns: of the columns
  FixedDivisor by_row, by_parts, by_tiles;

  template <class S>
  static ChannelShape of(int64_t samples, int64_t channels, int64_t inner) {
    constexpr int N = kPiece<S>;
    ChannelShape s = {};
    s.samples = channels == 1 ? 1 : samples;
    s.channels = channels;
    s.inner = channels == 1 ? samples * inner : inner;
    s.rows = s.inner >= kLeastInner || channels == 1;
    s.columns = s.rows ? channels : channels * inner;
    s.per_row = ceil_div(s.inner, N);
    s.wide = log2_at_least(ceil_div(s.columns, N), 5);
    s.tiles = s.rows ? channels : ceil_div(s.columns, (int64_t)N << s.wide);
    const int64_t all = s.rows ? s.samples * s.per_row : samples;
    const int64_t at_once = s.rows ? kChannelThreads : kChannelThreads >> s.wide;
    const int64_t enough = ceil_div(kChannelParts, s.tiles > 0 ? s.tiles : 1),
                  needed = ceil_div(all, at_once * kMostPieces);
    const int64_t most = ceil_div(all, at_once), wanted = enough > needed ? enough : needed;
    s.per_part = ceil_div(all, wanted < most ? wanted : most > 0 ? most : 1);
    s.per_part = ceil_div(s.per_part > 0 ? s.per_part : 1, at_once) * at_once;
    s.parts = ceil_div(all, s.per_part);
    s.by_row = FixedDivisor(s.per_row);
    s.by_parts = FixedDivisor(s.parts);
    s.by_tiles = FixedDivisor(s.tiles);
    return s;
  }
  HD int64_t blocks() const { return tiles * parts; }
  int64_t sums() const { return columns * parts; }

  // Whether each row of SumRows, or sample of SumColumns, begins at 16 bytes where the array does.
  template <class S>
  bool keeps_aligned() const {
    const int64_t length = rows ? inner : columns;
    return samples * (rows ? channels : 1) <= 1 || length % kPiece<S> == 0;
  }

  // The elements of a channel, or of a column, before a piece, or a sample.
  template <class S>
  HD int64_t before(int64_t at) const {
    if (!rows) return at < samples ? at : samples;
    if (at >= samples * per_row) return samples * inner;
    const int64_t row = by_row.quotient(at);
    return row * inner + (at - row * per_row) * kPiece<S>;
  }
  template <class S>
  HD double count(int64_t part) const {
    return (double)(before<S>((part + 1) * per_part) - before<S>(part * per_part));
  }
};

// Of one lane of a thread's pieces.
template <class Op, class V>
struct LaneSums {
  V base = V(0), sum[2] = {V(0), V(0)};
  int count = 0;
  static constexpr bool moments = Op::moments;

  template <class Number>
  HD void add(const Op& op, const V* in, const Number& number, V* out) {
    if constexpr (moments) {
      if (count == 0) base = in[0];
      count++;
      const V d = in[0] - base;
      sum[0] = sum[0] + d;
      sum[1] = fma(d, d, sum[1]);
    } else {
      op.term(in, number, sum, out);
    }
  }
  // Of moments: the sum, and the squares about a mean.
  HD double total() const { return (double)base.v * count + (double)sum[0].v; }
  HD double squares(double mean) const {
    if (count == 0) return 0;
    using D = Vec<double, 1>;
    const double n = count, off = ((double)base.v - mean) + (double)sum[0].v / n;
    return squared_deviations(D((double)sum[0].v), D((double)sum[1].v), D(n)).v + off * off * n;
  }
};

template <class Op>
struct ChannelArrays {
  char* data[Op::inputs + Op::outputs];
  bool aligned;      // every row or sample of each
  double* parts[2];  // [quantity][part][column]
};

template <class S, class Op>
struct SumRows {
  Op op;
  ChannelShape shape;
  ChannelArrays<Op> arrays;

  HD void operator()(const Block& block) const {
    using V = typename ComputedAs<S>::type;
    constexpr int N = kPiece<S>;
    const auto add = [](double a, double b) { return a + b; };
    for (int64_t item = block.index; item < shape.blocks(); item += block.count) {
      const int64_t channel = shape.by_parts.quotient(item), part = item - channel * shape.parts;
      const int64_t all = shape.samples * shape.per_row, end = (part + 1) * shape.per_part;
      const auto number = op.number(channel);
      LaneSums<Op, V> lane[N];
      for (int64_t piece = part * shape.per_part + block.lane; piece < (end < all ? end : all); piece += block.lanes) {
        const int64_t row = shape.by_row.quotient(piece), first = (piece - row * shape.per_row) * N;
        const int64_t at = ((row * shape.channels + channel) * shape.inner + first) * (int64_t)sizeof(S);
        add_piece(op, arrays, at, fewer(shape.inner - first, N), [&](int) { return number; }, lane);
      }
      const int64_t to = part * shape.columns + channel;
      if constexpr (Op::moments) {
        double total = 0, squares = 0;
        INNERLOOP_UNROLL
        for (int j = 0; j < N; j++) total += lane[j].total();
        const double mean = block.reduce(total, add) / shape.template count<S>(part);
        INNERLOOP_UNROLL
        for (int j = 0; j < N; j++) squares += lane[j].squares(mean);
        squares = block.reduce(squares, add);
        if (block.lane == 0) {
          arrays.parts[0][to] = mean;
          arrays.parts[1][to] = squares;
        }
      } else {
        INNERLOOP_UNROLL
        for (int q = 0; q < Op::quantities; q++) {
          double total = 0;
          INNERLOOP_UNROLL
          for (int j = 0; j < N; j++) total += (double)lane[j].sum[q].v;
          total = block.reduce(total, add);
          if (block.lane == 0) arrays.parts[q][to] = total;
        }
      }
    }
  }

  // Of elements at a byte of all arrays; number(j) is that of the j-th.
  template <class Number>
  static HD void add_piece(const Op& op, const ChannelArrays<Op>& arrays, int64_t at, int count, const Number& number,
                           LaneSums<Op, typename ComputedAs<S>::type>* lane) {
    using V = typename ComputedAs<S>::type;
    constexpr int N = kPiece<S>;
    V in[Op::inputs][N], out[Op::outputs + 1][N];
    INNERLOOP_UNROLL
    for (int i = 0; i < Op::inputs; i++) load_run<S, N>(arrays.data[i] + at, arrays.aligned, count, in[i]);
    INNERLOOP_UNROLL
    for (int j = 0; j < N; j++) {
      if (j >= count) continue;
      V of_element[Op::inputs], made[Op::outputs + 1];
      INNERLOOP_UNROLL
      for (int i = 0; i < Op::inputs; i++) of_element[i] = in[i][j];
      lane[j].add(op, of_element, number(j), made);
      INNERLOOP_UNROLL
      for (int i = 0; i < Op::outputs; i++) out[i][j] = made[i];
    }
    INNERLOOP_UNROLL
    for (int i = 0; i < Op::outputs; i++) {
      store_run<S, N>(out[i], arrays.data[Op::inputs + i] + at, arrays.aligned, count);
    }
  }
};

// The sum over the threads above each other, 2^wide side by side, of N values each: in those of row 0. `memory` is the
// block's shared memory.
template <int N>
HD void add_above(const Block& block, int wide, double (&value)[N]) {
  double* const memory = reinterpret_cast<double*>(block.shared);
  block.sync();
  INNERLOOP_UNROLL
  for (int j = 0; j < N; j++) memory[j * block.lanes + block.lane] = value[j];
  for (int half = block.lanes / 2; half >= 1 << wide; half /= 2) {
    block.sync();
    if (block.lane >= half) continue;
    INNERLOOP_UNROLL
    for (int j = 0; j < N; j++) {
      double& to = memory[j * block.lanes + block.lane];
      to = to + memory[j * block.lanes + block.lane + half];
    }
  }
  block.sync();
  const int column = block.lane & ((1 << wide) - 1);
  INNERLOOP_UNROLL
  for (int j = 0; j < N; j++) value[j] = memory[j * block.lanes + column];
}

template <class S, class Op>
struct SumColumns {
  Op op;
  ChannelShape shape;
  Cycle channel_of;  // a column's
  ChannelArrays<Op> arrays;
  static constexpr size_t shared = kChannelThreads * kPiece<S> * sizeof(double);

  HD void operator()(const Block& block) const {
    using V = typename ComputedAs<S>::type;
    constexpr int N = kPiece<S>;
    const int above = block.lane >> shape.wide, step = block.lanes >> shape.wide;
    const int beside = block.lane & ((1 << shape.wide) - 1);
    for (int64_t item = block.index; item < shape.blocks(); item += block.count) {
      const int64_t part = shape.by_tiles.quotient(item), tile = item - part * shape.tiles;
      const int64_t column = ((tile << shape.wide) + beside) * N;
      const int count = fewer(shape.columns - column, N);
      const int64_t end = (part + 1) * shape.per_part, last = end < shape.samples ? end : shape.samples;
      LaneSums<Op, V> lane[N];
      if (count > 0) {
        decltype(op.number(0)) number[N];
        auto channel = channel_of.at(column);
        INNERLOOP_UNROLL
        for (int j = 0; j < N; j++) {
          number[j] = op.number(channel.index);
          channel_of.next(channel);
        }
        for (int64_t row = part * shape.per_part + above; row < last; row += step) {
          const int64_t at = (row * shape.columns + column) * (int64_t)sizeof(S);
          SumRows<S, Op>::add_piece(op, arrays, at, count, [&](int j) { return number[j]; }, lane);
        }
      }
      const int64_t to = part * shape.columns + column;
      double value[N];
      INNERLOOP_UNROLL
      for (int q = 0; q < Op::quantities; q++) {
        INNERLOOP_UNROLL
        for (int j = 0; j < N; j++) {
          if constexpr (Op::moments) {
            value[j] = q == 0 ? lane[j].total() : lane[j].squares(value[j]);
          } else {
            value[j] = (double)lane[j].sum[q].v;
          }
        }
        add_above(block, shape.wide, value);
        if (Op::moments && q == 0) {
          INNERLOOP_UNROLL
          for (int j = 0; j < N; j++) value[j] = value[j] / shape.template count<S>(part);
        }
        INNERLOOP_UNROLL
        for (int j = 0; j < N; j++) {
          if (above == 0 && j < count) arrays.parts[q][to + j] = value[j];
        }
      }
    }
  }
};

// Adds the parts of `each` columns after another, `pitch` apart from part to part, and finishes each of `channels`.
template <class P, class Finish>
struct AddParts {
  Finish finish;
  const P* parts[2];
  int64_t channels, each, pitch, count;
  int wide;
  static constexpr size_t shared = kChannelThreads * sizeof(double);

  AddParts(const Finish& finish, const P* first, const P* second, int64_t channels, int64_t each, int64_t pitch,
           int64_t count)
      : finish(finish), parts{first, second}, channels(channels), each(each), pitch(pitch), count(count) {
    wide = log2_at_least(channels, 5);
  }
  HD int64_t blocks() const { return (channels + ((int64_t)1 << wide) - 1) >> wide; }

  // f(part, index) for this thread's.
  template <class F>
  HD void each_part(const Block& block, int64_t channel, const F& f) const {
    if (channel >= channels) return;
    for (int64_t part = block.lane >> wide; part < count; part += block.lanes >> wide) {
      for (int64_t i = channel * each; i < (channel + 1) * each; i++) f(part, part * pitch + i);
    }
  }
  HD void operator()(const Block& block) const {
    for (int64_t tile = block.index; tile < blocks(); tile += block.count) {
      const int64_t channel = (tile << wide) + (block.lane & ((1 << wide) - 1));
      double total[2] = {0, 0};
      if constexpr (Finish::moments) {
        const double n = finish.elements();
        double mean[1] = {0}, squares[1] = {0};
        each_part(block, channel, [&](int64_t part, int64_t i) { mean[0] += parts[0][i] * finish.count_of(part); });
        add_above(block, wide, mean);
        mean[0] /= n;
        each_part(block, channel, [&](int64_t part, int64_t i) {
          const double off = parts[0][i] - mean[0];
          squares[0] += parts[1][i] + off * off * finish.count_of(part);
        });
        add_above(block, wide, squares);
        total[0] = mean[0];
        total[1] = squares[0];
      } else {
        INNERLOOP_UNROLL
        for (int q = 0; q < Finish::quantities; q++) {
          if (parts[q] == nullptr) continue;
          double sum[1] = {0};
          each_part(block, channel, [&](int64_t, int64_t i) { sum[0] += (double)parts[q][i]; });
          add_above(block, wide, sum);
          total[q] = sum[0];
        }
      }
      if (channel < channels && block.lane >> wide == 0) finish(channel, total);
    }
  }
};

}  // namespace innerloop::INNERLOOP_ISA
