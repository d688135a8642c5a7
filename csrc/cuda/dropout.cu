// Dropout's kernel.
#include "cuda/dropout.h"
#include "cuda/launch.h"

namespace innerloop::cuda {

int dropout(const Queue& queue, Dtype dtype, const DropoutWork& work, const Elements<2>& x_y) {
  return with_storage(dtype, [&](auto stored) {
    using Body = DropElements<decltype(stored)>;
    const int64_t pieces = (x_y.size + Body::elements - 1) / Body::elements;
    return launch<kBlock>(queue, blocks_for(queue, pieces), Body{Dropout(work.p), Philox{work.seed, work.offset}, x_y});
  });
}

}  // namespace innerloop::cuda
