// Queues the two launches of cuda/channels.h.
#pragma once

#include "cuda/channels.h"
#include "cuda/launch.h"

namespace innerloop::cuda {

template <class S, class Op>
int launch_sums(const Queue& queue, const Op& op, const ChannelShape& shape, const ChannelArrays<Op>& arrays) {
  const int64_t most = (int64_t)queue.processors * 8, blocks = shape.blocks() < most ? shape.blocks() : most;
  if (shape.rows) return launch<kChannelThreads>(queue, blocks, SumRows<S, Op>{op, shape, arrays});
  using Body = SumColumns<S, Op>;
  return launch<kChannelThreads>(queue, blocks, Body{op, shape, Cycle(shape.inner, shape.channels), arrays},
                                 Body::shared);
}

template <class P, class Finish>
int launch_add(const Queue& queue, const AddParts<P, Finish>& body) {
  const int64_t most = (int64_t)queue.processors * 8, blocks = body.blocks();
  return launch<kChannelThreads>(queue, blocks < most ? blocks : most, body, AddParts<P, Finish>::shared);
}

}  // namespace innerloop::cuda
