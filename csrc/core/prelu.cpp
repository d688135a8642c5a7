#include "core/prelu.h"

#include <string.h>

#include "core/checks.h"
#include "core/half.h"

namespace innerloop {
namespace {

constexpr int64_t kGrain = 16384;  // elements that one thread does in about 10 us

bool one_slope(const TensorView& weight) { return weight.ndim == 0 || weight.shape[0] == 1; }

// The slopes with x's shape, standing still along every axis but that of the channels.
TensorView slopes_of(const TensorView& weight, const TensorView& x) {
  TensorView slopes = x;
  slopes.data = weight.data;
  for (int d = 0; d < x.ndim; d++) slopes.strides[d] = 0;
  if (!one_slope(weight)) slopes.strides[1] = weight.strides[0];
  return slopes;
}

// In a tree that depends on n alone.
template <class T>
double sum_of(const T* first, int64_t step, int64_t n) {
  if (n > 8) return sum_of(first, step, n / 2) + sum_of(first + n / 2 * step, step, n - n / 2);
  double sum = 0;
  for (int64_t i = 0; i < n; i++) sum += (double)first[i * step];
  return sum;
}

// Order of an array's elements in a walk: that of their indices, whatever their strides.
Walk<2> in_order(const TensorView& dy, const TensorView& x) {
  const TensorView order = contiguous_view(x.data, x.dtype, x);  // never read: merging axes is all it can forbid
  const Walk<3> sorted = plan_walk<3>({&dy, &x, &order}, 0);
  Walk<2> walk;
  walk.ndim = sorted.ndim;
  walk.stream = false;
  memcpy(walk.shape, sorted.shape, sizeof walk.shape);
  memcpy(walk.stride, sorted.stride, sizeof walk.stride);
  memcpy(walk.data, sorted.data, sizeof walk.data);
  return walk;
}

template <class T>
void slope_gradient(const TensorView& dy, const TensorView& x, const TensorView& dweight) {
  Call call;
  SlopeSums work = {};
  const bool single = one_slope(dweight);
  work.channels = single ? 1 : x.shape[1];
  work.length = work.channels > 0 ? x.size() / work.channels : 0;
  const int64_t blocks = (work.length + kSlopeBlock - 1) / kSlopeBlock;
  T* const sums = call.array<T>(blocks * work.channels);
  work.sums = sums;
  if (blocks > 0) {
    work.dy_x = single ? in_order(dy, x) : in_order(without_axis(dy, 1), without_axis(x, 1));
    if (!single) {
      work.channel[0] = dy.strides[1];
      work.channel[1] = x.strides[1];
    }
    const int64_t pieces = blocks * ((work.channels + kRowsAtOnce - 1) / kRowsAtOnce);
    int64_t tasks = x.size() / kGrain;
    if (tasks > call.threads) tasks = call.threads;
    if (tasks > pieces) tasks = pieces;
    if (tasks < 1) tasks = 1;
    constexpr int64_t scratch = 2 * kRowsAtOnce * kSlopePitch;
    T* const memory = call.array<T>(tasks * scratch);
    const auto loop = typed(*kernels().prelu, x.dtype).slope_sums;
    call.run((int)tasks,
             [&](int i) { loop(work, memory + i * scratch, pieces * i / tasks, pieces * (i + 1) / tasks); });
  }
  for (int64_t c = 0; c < work.channels; c++) {
    const T sum = (T)sum_of(sums + c, work.channels, blocks);
    memcpy(dweight.data + (dweight.ndim == 0 ? 0 : c * dweight.strides[0]), &sum, sizeof sum);
  }
}

}  // namespace

void check_slopes(const TensorView& weight, const TensorView& x) {
  check_dtype(weight, x);
  if (weight.ndim == 0 || (weight.ndim == 1 && weight.shape[0] == 1)) return;
  if (weight.ndim == 1 && x.ndim >= 2 && weight.shape[0] == x.shape[1]) return;
  throw ValueError(std::string(weight.name) + " must be one slope, of shape () or (1,), or one for each channel" +
                   (x.ndim >= 2 ? ", of shape " + shape_text({x.shape[1]}) : "") + " (axis 1 of " + x.name + ", " +
                   describe(x) + "), got " + describe(weight));
}

void prelu_forward(const TensorView& x, const TensorView& weight, const TensorView& y) {
  const TensorView slopes = slopes_of(weight, x);
  const auto loop = typed(*kernels().prelu, x.dtype).forward;
  Call call;
  run_elementwise<3>(call, {&x, &slopes, &y}, kGrain, loop);
}

void prelu_backward(const TensorView& dy, const TensorView& x, const TensorView& weight, const TensorView& dx,
                    const TensorView& dweight) {
  Call call;
  if (x.dtype == Dtype::f64) {  // first, as dx may be dy or x
    slope_gradient<double>(dy, x, dweight);
  } else {
    const TensorView wide = widened_output(call, dweight);
    slope_gradient<float>(widened(call, dy), widened(call, x), wide);
    narrow_into(call, wide, dweight);
  }
  const TensorView slopes = slopes_of(weight, x);
  const auto loop = typed(*kernels().prelu, x.dtype).backward;
  run_elementwise<4>(call, {&dy, &x, &slopes, &dx}, kGrain, loop);
}

}  // namespace innerloop
