// The bodies of layer_norm and rms_norm, grown from rules/norms.h. A row belongs to a warp or, where it is longer, to a
// block; it is read once, and waits in shared memory for its statistics. Each thread reads there what it wrote itself.
#pragma once

#include "cuda/list.h"
#include "cuda/pieces.h"
#include "cuda/threads.h"
#include "rules/norms.h"

namespace innerloop::INNERLOOP_ISA {

constexpr int kNormThreads = 256;
constexpr int64_t kWarpRow = 2048;         // bytes of the longest row that a warp takes
constexpr int64_t kMostShared = 96 << 10;  // bytes that a block asks for: what sm_80 and all after it have
// Parts of dweight and dbias, several blocks of each multiprocessor that a GPU of today has.
constexpr int64_t kNormParts = 528;

// The pieces of a row, and what lies where. Every array of rows is (rows, length) without gaps.
template <class S>
struct RowPieces {
  using V = typename ComputedAs<S>::type;
  using T = typename V::scalar;
  static constexpr int N = kPiece<S>;

  int64_t rows, length, pieces;
  bool aligned;  // every row, and what has one element a column
  bool kept;     // rows wait in shared memory; else they are read again

  // The threads that share a row.
  template <bool warp>
  struct Group {
    int64_t index, count;
    int lane, lanes;
    HD explicit Group(const Block& block) {
      if (warp) {
        const int warps = block.lanes / kWarp;
        index = block.index * warps + block.lane / kWarp;
        count = block.count * warps;
        lane = block.lane % kWarp;
        lanes = kWarp;
      } else {
        index = block.index;
        count = block.count;
        lane = block.lane;
        lanes = block.lanes;
      }
    }
  };
  template <bool warp>
  static HD V sum(const Block& block, V value) {
    if constexpr (warp) {
      for (int mask = kWarp / 2; mask > 0; mask /= 2) value = value + V(block.shuffle_xor(value.v, mask));
      return value;
    } else {
      return V(block.reduce(value.v, [](T a, T b) { return a + b; }));
    }
  }

  HD int count(int64_t piece) const { return fewer(length - piece * N, N); }
  HD Piece<S, N> read(const char* row, int64_t piece) const {
    Piece<S, N> p = {};
    const int n = count(piece);
    const char* const from = row + piece * 16;
    if (aligned && n == N) return *reinterpret_cast<const Piece<S, N>*>(from);
    INNERLOOP_UNROLL
    for (int j = 0; j < N; j++) {
      if (j < n) p.lane[j] = reinterpret_cast<const Piece<S, 1>*>(from)[j].lane[0];
    }
    return p;
  }
  // Again, from where the row waits.
  HD void read_again(const char* row, const char* waiting, int64_t piece, V (&to)[N]) const {
    const Piece<S, N> p = kept ? reinterpret_cast<const Piece<S, N>*>(waiting)[piece] : read(row, piece);
    INNERLOOP_UNROLL
    for (int j = 0; j < N; j++) to[j] = widen(p.lane[j]);
  }
  // f(piece, values of each array) for this thread's pieces of some rows, which then wait.
  template <int Arrays, class G, class F>
  HD void read_rows(const G& group, const char* const (&row)[Arrays], char* const (&waiting)[Arrays],
                    const F& f) const {
    constexpr int together = 4 / Arrays;  // pieces of each that a thread asks for before it uses one
    for (int64_t first = group.lane; first < pieces; first += together * group.lanes) {
      Piece<S, N> raw[together][Arrays];
      INNERLOOP_UNROLL
      for (int k = 0; k < together; k++) {
        const int64_t piece = first + k * group.lanes;
        if (piece >= pieces) continue;
        INNERLOOP_UNROLL
        for (int a = 0; a < Arrays; a++) raw[k][a] = read(row[a], piece);
      }
      INNERLOOP_UNROLL
      for (int k = 0; k < together; k++) {
        const int64_t piece = first + k * group.lanes;
        if (piece >= pieces) continue;
        V value[Arrays][N];
        INNERLOOP_UNROLL
        for (int a = 0; a < Arrays; a++) {
          if (kept) reinterpret_cast<Piece<S, N>*>(waiting[a])[piece] = raw[k][a];
          INNERLOOP_UNROLL
          for (int j = 0; j < N; j++) value[a][j] = widen(raw[k][a].lane[j]);
        }
        f(piece, value);
      }
    }
  }
  // One element a column, or `otherwise` throughout if there is no such array.
  HD void read_columns(const char* of_columns, int64_t piece, T otherwise, V (&to)[N]) const {
    if (of_columns != nullptr) return load_run<S, N>(of_columns + piece * 16, aligned, count(piece), to);
    INNERLOOP_UNROLL
    for (int j = 0; j < N; j++) to[j] = V(otherwise);
  }
};

template <class Rule, class S, bool warp>
struct RowNormForward {
  using Pieces = RowPieces<S>;
  using V = typename Pieces::V;
  using T = typename Pieces::T;
  static constexpr int N = Pieces::N;
  Pieces pieces;
  RowNormArrays a;

  HD void operator()(const Block& block) const {
    const typename Pieces::template Group<warp> group(block);
    char* const waiting = block.shared + (warp ? block.lane / kWarp * pieces.pieces * 16 : 0);
    const V n((T)pieces.length);
    for (int64_t row = group.index; row < pieces.rows; row += group.count) {
      const int64_t at = row * pieces.length * (int64_t)sizeof(S);
      const char* const x = a.x + at;
      V sum_d(0), sum_dd(0), base(0), above(0);
      pieces.read_rows(group, {x}, {waiting}, [&](int64_t, const V(&value)[1][N]) {
        INNERLOOP_UNROLL
        for (int j = 0; j < N; j++) {  // what is not there is 0
          if (Rule::has_mean) {
            sum_d = sum_d + value[0][j];
          } else {
            sum_dd = fma(value[0][j], value[0][j], sum_dd);
          }
        }
      });
      if constexpr (Rule::has_mean) {
        base = Pieces::template sum<warp>(block, sum_d) / n;
        sum_d = V(0);
        for (int64_t piece = group.lane; piece < pieces.pieces; piece += group.lanes) {
          V v[N];
          pieces.read_again(x, waiting, piece, v);
          const int count = pieces.count(piece);
          INNERLOOP_UNROLL
          for (int j = 0; j < N; j++) {
            if (j >= count) continue;
            const V d = v[j] - base;
            sum_d = sum_d + d;
            sum_dd = fma(d, d, sum_dd);
          }
        }
        sum_d = Pieces::template sum<warp>(block, sum_d);
        above = sum_d / n;
      }
      sum_dd = Pieces::template sum<warp>(block, sum_dd);
      const V rstd = reciprocal_deviation(Rule::variance(sum_d, sum_dd, n), V((T)a.eps));
      const V shift = -above * rstd;
      for (int64_t piece = group.lane; piece < pieces.pieces; piece += group.lanes) {
        V v[N], weight[N], bias[N];
        pieces.read_again(x, waiting, piece, v);
        pieces.read_columns(a.weight, piece, 1, weight);
        pieces.read_columns(a.bias, piece, 0, bias);
        INNERLOOP_UNROLL
        for (int j = 0; j < N; j++) v[j] = fma(fma(v[j] - base, rstd, shift), weight[j], bias[j]);
        store_run<S, N>(v, a.out + at + piece * 16, pieces.aligned, pieces.count(piece));
      }
      if (group.lane == 0 && a.saved != nullptr) {
        T* const saved = reinterpret_cast<T*>(a.saved);
        if (Rule::has_mean) saved[row] = (base + above).v;
        saved[row + (Rule::has_mean ? pieces.rows : 0)] = rstd.v;
      }
    }
  }
};

// dx, and parts of dweight and dbias: those of a warp or block are summed where only it writes, in shared memory or,
// where a row is very long, in the block's part.
template <class Rule, class S, bool warp>
struct RowNormBackward {
  using Pieces = RowPieces<S>;
  using V = typename Pieces::V;
  using T = typename Pieces::T;
  static constexpr int N = Pieces::N;
  Pieces pieces;
  RowNormArrays a;
  bool sums, sums_in_shared;
  T* parts;  // [dweight, dbias][block][pieces N]

  HD int64_t pitch() const { return pieces.pieces * N; }
  static size_t shared(const Pieces& pieces, bool kept, bool sums) {
    return (size_t)pieces.pieces * ((kept ? 2 * 16 : 0) + (sums ? 2 * N * sizeof(T) : 0)) *
           (warp ? kNormThreads / kWarp : 1);
  }

  HD void operator()(const Block& block) const {
    const typename Pieces::template Group<warp> group(block);
    const int64_t row_bytes = pieces.pieces * 16, sum_bytes = pitch() * (int64_t)sizeof(T);
    const int64_t own = (pieces.kept ? 2 * row_bytes : 0) + (sums_in_shared ? 2 * sum_bytes : 0);
    char* const memory = block.shared + (warp ? block.lane / kWarp * own : 0);
    char* const waiting[2] = {memory, memory + row_bytes};
    char* sum[2] = {memory + (pieces.kept ? 2 * row_bytes : 0), nullptr};
    sum[1] = sum[0] + sum_bytes;
    if (sums && !sums_in_shared) {
      for (int i = 0; i < 2; i++) sum[i] = reinterpret_cast<char*>(parts + (i * block.count + block.index) * pitch());
    }
    if (sums) {
      for (int64_t piece = group.lane; piece < pieces.pieces; piece += group.lanes) {
        V zero[N];
        INNERLOOP_UNROLL
        for (int j = 0; j < N; j++) zero[j] = V(0);
        for (char* p : sum) store_run<T, N>(zero, p + piece * N * (int)sizeof(T), true, N);
      }
    }
    for (int64_t row = group.index; row < pieces.rows; row += group.count) one_row(block, group, row, waiting, sum);
    if (!sums || !sums_in_shared) return;
    block.sync();
    const int warps = warp ? block.lanes / kWarp : 1;
    for (int64_t i = block.lane; i < pitch(); i += block.lanes) {
      for (int s = 0; s < 2; s++) {
        const char* const first = block.shared + (sum[s] - memory);
        V total(0);
        for (int w = 0; w < warps; w++) total = total + V(reinterpret_cast<const T*>(first + w * own)[i]);
        parts[(s * block.count + block.index) * pitch() + i] = total.v;
      }
    }
  }

  template <class G>
  HD void one_row(const Block& block, const G& group, int64_t row, char* const (&waiting)[2],
                  char* const (&sum)[2]) const {
    const int64_t at = row * pieces.length * (int64_t)sizeof(S);
    const char *const dy = a.dy + at, *const x = a.x + at;
    const T* const saved = reinterpret_cast<const T*>(a.saved);
    const V mean(Rule::has_mean ? saved[row] : T(0)), rstd(saved[row + (Rule::has_mean ? pieces.rows : 0)]);
    const V n((T)pieces.length);
    const auto xhat = [&](V x) { return (Rule::has_mean ? x - mean : x) * rstd; };
    V sum_g(0), sum_gx(0);
    pieces.read_rows(group, {dy, x}, waiting, [&](int64_t piece, const V(&value)[2][N]) {
      V weight[N];
      pieces.read_columns(a.weight, piece, 1, weight);
      const int count = pieces.count(piece);
      INNERLOOP_UNROLL
      for (int j = 0; j < N; j++) {
        if (j >= count) continue;
        const V g = value[0][j] * weight[j];
        if (Rule::has_mean) sum_g = sum_g + g;
        sum_gx = fma(g, xhat(value[1][j]), sum_gx);
      }
    });
    const V mean_g = Rule::has_mean ? Pieces::template sum<warp>(block, sum_g) / n : V(0);
    const V mean_gx = Pieces::template sum<warp>(block, sum_gx) / n;
    for (int64_t piece = group.lane; piece < pieces.pieces; piece += group.lanes) {
      V of_y[N], v[N], weight[N];
      pieces.read_again(dy, waiting[0], piece, of_y);
      pieces.read_again(x, waiting[1], piece, v);
      pieces.read_columns(a.weight, piece, 1, weight);
      INNERLOOP_UNROLL
      for (int j = 0; j < N; j++) v[j] = xhat(v[j]);
      if (sums) {
        V total[N];
        char* const dw = sum[0] + piece * N * (int)sizeof(T);
        char* const db = sum[1] + piece * N * (int)sizeof(T);
        load_run<T, N>(dw, true, N, total);
        INNERLOOP_UNROLL
        for (int j = 0; j < N; j++) total[j] = fma(of_y[j], v[j], total[j]);
        store_run<T, N>(total, dw, true, N);
        if (a.dbias != nullptr) {
          load_run<T, N>(db, true, N, total);
          INNERLOOP_UNROLL
          for (int j = 0; j < N; j++) total[j] = total[j] + of_y[j];
          store_run<T, N>(total, db, true, N);
        }
      }
      INNERLOOP_UNROLL
      for (int j = 0; j < N; j++) v[j] = Rule::backward(of_y[j] * weight[j], v[j], mean_g, mean_gx) * rstd;
      store_run<S, N>(v, a.out + at + piece * 16, pieces.aligned, pieces.count(piece));
    }
  }
};

// dweight and dbias, from the sum of their parts.
template <class S>
struct NormGradients {
  using V = typename ComputedAs<S>::type;
  static constexpr int quantities = 2;
  static constexpr bool moments = false;
  char *dweight, *dbias;  // or null

  HD void operator()(int64_t column, const double* total) const {
    if (dweight != nullptr) store_one<S>(V((typename V::scalar)total[0]), dweight, column);
    if (dbias != nullptr) store_one<S>(V((typename V::scalar)total[1]), dbias, column);
  }
};

}  // namespace innerloop::INNERLOOP_ISA
