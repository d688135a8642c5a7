// What the norms keep beside their arrays: vectors of one element a column, channel or row, in the dtype of the arrays.
#pragma once

#include <math.h>
#include <string.h>

#include "core/half.h"

namespace innerloop {

inline char* take_items(Call& call, int64_t n, Dtype dtype) {
  return dtype == Dtype::f64 ? (char*)call.array<double>(n) : (char*)call.array<float>(n);
}
inline int64_t checked_product(int64_t a, int64_t b) {
  int64_t n;
  if (__builtin_mul_overflow(a, b, &n)) throw std::bad_alloc();
  return n;
}

inline void fill_items(char* to, ptrdiff_t stride, int64_t n, Dtype dtype, double value) {
  const float narrow = (float)value;
  const void* from = dtype == Dtype::f64 ? (const void*)&value : &narrow;
  for (int64_t i = 0; i < n; i++) memcpy(to + i * stride, from, dtype_size(dtype));
}

// A vector as the kernels take it, contiguous and of a dtype that is computed in; `otherwise` throughout if it is null.
inline char* contiguous_items(Call& call, const TensorView* vector, int64_t n, Dtype dtype, double otherwise) {
  const ptrdiff_t item = (ptrdiff_t)dtype_size(dtype);
  char* items = take_items(call, n, dtype);
  if (vector == nullptr) {
    fill_items(items, item, n, dtype, otherwise);
  } else if (is_half(vector->dtype)) {
    storage_of(vector->dtype).widen(walk_rows(*vector, 0), 0, n, reinterpret_cast<float*>(items));
  } else {
    for (int64_t i = 0; i < n; i++) {
      memcpy(items + i * item, vector->data + i * vector->strides[0], (size_t)item);
    }
  }
  return items;
}

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

}  // namespace innerloop
