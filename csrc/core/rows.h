// Plans a walk over the rows along one axis: which arrays' rows are worked on in place, which in scratch.
#pragma once

#include "core/call.h"
#include "core/walk.h"

namespace innerloop {

// The view without one axis: where each row starts. A view of no axes is one row of one element.
inline TensorView without_axis(const TensorView& t, int axis) {
  TensorView rows = t;
  if (rows.ndim == 0) return rows;
  rows.ndim--;
  for (int d = axis; d < rows.ndim; d++) {
    rows.shape[d] = t.shape[d + 1];
    rows.strides[d] = t.strides[d + 1];
  }
  return rows;
}

// Contiguous memory as a view of this shape.
inline TensorView contiguous_view(void* data, Dtype dtype, const TensorView& shape) {
  TensorView t = shape;
  t.data = static_cast<char*>(data);
  t.dtype = dtype;
  ptrdiff_t stride = (ptrdiff_t)dtype_size(dtype);
  for (int d = t.ndim - 1; d >= 0; d--) {
    t.strides[d] = stride;
    stride *= (ptrdiff_t)t.shape[d];
  }
  return t;
}

// Bytes from one row of n elements to the next: an odd number of lines, as rows of a power of two would share a set of
// the cache.
inline ptrdiff_t row_pitch(int64_t n, ptrdiff_t item) { return ((n * item + 63) / 64 | 1) * 64; }

// Memory as a matrix whose rows lie `pitch` bytes apart.
inline TensorView matrix_view(const char* name, void* data, Dtype dtype, int64_t rows, int64_t columns,
                              ptrdiff_t pitch) {
  TensorView t;
  t.name = name;
  t.data = static_cast<char*>(data);
  t.dtype = dtype;
  t.writeable = true;
  t.ndim = 2;
  t.shape[0] = rows;
  t.shape[1] = columns;
  t.strides[0] = pitch;
  t.strides[1] = (ptrdiff_t)dtype_size(dtype);
  return t;
}

// An operand of a walk over rows: all that is wanted of its row, or one element for it.
struct RowOperand {
  const TensorView* view;
  bool whole;  // has the axis; else the view is of the rows' shape
};

// Elements. A broadcast row may be longer than any memory: up to here, sizes in bytes cannot overflow.
constexpr int64_t kLongestRow = int64_t(1) << 48;

// The arrays hold at least one element. The last operand is the output.
template <int Operands>
Rows<Operands> plan_rows(const RowOperand (&operands)[Operands], int axis, int64_t length,
                         Order order = Order::memory) {
  constexpr size_t cache = 256 << 10;  // what the rows at once should fit: a second-level cache, or half of one
  TensorView starts[Operands];
  const TensorView* views[Operands];
  for (int op = 0; op < Operands; op++) {
    starts[op] = operands[op].whole ? without_axis(*operands[op].view, axis) : *operands[op].view;
    views[op] = &starts[op];
  }
  Rows<Operands> rows;
  rows.walk = plan_walk<Operands>(views, 0, order);
  if (length > kLongestRow) throw std::bad_alloc();
  rows.length = length;
  const ptrdiff_t item = (ptrdiff_t)dtype_size(operands[Operands - 1].view->dtype);
  rows.pitch = row_pitch(length, item);
  int gathered = 0;
  for (int op = 0; op < Operands; op++) {
    const TensorView& t = *operands[op].view;
    rows.step[op] = operands[op].whole && t.ndim > 0 ? t.strides[axis] : item;
    rows.gathered[op] = length > 1 && rows.step[op] != item;
    gathered += rows.gathered[op];
  }
  rows.block = kRowsAtOnce;
  while (gathered && rows.block > 4 && rows.block * rows.pitch * gathered > (ptrdiff_t)cache) rows.block /= 2;
  return rows;
}

// What a task's scratch begins with: see kRowBlock.
inline size_t tops_bytes(int64_t length) {
  return ((size_t)((length + kRowBlock - 1) / kRowBlock) * sizeof(double) + 63) & ~size_t(63);
}

// Runs loop(scratch, begin, end) over `count` rows of `length` elements, on as many threads as the work is worth, each
// with `bytes` of scratch, a multiple of 64, which is taken before. No multiple of `unit` rows is cut.
template <class Loop>
void split_rows(Call& call, int64_t count, int64_t length, size_t bytes, const Loop& loop, int64_t unit = 1) {
  // Of cross-entropy, one thread does as many elements in 15 us: twice that takes 46 us, and 37 on two (Zen 3).
  constexpr int64_t grain = 16384;
  int64_t tasks = count < call.threads ? count : call.threads;
  const int64_t worth = count / (1 + grain / length);
  if (tasks > worth) tasks = worth > 0 ? worth : 1;
  int64_t step = (count + tasks - 1) / tasks;
  if (step > 4 * kRowsAtOnce) step = (step + kRowsAtOnce - 1) / kRowsAtOnce * kRowsAtOnce;
  step = (step + unit - 1) / unit * unit;
  size_t all;
  if (__builtin_mul_overflow(bytes, (size_t)tasks, &all)) throw std::bad_alloc();
  char* scratch = static_cast<char*>(call.scratch(all));
  call.run((int)tasks, [&](int i) {
    const int64_t begin = i * step, end = begin + step < count ? begin + step : count;
    if (begin < end) loop(scratch + bytes * (size_t)i, begin, end);
  });
}

// Runs loop(scratch, begin, end) over all rows of a plan.
template <int Operands, class Loop>
void run_rows(Call& call, const Rows<Operands>& rows, const Loop& loop, int64_t unit = 1) {
  int64_t count = 1;
  for (int d = 0; d < rows.walk.ndim; d++) count *= rows.walk.shape[d];
  size_t bytes = tops_bytes(rows.length);
  for (int op = 0; op < Operands; op++) bytes += rows.gathered[op] ? (size_t)(rows.block * rows.pitch) : 0;
  split_rows(call, count, rows.length, bytes, loop, unit);
}

}  // namespace innerloop
