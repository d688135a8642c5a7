// Products by tensor cores: what CUTLASS, in cutlass/, is told of one, and which it can do.
#pragma once

#include "cuda/linear_product.h"
#include "cuda/threads.h"

namespace innerloop::INNERLOOP_ISA {

// Rows of `a` (m x k) and of `b` (k x n), or their columns, whichever lie side by side, and rows of y and z; steps in
// elements. All begin, and all steps are, at multiples of 16 bytes: copies by TMA and cp.async take no others.
struct TensorProduct {
  int m, n, k;
  const void *a, *b, *bias;
  void *y, *z;  // z gets a @ b + bias; or null
  int64_t a_step, b_step, y_step, z_step;
  bool a_by_columns, b_by_columns;
  bool accumulate;
  Act act;
};

// Whether the rows, or the columns, of a matrix are such; which, and how far apart.
inline bool lies_in_pieces(const Matrix& x, ptrdiff_t item, bool may_be_columns, int64_t& step, bool& by_columns) {
  by_columns = may_be_columns && x.row == item && x.column != item;
  const ptrdiff_t along = by_columns ? x.row : x.column, across = by_columns ? x.column : x.row;
  step = across / item;
  return across > 0 && in_pieces(x.data, along, across, (size_t)item, 16);
}

// Whether tensor cores can do it, but for dropout, which is nobody's here: then `to` says how.
inline bool fits_tensor_cores(const Product& p, ptrdiff_t item, TensorProduct& to) {
  constexpr int64_t most = INT32_MAX - 512;  // so that no tile's end overflows
  bool rows;
  to = {};
  if (p.m < 1 || p.n < 1 || p.k < 1 || p.m > most || p.n > most || p.k > most || p.drop.wanted) return false;
  if (p.z.data != nullptr && (p.keeps_output || !lies_in_pieces(p.z, item, false, to.z_step, rows))) return false;
  if (p.bias.data != nullptr && (p.bias.column != item || p.bias.row != 0 || (uintptr_t)p.bias.data % 16 != 0)) {
    return false;
  }
  if (!lies_in_pieces(p.a, item, true, to.a_step, to.a_by_columns) ||
      !lies_in_pieces(p.b, item, true, to.b_step, to.b_by_columns) ||
      !lies_in_pieces(p.y, item, false, to.y_step, rows) || (to.a_by_columns && to.b_by_columns)) {
    return false;
  }
  // Pieces of 16 bytes that hang over an edge are not read or written in part.
  const int64_t piece = 16 / item;
  if (p.n % piece != 0 || (to.a_by_columns ? p.m : p.k) % piece != 0 || (to.b_by_columns && p.k % piece != 0)) {
    return false;
  }
  to.m = (int)p.m;
  to.n = (int)p.n;
  to.k = (int)p.k;
  to.a = p.a.data;
  to.b = p.b.data;
  to.bias = p.bias.data;
  to.y = p.y.data;
  to.z = p.z.data;
  to.accumulate = p.accumulate;
  to.act = p.act;
  return true;
}

// Each queues it; -> cudaError_t, or kNotServed: then nothing was queued. Those for Hopper know neither act nor z.
constexpr int kNotServed = -1;
int multiply_tf32(const Queue& queue, const TensorProduct& p);
int multiply_half(const Queue& queue, Dtype dtype, const TensorProduct& p);
int multiply_hopper_bf16(const Queue& queue, const TensorProduct& p);
int multiply_hopper_f16(const Queue& queue, const TensorProduct& p);

// What follows a product that did not do it: y = drop(act(sums)), and z gets act(sums) if it has data. Blocks take 16
// rows by 32 pieces of neighbouring columns. y or z may be sums.
template <class S>
class FinishPass {
  using V = typename ComputedAs<S>::type;
  static constexpr int kPiece = 16 / sizeof(S), kRows = 8, kAhead = 2, kColumns = kWarp * kPiece;
  using Part = Lanes<typename V::scalar, kPiece>;

 public:
  static constexpr int threads = kRows * kWarp;
  static constexpr size_t shared_bytes = 0;

  FinishPass(int64_t m, int64_t n, const Matrix& sums, const Matrix& y, const Matrix& z, const Act& act,
             const Drop& drop)
      : m(m), n(n), sums(sums), y(y), z(z), act(act), drop(drop) {
    auto pieces = [](const Matrix& x) { return in_pieces(x.data, x.column, x.row, sizeof(S), 16); };
    sums_pieces = pieces(sums);
    y_pieces = pieces(y);
    z_pieces = pieces(z);
  }
  HD int64_t strips() const { return (n + kColumns - 1) / kColumns; }
  HD int64_t tasks() const { return (m + kRows * kAhead - 1) / (kRows * kAhead) * strips(); }

  HD void operator()(const Block& block) const {
    for (int64_t task = block.index; task < tasks(); task += block.count) {
      const int64_t i = task / strips() * (kRows * kAhead) + block.lane / kWarp;
      const int64_t j = task % strips() * kColumns + block.lane % kWarp * kPiece;
      const int count = n - j >= kPiece ? kPiece : n > j ? (int)(n - j) : 0;
      Part part[kAhead];
      INNERLOOP_UNROLL
      for (int a = 0; a < kAhead; a++) {
        load_lanes<S>(sums, sums_pieces, i + a * kRows, j, i + a * kRows < m ? count : 0, part[a]);
      }
      INNERLOOP_UNROLL
      for (int a = 0; a < kAhead; a++) {
        const int64_t row = i + a * kRows;
        if (row >= m || count == 0) continue;
        part[a] = activate(act, part[a]);
        if (z.data != nullptr) store_lanes<S>(part[a], z, z_pieces, row, j, count);
        if (drop.wanted) part[a] = innerloop::INNERLOOP_ISA::drop(drop, row, j, part[a]);
        store_lanes<S>(part[a], y, y_pieces, row, j, count);
      }
    }
  }

 private:
  int64_t m, n;
  Matrix sums, y, z;
  bool sums_pieces, y_pieces, z_pieces;
  Act act;
  Drop drop;
};

}  // namespace innerloop::INNERLOOP_ISA
