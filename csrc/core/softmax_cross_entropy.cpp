#include "core/softmax_cross_entropy.h"

#include <string.h>

#include "core/dispatch.h"

namespace innerloop {

static CrossEntropyKernel typed(Dtype dtype) {
  const ByDtype<CrossEntropyKernel>& kernel = *kernels().softmax_cross_entropy;
  return dtype == Dtype::f64 ? kernel.f64 : kernel.f32;
}

CrossEntropyPlan plan_cross_entropy(Call& call, Dtype dtype, int64_t rows, int64_t classes,
                                    const CrossEntropyTarget& given, const CrossEntropyOptions& options) {
  CrossEntropyPlan plan = {};
  plan.dtype = dtype;
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
  typed(plan.dtype)(work, scratch, begin, end);
}

void check_labels(const TensorView& target, int64_t classes, const CrossEntropyOptions& options) {
  Call call;
  if (is_floating(target.dtype)) return;
  read_labels(call, target, classes, options.ignore_index);
}

double softmax_cross_entropy(const TensorView& logits, const CrossEntropyTarget& target,
                             const CrossEntropyOptions& options, const TensorView* losses, const TensorView* dlogits) {
  Call call;
  const TensorView shape = without_axis(logits, options.axis);
  const int64_t classes = logits.shape[options.axis], rows = shape.size();
  const CrossEntropyPlan plan = plan_cross_entropy(call, logits.dtype, rows, classes, target, options);
  TensorView every;
  if (losses) {
    every = *losses;
  } else if (logits.dtype == Dtype::f64) {
    every = contiguous_view(call.array<double>(rows), Dtype::f64, shape);
  } else {
    every = contiguous_view(call.array<float>(rows), Dtype::f32, shape);
  }

  if (rows > 0 && classes > 0) {
    const TensorView* probabilities = plan.probabilities ? target.target : nullptr;
    const CrossEntropyWork work = cross_entropy_work(plan, 0, logits, options.axis, probabilities, every, dlogits);
    run_rows(call, work.rows,
             [&](void* scratch, int64_t begin, int64_t end) { run_cross_entropy(plan, work, scratch, begin, end); });
  } else if (losses) {
    memset(losses->data, 0, (size_t)rows * dtype_size(logits.dtype));  // fresh, so contiguous
  }
  if (options.reduction == Reduction::none) return 0;
  if (classes == 0) return 0 / plan.divisor;
  return sum_of(every.data, logits.dtype, rows) / plan.divisor;
}

}  // namespace innerloop
