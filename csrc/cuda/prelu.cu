// prelu's kernels.
#include "cuda/channels_launch.h"
#include "cuda/prelu.h"

namespace innerloop::cuda {

int prelu_forward(const Queue& queue, Dtype dtype, const PreluArrays& a) {
  return with_storage(dtype, [&](auto stored) {
    using S = decltype(stored);
    const Elements<2> e = {
        {const_cast<char*>(a.x), a.out}, a.samples * a.channels * a.inner, is_aligned(a.x) && is_aligned(a.out)};
    return launch<kBlock>(queue, blocks_for(queue, ceil_div(e.size, kPiece<S>)),
                          PreluForward<S>{e, a.weight, Cycle(a.inner, a.channels), is_aligned(a.weight)});
  });
}

int prelu_backward(const Queue& queue, Dtype dtype, const PreluArrays& a) {
  return with_storage(dtype, [&](auto stored) {
    using S = decltype(stored);
    using Op = PreluBackward<S>;
    const ChannelShape shape = ChannelShape::of<S>(a.samples, a.channels, a.inner);
    Scratch scratch(queue, (size_t)shape.sums() * sizeof(double));
    if (scratch.error != cudaSuccess) return scratch.error;
    ChannelArrays<Op> arrays = {{const_cast<char*>(a.dy), const_cast<char*>(a.x), a.out}, false, {}};
    arrays.aligned = shape.keeps_aligned<S>();
    for (const char* p : arrays.data) arrays.aligned &= is_aligned(p);
    arrays.parts[0] = static_cast<double*>(scratch.data);
    const Op op = {a.weight, a.dweight};
    const int error = launch_sums<S>(queue, op, shape, arrays);
    if (error != cudaSuccess) return error;
    return launch_add(queue, AddParts<double, Op>(op, arrays.parts[0], nullptr, shape.channels,
                                                  shape.columns / (shape.channels > 0 ? shape.channels : 1),
                                                  shape.columns, shape.parts));
  });
}

}  // namespace innerloop::cuda
