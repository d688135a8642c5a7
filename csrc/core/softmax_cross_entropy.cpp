#include "core/softmax_cross_entropy.h"

#include <string.h>

#include "core/half.h"

namespace innerloop {

CrossEntropyPlan plan_cross_entropy(Call& call, Dtype dtype, int64_t rows, int64_t classes,
                                    const CrossEntropyTarget& given, const CrossEntropyOptions& options) {
  CrossEntropyPlan plan = {};
  plan.dtype = dtype;  // that is computed in
  plan.rows = rows;
  plan.classes = classes;
  plan.probabilities = is_floating(given.target->dtype);
  plan.label_smoothing = options.label_smoothing;
  plan.z_loss = options.z_loss;
  if (given.weight) plan.weight = read_values(call, *given.weight);
  if (given.sample_weight) plan.sample_weight = read_values(call, *given.sample_weight);
  if (plan.probabilities) {
    plan.divisor = plan.sample_weight ? sum_of(plan.sample_weight, dtype, rows) : (double)rows;
    if (classes == 0) plan.divisor = 0;  // as in PyTorch, the mean over no logits is NaN
  } else {
    const Labels labels = read_labels(call, *given.target, classes, options.ignore_index);
    plan.labels = labels.index;
    plan.divisor = sum_of_weights(labels, rows, plan.weight, plan.sample_weight, dtype);
  }
  if (options.reduction != Reduction::mean) plan.divisor = 1;
  plan.scale = options.grad_scale / plan.divisor;
  return plan;
}

CrossEntropyWork cross_entropy_work(const CrossEntropyPlan& plan, int64_t first, const TensorView& logits, int axis,
                                    const TensorView* probabilities, const TensorView& losses,
                                    const TensorView* dlogits) {
  const TensorView shape = without_axis(logits, axis);
  auto rows_from = [&](const void* data, Dtype dtype) {
    if (!data) return losses;  // in its place, and not read
    return contiguous_view((char*)data + first * (int64_t)dtype_size(dtype), dtype, shape);
  };
  const TensorView labels = rows_from(plan.labels, Dtype::i64), weights = rows_from(plan.sample_weight, plan.dtype);
  CrossEntropyWork work;
  work.rows = plan_rows<6>({{&logits, true},
                            {plan.probabilities ? probabilities : &losses, plan.probabilities},
                            {&labels, false},
                            {&weights, false},
                            {&losses, false},
                            {dlogits ? dlogits : &logits, true}},
                           axis, plan.classes);
  if (!dlogits) work.rows.gathered[5] = false;
  work.probabilities = plan.probabilities;
  work.sample_weighted = plan.sample_weight != nullptr;
  work.gradient = dlogits != nullptr;
  work.weight = plan.weight;
  work.label_smoothing = plan.label_smoothing;
  work.z_loss = plan.z_loss;
  work.scale = plan.scale;
  return work;
}

void run_cross_entropy(const CrossEntropyPlan& plan, const CrossEntropyWork& work, void* scratch, int64_t begin,
                       int64_t end) {
  typed(*kernels().softmax_cross_entropy, plan.dtype)(work, scratch, begin, end);
}

void check_labels(const TensorView& target, int64_t classes, const CrossEntropyOptions& options) {
  Call call;
  if (is_floating(target.dtype)) return;
  read_labels(call, target, classes, options.ignore_index);
}

static double reduced(const CrossEntropyPlan& plan, const CrossEntropyOptions& options, const TensorView& losses) {
  if (options.reduction == Reduction::none) return 0;
  if (plan.classes == 0) return 0 / plan.divisor;
  return sum_of(losses.data, plan.dtype, plan.rows) / plan.divisor;
}

// Logits of half precision: a few rows at a time are widened, and their gradient is rounded.
static void run_half(Call& call, const CrossEntropyPlan& plan, const TensorView& logits, int axis,
                     const TensorView* probabilities, const TensorView& losses, const TensorView* dlogits) {
  constexpr int64_t chunk = 16384;  // elements: 64 KiB of each array
  const int64_t length = plan.classes, at_once = length < chunk ? chunk / length : 1;
  const size_t part = ((size_t)(at_once * length) * sizeof(float) + 63) / 64 * 64 + 64;
  const Walk<1> from = walk_rows(logits, axis);
  Walk<1> target, to;
  if (probabilities) target = walk_rows(*probabilities, axis);
  if (dlogits) to = walk_rows(*dlogits, axis);
  const StorageKernels& storage = storage_of(logits.dtype);
  split_rows(call, plan.rows, length, tops_bytes(length) + 2 * part, [&](char* scratch, int64_t begin, int64_t end) {
    TensorView shape;
    shape.ndim = 2;
    shape.shape[1] = length;
    auto* wide = reinterpret_cast<float*>(scratch + tops_bytes(length));
    auto* wide_target = reinterpret_cast<float*>(scratch + tops_bytes(length) + part);
    for (; begin < end; begin += at_once) {
      const int64_t stop = end - begin < at_once ? end : begin + at_once;
      shape.shape[0] = stop - begin;
      storage.widen(from, begin * length, stop * length, wide);
      if (probabilities) storage.widen(target, begin * length, stop * length, wide_target);
      const TensorView z = contiguous_view(wide, Dtype::f32, shape),
                       t = contiguous_view(wide_target, Dtype::f32, shape);
      TensorView l = without_axis(z, 1);
      l.data = losses.data + begin * (int64_t)sizeof(float);
      l.strides[0] = sizeof(float);
      const CrossEntropyWork work =
          cross_entropy_work(plan, begin, z, 1, probabilities ? &t : nullptr, l, dlogits ? &z : nullptr);
      run_cross_entropy(plan, work, scratch, 0, stop - begin);
      if (dlogits) storage.narrow(wide, to, begin * length, stop * length);
    }
  });
}

double softmax_cross_entropy(const TensorView& logits, const CrossEntropyTarget& target,
                             const CrossEntropyOptions& options, const TensorView* losses, const TensorView* dlogits) {
  Call call;
  const TensorView shape = without_axis(logits, options.axis);
  const int64_t classes = logits.shape[options.axis], rows = shape.size();
  const Dtype dtype = compute_dtype(logits.dtype);
  const CrossEntropyPlan plan = plan_cross_entropy(call, dtype, rows, classes, target, options);
  TensorView every;
  if (losses) {
    every = *losses;
  } else if (dtype == Dtype::f64) {
    every = contiguous_view(call.array<double>(rows), Dtype::f64, shape);
  } else {
    every = contiguous_view(call.array<float>(rows), Dtype::f32, shape);
  }

  if (rows > 0 && classes > 0) {
    const TensorView* probabilities = plan.probabilities ? target.target : nullptr;
    if (is_half(logits.dtype)) {
      run_half(call, plan, logits, options.axis, probabilities, every, dlogits);
      return reduced(plan, options, every);
    }
    const CrossEntropyWork work = cross_entropy_work(plan, 0, logits, options.axis, probabilities, every, dlogits);
    run_rows(call, work.rows,
             [&](void* scratch, int64_t begin, int64_t end) { run_cross_entropy(plan, work, scratch, begin, end); });
  } else if (losses) {
    memset(losses->data, 0, (size_t)rows * dtype_size(dtype));  // fresh, so contiguous
  }
  return reduced(plan, options, every);
}

}  // namespace innerloop
