// The kernels of nll_loss.
#include "cuda/fault.h"
#include "cuda/launch_rows.h"
#include "cuda/nll_loss.h"

namespace innerloop::cuda {

int nll_loss(const Queue& queue, const RowLoss& loss) {
  const int64_t rows = loss.shape.outer * loss.shape.inner;
  NllCall call = {loss.shape, labels_of(loss), loss.weight, loss.sample_weight, nullptr};
  const int error = find_fault(&call.fault);
  if (error != cudaSuccess) return error;
  return launch_loss(queue, loss, rows, [&](const RowScale& scale, char* losses) {
    return with_storage(loss.dtype, [&](auto s) {
      using S = decltype(s);
      // The gradient may be the input: that is done with when it is written.
      const int failed = launch<kBlock>(queue, blocks_for(queue, rows), NllLosses<S>{call, loss.input, losses});
      if (failed != cudaSuccess || loss.gradient == nullptr || loss.shape.length == 0) return failed;
      return launch_rows<S, 0>(queue, loss.shape, true, [&](const RowPlan& plan, auto layout) {
        return NllGradient<S, decltype(layout)>{plan, call, scale, {loss.gradient}, loss.gradient};
      });
    });
  });
}

}  // namespace innerloop::cuda
