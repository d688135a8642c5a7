// Rows along one axis: how they are shared out among a grid's threads, and how a thread reads and writes its part.
//
// Three ways, each a tag that bodies are compiled for:
//   LanesARow    some lanes of a warp take a row, which stays in their registers
//   BlockARow    a block takes a row, of which shared memory keeps what fits; the rest is read again, from the L2
//   AcrossRows   where the elements of a row do not lie side by side: neighbouring threads take neighbouring rows,
//   which
//                are read twice; of long rows, eight threads take one
#pragma once

#include "cuda/list.h"
#include "cuda/storage.h"
#include "cuda/threads.h"
#include "simd/math.h"

namespace innerloop::INNERLOOP_ISA {

struct LanesARow {
  static constexpr int threads = 256;
  static constexpr bool once = true, across = false, keeps = false;
};
struct BlockARow {
  static constexpr int threads = 512;
  static constexpr bool once = false, across = false, keeps = true;
};
struct AcrossRows {
  static constexpr int threads = 256;
  static constexpr bool once = false, across = true, keeps = false;
};

constexpr int kPiecesAtOnce = 8;         // of all inputs together: what a thread of LanesARow keeps is 32 registers
constexpr size_t kMostKept = 200 << 10;  // of the 227 KB that a block of sm_90 can have
constexpr size_t kAcrossBytes = AcrossRows::threads * sizeof(double);

// How a launch goes over rows, whatever its arrays are.
struct RowPlan {
  RowShape shape;
  int64_t rows;
  int shift;     // 2^shift threads take a row
  bool in_step;  // all arrays lie alike between two multiples of 16
  int64_t kept;  // pieces of each input in shared memory
};

// The threads that have a row together, seen by one of them.
template <class Layout>
struct RowGroup {
  const Block& block;
  int rank, size;

  template <class T, class Op>
  HD T reduce(T value, const Op& op) const {
    if constexpr (Layout::across) {
      if (size == 1) return value;
      T* of_thread = reinterpret_cast<T*>(block.shared);
      const int columns = block.lanes / size, column = block.lane % columns;
      of_thread[block.lane] = value;
      block.sync();
      value = of_thread[column];
      for (int i = 1; i < size; i++) value = op(value, of_thread[column + i * columns]);
      block.sync();  // before the next reduce writes
      return value;
    } else if constexpr (Layout::once) {
      for (int mask = size / 2; mask > 0; mask /= 2) value = op(value, block.shuffle_xor(value, mask));
      return value;
    } else {
      return block.reduce(value, op);
    }
  }
  template <class T>
  HD Vec<T, 1> sum(Vec<T, 1> value) const {
    return reduce(value.v, [](T a, T b) { return a + b; });
  }
  template <class T>
  HD Vec<T, 1> largest(Vec<T, 1> value) const {
    return reduce(value.v, [](T a, T b) { return a > b ? a : b; });
  }
};

// f(group, row, active): a block's threads go through it together, so that they can wait for each other; a thread whose
// group has no row left is not active.
template <class Layout, class F>
HD void for_rows(const Block& block, const RowPlan& plan, const F& f) {
  const int size = 1 << plan.shift, at_once = block.lanes >> plan.shift;
  const int slot = Layout::across ? block.lane % at_once : block.lane >> plan.shift;
  const RowGroup<Layout> group = {block, Layout::across ? block.lane / at_once : block.lane & (size - 1), size};
  for (int64_t first = block.index * at_once; first < plan.rows; first += block.count * at_once) {
    f(group, first + slot, first + slot < plan.rows);
  }
}

// A thread's part of one row of some inputs and an output of S, all of one shape: pieces rank, rank + size ... of those
// that the row is cut into, at multiples of 16 bytes where the arrays are in step. The first and the last may hold less
// than N elements; the others are `fill` when read. So which elements a thread sums up, and the last bits of sums,
// depend on where a row begins between two multiples of 16, but not on the grid or other rows.
template <class S, int Inputs, class Layout>
struct AxisRow {
  static constexpr int N = Layout::across ? 1 : 16 / (int)sizeof(S);
  // Pieces read at a time. Of BlockARow, so few that the registers of two blocks suffice.
  static constexpr int U = Layout::once ? kPiecesAtOnce / Inputs : Layout::across ? 8 : sizeof(S) == 2 ? 2 : 4;
  static constexpr bool once = Layout::once;
  using V = typename ComputedAs<S>::type;
  using Raw = Piece<S, N>;
  using One = Piece<S, 1>;

  const RowGroup<Layout>& group;
  const char* from[Inputs];  // where piece 0 begins
  char* to;
  int64_t step;  // bytes from piece to piece
  int64_t length, pieces, kept;
  int lead;  // elements of piece 0 that are not the row's
  bool in_step;
  S fill;  // of the first input; the others' is 0
  Raw raw[Inputs][U];

  // `output` may be null. A row that is not active has no pieces.
  HD AxisRow(const RowGroup<Layout>& group, const RowPlan& plan, const char* const* inputs, char* output, int64_t row,
             bool active, V filled)
      : group(group), length(plan.shape.length), kept(plan.kept), lead(0), in_step(plan.in_step) {
    int64_t first = row * length;
    if constexpr (Layout::across) first = row + row / plan.shape.inner * (length - 1) * plan.shape.inner;
    step = Layout::across ? plan.shape.inner * (int64_t)sizeof(S) : N * (int64_t)sizeof(S);
    first *= (int64_t)sizeof(S);
    if constexpr (!Layout::across) {
      if (in_step) lead = (int)(reinterpret_cast<uintptr_t>(inputs[0] + first) % 16 / sizeof(S));
      first -= lead * (int64_t)sizeof(S);
    }
    for (int k = 0; k < Inputs; k++) from[k] = inputs[k] + first;
    to = output == nullptr ? nullptr : output + first;
    pieces = active ? (lead + length + N - 1) / N : 0;
    narrow(filled, fill);
  }

  HD bool inside(int64_t element) const { return element >= 0 && element < length; }
  HD bool whole(int64_t piece) const {
    if constexpr (N == 1) return true;
    const int64_t first = piece * N - lead;
    return in_step && first >= 0 && first + N <= length;
  }

  HD Raw load(int k, int64_t piece) const {
    const char* p = from[k] + piece * step;
    if (whole(piece)) return *reinterpret_cast<const Raw*>(p);
    Raw raw;
    INNERLOOP_UNROLL
    for (int i = 0; i < N; i++) {
      raw.lane[i] = k == 0 ? fill : S{};
      if (inside(piece * N - lead + i)) raw.lane[i] = reinterpret_cast<const One*>(p)[i].lane[0];
    }
    return raw;
  }
  HD void store(int64_t piece, const V* y) const {
    char* p = to + piece * step;
    Raw raw;
    INNERLOOP_UNROLL
    for (int i = 0; i < N; i++) narrow(y[i], raw.lane[i]);
    if (whole(piece)) {
      *reinterpret_cast<Raw*>(p) = raw;
      return;
    }
    INNERLOOP_UNROLL
    for (int i = 0; i < N; i++) {
      if (inside(piece * N - lead + i)) reinterpret_cast<One*>(p)[i].lane[0] = raw.lane[i];
    }
  }
  HD V element(int64_t c) const {  // of the first input
    const char* p = from[0] + (Layout::across ? c * step : (lead + c) * (int64_t)sizeof(S));
    return widen(reinterpret_cast<const One*>(p)->lane[0]);
  }
  HD V value(int k, int u, int i) const { return widen(raw[k][u].lane[i]); }

  // f(piece, number of its first element, its place u) for the pieces that were read together from `first` on.
  template <class F>
  HD void each(int64_t first, const F& f) const {
    INNERLOOP_UNROLL
    for (int u = 0; u < U; u++) {
      const int64_t piece = first + (int64_t)u * group.size;
      if (piece < pieces) f(piece, piece * N - lead, u);
    }
  }

  HD Raw* near(int k, int64_t piece) const { return reinterpret_cast<Raw*>(group.block.shared) + k * kept + piece; }

  // f(first) for the pieces of a round, which `each` then goes through.
  template <class F>
  HD void read(const F& f) {
    for (int64_t first = group.rank; first < pieces; first += (int64_t)U * group.size) {
      each(first, [&](int64_t piece, int64_t, int u) {
        INNERLOOP_UNROLL
        for (int k = 0; k < Inputs; k++) raw[k][u] = load(k, piece);
      });
      if constexpr (Layout::keeps) {
        each(first, [&](int64_t piece, int64_t, int u) {
          INNERLOOP_UNROLL
          for (int k = 0; k < Inputs; k++) {
            if (piece < kept) *near(k, piece) = raw[k][u];
          }
        });
      }
      f(first);
      if constexpr (once) break;
    }
  }
  // The same after `read`, wherever the pieces are then. A thread finds what it read itself.
  template <class F>
  HD void read_again(const F& f) {
    for (int64_t first = group.rank; first < pieces; first += (int64_t)U * group.size) {
      if constexpr (!once) {
        each(first, [&](int64_t piece, int64_t, int u) {
          INNERLOOP_UNROLL
          for (int k = 0; k < Inputs; k++) {
            raw[k][u] = Layout::keeps && piece < kept ? *near(k, piece) : load(k, piece);
          }
        });
      }
      f(first);
      if constexpr (once) break;
    }
  }
  // Writes f(number of an element) to the whole row.
  template <class F>
  HD void fill_with(const F& f) const {
    for (int64_t piece = group.rank; piece < pieces; piece += group.size) {
      V y[N];
      INNERLOOP_UNROLL
      for (int i = 0; i < N; i++) y[i] = f(piece * N - lead + i);
      store(piece, y);
    }
  }
};

// e^x where x <= 0. Of logits in half precision the hardware's: with a relative error of 2^-22 + |x| 2^-24 it is far
// below what their rounding takes, and the polynomial's twenty operations would be slower than the memory.
template <class S, class V>
HD V exponential_of(V x) {
#ifdef __CUDA_ARCH__
  if constexpr (sizeof(S) == 2) return __expf(x.v);
#endif
  return exp_below_1(x);
}

// Of a row x: its largest element and the sum of exp(x - top), which is NaN where the row holds NaN or +inf or nothing
// but -inf.
template <class V>
struct RowTotal {
  V top, total;
};

// One pass over the row. Each thread takes exponentials relative to the largest element that it has seen, and makes
// them relative to the row's in the end. also.begin(base), also(element, u, i, z) and also.end(row) see it, too:
// elements of a round after the base they are relative to, which is finite unless an element is not.
template <class S, int Inputs, class Layout, class Also>
HD RowTotal<typename ComputedAs<S>::type> exponentials(AxisRow<S, Inputs, Layout>& row, Also& also) {
  using V = typename ComputedAs<S>::type;
  using T = typename V::scalar;
  V top(-(T)INFINITY), total(0);
  row.read([&](int64_t first) {
    V here = top;
    row.each(first, [&](int64_t, int64_t, int u) {
      INNERLOOP_UNROLL
      for (int i = 0; i < row.N; i++) here = larger(row.value(0, u, i), here);
    });
    if (!row.once && here.v > top.v) total = total * exponential_of<S>(top - here);
    top = here;
    // Nothing but -inf so far: relative to 0, so that these count as 0 if something larger follows.
    const V base = top.v == -(T)INFINITY ? V(0) : top;
    also.begin(base);
    V sum(0);
    row.each(first, [&](int64_t, int64_t element, int u) {
      INNERLOOP_UNROLL
      for (int i = 0; i < row.N; i++) {
        const V z = row.value(0, u, i);
        sum = sum + exponential_of<S>(z - base);
        also(element + i, u, i, z);
      }
    });
    total = total + sum;
  });
  const V row_top = row.group.largest(top);
  also.end(row_top);
  if (top.v != row_top.v) total = total * exponential_of<S>(top - row_top);
  total = row.group.sum(total);
  return {row_top, row_top.v == -(T)INFINITY ? V((T)NAN) : total};
}

}  // namespace innerloop::INNERLOOP_ISA
