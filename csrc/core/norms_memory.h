// What the norms keep beside their arrays: vectors of one element a column, channel or row. They are of the type that
// is computed in; the arrays may be of half precision.
#pragma once

#include <math.h>
#include <string.h>

#include "core/half.h"

namespace innerloop {

inline int64_t checked_product(int64_t a, int64_t b) {
  int64_t n;
  if (__builtin_mul_overflow(a, b, &n)) throw std::bad_alloc();
  return n;
}
inline char* take_items(Call& call, int64_t n, Dtype dtype) {
  return dtype == Dtype::f64 ? (char*)call.array<double>(n) : (char*)call.array<float>(n);
}

// `dtype` is float32 or float64.
inline void fill_items(char* to, ptrdiff_t stride, int64_t n, Dtype dtype, double value) {
  const float narrow = (float)value;
  for (int64_t i = 0; i < n; i++) {
    dtype == Dtype::f64 ? memcpy(to + i * stride, &value, sizeof value)
                        : memcpy(to + i * stride, &narrow, sizeof narrow);
  }
}

// A vector of n elements as the kernels take it, contiguous; `otherwise` throughout if it is null.
inline char* contiguous_items(Call& call, const TensorView* vector, int64_t n, Dtype compute, double otherwise) {
  char* items = take_items(call, n, compute);
  const ptrdiff_t item = (ptrdiff_t)dtype_size(compute);
  if (vector == nullptr) {
    fill_items(items, item, n, compute, otherwise);
  } else if (compute == Dtype::f64) {
    for (int64_t i = 0; i < n; i++) memcpy(items + i * item, vector->data + i * vector->strides[0], (size_t)item);
  } else if (n > 0) {
    storage_of(vector->dtype).widen(walk_elements(*vector), 0, n, reinterpret_cast<float*>(items));
  }
  return items;
}

// A vector that kernels write: itself, or float32 in its place, which `finish` rounds.
struct WrittenItems {
  char* data = nullptr;  // null where nobody wants it
  ptrdiff_t stride = 0;

  WrittenItems(Call& call, const TensorView* vector) : call(call), vector(vector) {
    if (vector == nullptr) return;
    wide = widened_output(call, *vector);
    data = wide.data;
    stride = wide.strides[0];
  }
  void fill(double value) {
    if (vector != nullptr) fill_items(data, stride, vector->shape[0], wide.dtype, value);
  }
  void finish() const {
    if (vector != nullptr) narrow_into(call, wide, *vector);
  }

 private:
  Call& call;
  const TensorView* vector;
  TensorView wide;
};

// One element a row, side by side, as a view of the rows' shape.
inline TensorView row_items(char* data, ptrdiff_t stride, const TensorView& rows_shape, Dtype dtype) {
  TensorView t = rows_shape;
  t.data = data;
  t.dtype = dtype;
  for (int d = t.ndim - 1; d >= 0; d--) {
    t.strides[d] = stride;
    stride *= (ptrdiff_t)t.shape[d];
  }
  return t;
}

// Sums down the columns are taken over blocks of this many rows, then over the blocks, so that their error grows with
// the fourth root of the number of rows. It depends on the shape alone: that fixes the bits.
inline int64_t rows_of_block(int64_t rows, int64_t length) {
  const auto root = (int64_t)ceil(sqrt((double)rows));
  return root < 16 && length <= 2048 ? 16 : root > 0 ? root : 1;
}

// Calls sum(begin, end, u, v) for the rows [begin, end) of `rows`, which begins with row `first` of all, in pieces that
// lie within a block; u and v are that block's sums of `length` elements. Blocks may be taken from the last to the
// first, where the last are what the caches hold; tasks then begin and end with a block.
template <class Sum>
void sum_blocks(int64_t unit, int64_t length, Dtype compute, char* u, char* v, int64_t begin, int64_t end,
                int64_t first, bool from_last, const Sum& sum) {
  const size_t pitch = (size_t)length * dtype_size(compute);
  while (begin < end) {
    const int64_t last = end - 1 - (first + end - 1) % unit, next = begin + unit - (first + begin) % unit;
    const int64_t from = from_last && last > begin ? last : begin, to = from_last || next > end ? end : next;
    const int64_t row = first + from;
    char *to_u = u + (size_t)(row / unit) * pitch, *to_v = v + (size_t)(row / unit) * pitch;
    if (row % unit == 0) {
      memset(to_u, 0, pitch);
      memset(to_v, 0, pitch);
    }
    sum(from, to, to_u, to_v);
    (from_last ? end : begin) = from_last ? from : to;
  }
}

}  // namespace innerloop
