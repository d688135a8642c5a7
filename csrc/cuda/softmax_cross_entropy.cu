// The kernels of softmax cross-entropy.
#include "cuda/fault.h"
#include "cuda/launch_rows.h"
#include "cuda/softmax_cross_entropy.h"

namespace innerloop::cuda {
namespace {

template <class S, Target target>
int launch_rows_of(const Queue& queue, const RowLoss& loss, const CrossEntropyCall& call) {
  const char* probabilities = target == Target::probabilities ? loss.target : nullptr;
  const bool alike = in_step({loss.input, probabilities, loss.gradient});
  return launch_rows < S,
         target == Target::probabilities ? 2 : 1 > (queue, loss.shape, alike, [&](const RowPlan& plan, auto layout) {
                                                 return CrossEntropyRows<S, target, decltype(layout)>{
                                                     plan, call, {loss.input, probabilities}, loss.gradient};
                                               });
}

}  // namespace

int launch_cross_entropy(const Queue& queue, const RowLoss& loss, double label_smoothing, double z_loss,
                         const RowScale& scale, char* losses) {
  const Labels labels = labels_of(loss);
  Fault* fault = nullptr;
  if (labels.data != nullptr) {
    const int error = find_fault(&fault);
    if (error != cudaSuccess) return error;
  }
  const CrossEntropy rule = {1 - label_smoothing, label_smoothing / (double)loss.shape.length};
  const CrossEntropyCall call = {rule, z_loss, labels, loss.weight, loss.sample_weight, scale, losses, fault};
  return with_storage(loss.dtype, [&](auto s) {
    using S = decltype(s);
    if (labels.data == nullptr) return launch_rows_of<S, Target::probabilities>(queue, loss, call);
    return label_smoothing > 0 ? launch_rows_of<S, Target::smoothed_label>(queue, loss, call)
                               : launch_rows_of<S, Target::label>(queue, loss, call);
  });
}

int softmax_cross_entropy(const Queue& queue, const RowLoss& loss, double label_smoothing, double z_loss) {
  const int64_t rows = loss.shape.outer * loss.shape.inner;
  return launch_loss(queue, loss, rows, [&](const RowScale& scale, char* losses) {
    return launch_cross_entropy(queue, loss, label_smoothing, z_loss, scale, losses);
  });
}

}  // namespace innerloop::cuda
