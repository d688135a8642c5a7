#include "core/nll_loss.h"

#include <string.h>

#include "core/half.h"

namespace innerloop {
namespace {

constexpr int64_t kGrain = 16384;  // elements that one thread clears, or a few times the labels it visits, in 10 us

// Writes 0 to [begin, end) of the walk's flattened index.
void clear(const Walk<1>& walk, ptrdiff_t item, int64_t begin, int64_t end) {
  for_runs(walk, begin, end, [&](char* p, ptrdiff_t step, int64_t n) {
    if (step == item) {
      memset(p, 0, (size_t)(n * item));
    } else {
      for (int64_t i = 0; i < n; i++) memset(p + i * step, 0, (size_t)item);
    }
  });
}

// The elements of an array of half precision that stand at the labels of its rows, one a row, as float32.
struct AtLabels {
  Walk<1> rows;
  ptrdiff_t step;
  int64_t count;
  const StorageKernels& storage;

  AtLabels(const TensorView& t, int axis)
      : rows(walk_elements(without_axis(t, axis))),
        step(t.strides[axis]),
        count(without_axis(t, axis).size()),
        storage(storage_of(t.dtype)) {}

  // f(a walk over the one element, its row) for all that are not ignored.
  template <class F>
  void each(Call& call, const Labels& labels, const F& f) const {
    call.split(count, kGrain / 16, [&](int64_t begin, int64_t end) {
      Walk<1> one = walk_contiguous(nullptr, sizeof(float), 1);
      int64_t row = begin;
      for_runs(rows, begin, end, [&](char* p, ptrdiff_t stride, int64_t n) {
        for (int64_t i = 0; i < n; i++, row++) {
          if (labels.index[row] == kIgnored) continue;
          one.data[0] = p + i * stride + labels.index[row] * step;
          f(one, row);
        }
      });
    });
  }
  void read(Call& call, const Labels& labels, float* to) const {
    memset(to, 0, (size_t)count * sizeof(float));
    each(call, labels, [&](const Walk<1>& one, int64_t row) { storage.widen(one, 0, 1, to + row); });
  }
  void write(Call& call, const Labels& labels, const float* from) const {
    each(call, labels, [&](const Walk<1>& one, int64_t row) { storage.narrow(from + row, one, 0, 1); });
  }
};

}  // namespace

double nll_loss(const TensorView& log_probs, const TensorView& target, const TensorView* weight,
                const TensorView* sample_weight, const NllOptions& options, const TensorView* losses,
                const TensorView* gradient) {
  Call call;
  const Dtype dtype = compute_dtype(log_probs.dtype);
  const bool wide = dtype == Dtype::f64;
  const TensorView shape = without_axis(log_probs, options.axis);
  const int64_t classes = log_probs.shape[options.axis], rows = shape.size();
  const void* class_weights = weight ? read_values(call, *weight) : nullptr;
  const void* row_weights = sample_weight ? read_values(call, *sample_weight) : nullptr;
  const Labels labels = read_labels(call, target, classes, options.ignore_index);
  const double divisor =
      options.reduction == Reduction::mean ? sum_of_weights(labels, rows, class_weights, row_weights, dtype) : 1;
  TensorView every;
  if (losses) {
    every = *losses;
  } else {
    every = contiguous_view(wide ? (void*)call.array<double>(rows) : call.array<float>(rows), dtype, shape);
  }

  if (rows > 0) {
    const TensorView label_view = contiguous_view(labels.index, Dtype::i64, shape);
    const TensorView weight_view = row_weights ? contiguous_view((void*)row_weights, dtype, shape) : every;
    const bool half = is_half(log_probs.dtype);
    TensorView from = without_axis(log_probs, options.axis);
    TensorView to = gradient ? without_axis(*gradient, options.axis) : every;
    if (half) {  // only what stands at the labels, as float32
      from = contiguous_view(call.array<float>(rows), dtype, shape);
      if (gradient) to = contiguous_view(call.array<float>(rows), dtype, shape);
      AtLabels(log_probs, options.axis).read(call, labels, (float*)from.data);
    }
    NllWork work;
    work.rows = plan_walk<5>({&from, &label_view, &weight_view, &every, &to}, 0);
    work.step = half ? 0 : log_probs.strides[options.axis];
    work.grad_step = gradient && !half ? gradient->strides[options.axis] : 0;
    work.sample_weighted = row_weights != nullptr;
    work.weight = class_weights;
    work.scale = options.grad_scale / divisor;
    const NllKernels& kernel = typed(*kernels().nll_loss, dtype);
    // The gradient may be log_probs: they are done with when it is cleared.
    call.split(rows, kGrain / 4, [&](int64_t begin, int64_t end) { kernel.losses(work, begin, end); });
    if (gradient && classes > 0) {
      const auto walk = plan_walk<1>({gradient}, 0);
      const ptrdiff_t item = (ptrdiff_t)dtype_size(gradient->dtype);
      call.split(gradient->size(), kGrain, [&](int64_t begin, int64_t end) { clear(walk, item, begin, end); });
      call.split(rows, kGrain / 4, [&](int64_t begin, int64_t end) { kernel.gradient(work, begin, end); });
      if (half) AtLabels(*gradient, options.axis).write(call, labels, (const float*)to.data);
    }
  }
  if (options.reduction == Reduction::none) return 0;
  return sum_of(every.data, dtype, rows) / divisor;
}

}  // namespace innerloop
