// The kernels of softmax cross-entropy.
#include "cuda/softmax_cross_entropy.h"

#include "cuda/fault.h"
#include "cuda/launch_rows.h"

namespace innerloop::cuda {
namespace {

template <class S, int Inputs>
int launch_cross_entropy(const Queue& queue, const RowLoss& loss, const CrossEntropyCall& call) {
  const char* probabilities = Inputs == 2 ? loss.target : nullptr;
  const bool alike = in_step({loss.input, probabilities, loss.gradient});
  return launch_rows<S, Inputs>(queue, loss.shape, alike, [&](const RowPlan& plan, auto layout) {
    return CrossEntropyRows<S, Inputs, decltype(layout)>{plan, call, {loss.input, probabilities}, loss.gradient};
  });
}

}  // namespace

int softmax_cross_entropy(const Queue& queue, const RowLoss& loss, double label_smoothing, double z_loss) {
  const int64_t rows = loss.shape.outer * loss.shape.inner;
  const Labels labels = labels_of(loss);
  Fault* fault = nullptr;
  if (labels.data != nullptr) {
    const int error = find_fault(&fault);
    if (error != cudaSuccess) return error;
  }
  return launch_loss(queue, loss, rows, [&](const RowScale& scale, char* losses) {
    const CrossEntropy rule = {1 - label_smoothing, label_smoothing / (double)loss.shape.length};
    const CrossEntropyCall call = {rule,        z_loss,             label_smoothing > 0, labels,
                                   loss.weight, loss.sample_weight, scale,               losses, fault};
    return with_storage(loss.dtype, [&](auto s) {
      using S = decltype(s);
      return labels.data != nullptr ? launch_cross_entropy<S, 1>(queue, loss, call)
                                    : launch_cross_entropy<S, 2>(queue, loss, call);
    });
  });
}

}  // namespace innerloop::cuda
