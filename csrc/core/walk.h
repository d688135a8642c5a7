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
  if (wanted == Order::memory) std::stable_sort(order, order + n, [&](int a, int b) { return step(a) > step(b); });

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

}  // namespace innerloop
