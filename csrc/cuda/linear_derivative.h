// The gradient of a layer's pre-activation, dz = dy act'(saved), in one pass that also sums its columns.
#pragma once

#include "cuda/linear_epilogue.h"
#include "cuda/threads.h"

namespace innerloop::INNERLOOP_ISA {

// Rows are cut into chunks, at most 256, whose sums are added up in order: what is added to what depends on the shape
// alone. A block takes a chunk by 32 pieces of neighbouring columns; its 8 warps take every eighth row.
template <class S>
class Derivative {
  using V = typename ComputedAs<S>::type;
  using T = typename V::scalar;
  static constexpr int kPiece = 16 / sizeof(S), kRows = 8, kAhead = 2;
  using Part = Lanes<T, kPiece>;

 public:
  static constexpr int threads = kRows * kWarp, columns = kWarp * kPiece;
  static constexpr size_t shared_bytes = (kRows - 1) * columns * sizeof(T);

  // Data of `saved` is null for the identity, that of dz where nobody asks for it.
  Derivative(int64_t m, int64_t n, const Matrix& dy, const Matrix& saved, const Matrix& dz, const Act& act,
             const Drop& drop)
      : m(m), n(n), dy(dy), saved(saved), dz(dz), act(act), drop(drop) {
    chunk_rows = (m + 255) / 256 < 128 ? 128 : (m + 255) / 256;
    dy_pieces = in_pieces(dy.data, dy.column, dy.row, sizeof(S), 16);
    saved_pieces = in_pieces(saved.data, saved.column, saved.row, sizeof(S), 16);
    dz_pieces = in_pieces(dz.data, dz.column, dz.row, sizeof(S), 16);
  }
  HD int64_t chunks() const { return (m + chunk_rows - 1) / chunk_rows; }
  HD int64_t strips() const { return (n + columns - 1) / columns; }

  void* sums = nullptr;  // of each chunk's columns in what is computed in, n apart; or null

  HD void operator()(const Block& block) const {
    const int warp = block.lane / kWarp;
    for (int64_t task = block.index; task < chunks() * strips(); task += block.count) {
      const int64_t chunk = task / strips(), j = (task % strips()) * columns + block.lane % kWarp * kPiece;
      const int64_t end = (chunk + 1) * chunk_rows < m ? (chunk + 1) * chunk_rows : m;
      const int count = n - j >= kPiece ? kPiece : n > j ? (int)(n - j) : 0;
      Part sum = {};
      for (int64_t i = chunk * chunk_rows + warp; i < end; i += kAhead * kRows) {
        Part gradient[kAhead], kept[kAhead];
        INNERLOOP_UNROLL
        for (int a = 0; a < kAhead; a++) {
          const int64_t row = i + a * kRows;
          const int here = row < end ? count : 0;
          load_lanes<S>(dy, dy_pieces, row, j, here, gradient[a]);
          if (saved.data != nullptr) load_lanes<S>(saved, saved_pieces, row, j, here, kept[a]);
        }
        INNERLOOP_UNROLL
        for (int a = 0; a < kAhead; a++) {
          const int64_t row = i + a * kRows;
          if (row >= end || count == 0) continue;
          if (drop.wanted) gradient[a] = innerloop::INNERLOOP_ISA::drop(drop, row, j, gradient[a]);
          if (saved.data != nullptr) gradient[a] = derive(act, kept[a], gradient[a]);
          if (dz.data != nullptr) store_lanes<S>(gradient[a], dz, dz_pieces, row, j, count);
          INNERLOOP_UNROLL
          for (int e = 0; e < kPiece; e++) sum.lane[e] = sum.lane[e] + gradient[a].lane[e];
        }
      }
      if (sums != nullptr) add_up(block, warp, sum, static_cast<T*>(sums) + chunk * n + j, count);
    }
  }

 private:
  int64_t m, n, chunk_rows;
  Matrix dy, saved, dz;
  bool dy_pieces, saved_pieces, dz_pieces;
  Act act;
  Drop drop;

  HD static void add_up(const Block& block, int warp, const Part& sum, T* to, int count) {
    T* shared = reinterpret_cast<T*>(block.shared) + block.lane % kWarp * kPiece;
    if (warp > 0) {
      INNERLOOP_UNROLL
      for (int e = 0; e < kPiece; e++) shared[(warp - 1) * columns + e] = sum.lane[e].v;
    }
    block.sync();
    if (warp == 0) {
      INNERLOOP_UNROLL
      for (int e = 0; e < kPiece; e++) {
        V all = sum.lane[e];
        for (int w = 1; w < kRows; w++) all = all + V(shared[(w - 1) * columns + e]);
        if (e < count) to[e] = all.v;
      }
    }
    block.sync();
  }
};

// The chunks' sums, added up; db goes on from what it holds if asked to.
template <class S>
struct ColumnSums {
  using V = typename ComputedAs<S>::type;
  using T = typename V::scalar;
  int64_t chunks, n;
  const void* sums;
  Strided db;
  bool accumulate;

  HD void operator()(const Block& block) const {
    const Thread thread = block.thread();
    const T* from = static_cast<const T*>(sums);
    for (int64_t j = thread.index; j < n; j += thread.count) {
      char* to = db.data + j * db.stride;
      V sum = T(0);
      if (accumulate) load_piece<S, 1>(to, true, 1, &sum);
      for (int64_t c = 0; c < chunks; c++) sum = sum + V(from[c * n + j]);
      store_piece<S, 1>(&sum, to, true, 1);
    }
  }
};

}  // namespace innerloop::INNERLOOP_ISA
