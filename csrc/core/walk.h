// Plans an elementwise walk over arrays of one shape: drops axes of length 1, orders axes by the output's strides and
// merges those that lie end to end in every array, so that a transposed or sliced array is still read in long runs.
#pragma once

#include <algorithm>
#include <initializer_list>

#include "core/tensor.h"

namespace innerloop {

// Which way the flattened index runs: as suits memory, or as the array's own, where results depend on it.
enum class Order { memory, c };

// The last view is the output. `stream_bytes`: from which output size on to write around the caches (0: never).
template <int Operands>
Walk<Operands> plan_walk(const TensorView* const (&views)[Operands], int64_t stream_bytes,
                         Order wanted = Order::memory) {
  constexpr int out = Operands - 1;
  const TensorView& y = *views[out];
  int order[kMaxDims], n = 0;
  for (int d = 0; d < y.ndim; d++) {
    if (y.shape[d] != 1) order[n++] = d;
  }
  auto step = [&](int d) { return y.strides[d] < 0 ? -y.strides[d] : y.strides[d]; };
  if (wanted == Order::memory && n > 1)
    std::stable_sort(order, order + n, [&](int a, int b) { return step(a) > step(b); });

  Walk<Operands> walk;
  walk.ndim = 0;
  walk.stream = stream_bytes > 0 && y.size() * (int64_t)dtype_size(y.dtype) >= stream_bytes;
  for (int op = 0; op < Operands; op++) walk.data[op] = views[op]->data;
  for (int i = 0; i < n; i++) {
    const int d = order[i], inner = walk.ndim - 1;
    bool merge = walk.ndim > 0;
    for (int op = 0; op < Operands && merge; op++) {
      merge = walk.stride[op][inner] == views[op]->strides[d] * (ptrdiff_t)y.shape[d];
    }
    const int at = merge ? inner : walk.ndim++;
    walk.shape[at] = (merge ? walk.shape[at] : 1) * y.shape[d];
    for (int op = 0; op < Operands; op++) walk.stride[op][at] = views[op]->strides[d];
  }
  if (walk.ndim == 0) {  // one element
    walk.ndim = 1;
    walk.shape[0] = 1;
    for (int op = 0; op < Operands; op++) walk.stride[op][0] = (ptrdiff_t)dtype_size(views[op]->dtype);
  }
  return walk;
}

// One array in C order; the same for n elements that lie end to end; and for all rows along an axis: the other axes in
// the order of the shape, then this one.
inline Walk<1> walk_elements(const TensorView& t) { return plan_walk<1>({&t}, 0, Order::c); }

inline Walk<1> walk_contiguous(void* data, size_t item, int64_t n) {
  Walk<1> walk;
  walk.ndim = 1;
  walk.stream = false;
  walk.data[0] = static_cast<char*>(data);
  walk.shape[0] = n;
  walk.stride[0][0] = (ptrdiff_t)item;
  return walk;
}

inline Walk<1> walk_rows(TensorView t, int axis) {
  if (t.ndim > 0) {
    std::rotate(t.shape + axis, t.shape + axis + 1, t.shape + t.ndim);
    std::rotate(t.strides + axis, t.strides + axis + 1, t.strides + t.ndim);
  }
  return walk_elements(t);
}

// Calls run(pointer, stride, n) for each run along the innermost axis that [begin, end) of the flattened index covers:
// for the few loops that are no kernel's.
template <class Run>
void for_runs(const Walk<1>& walk, int64_t begin, int64_t end, const Run& run) {
  if (begin >= end) return;
  const int last = walk.ndim - 1;
  const ptrdiff_t* stride = walk.stride[0];
  int64_t index[kMaxDims], rest = begin;
  char* p = walk.data[0];
  for (int d = last; d >= 0; d--) {
    index[d] = rest % walk.shape[d];
    rest /= walk.shape[d];
    p += index[d] * stride[d];
  }
  while (true) {
    const int64_t n = std::min(walk.shape[last] - index[last], end - begin);
    run(p, stride[last], n);
    begin += n;
    if (begin == end) return;
    p -= index[last] * stride[last];
    index[last] = 0;
    for (int d = last - 1; d >= 0; d--) {
      p += stride[d];
      if (++index[d] < walk.shape[d]) break;
      p -= index[d] * stride[d];
      index[d] = 0;
    }
  }
}

}  // namespace innerloop
