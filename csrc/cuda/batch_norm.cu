// batch_norm's kernels: two launches for what is summed over channels, one for the elements.
#include "cuda/batch_norm.h"
#include "cuda/channels_launch.h"

namespace innerloop::cuda {
namespace {

// One of the passes; `sums`: whether it needs its Op's.
template <class S, template <class> class Op, bool backward>
int run(const Queue& queue, const BatchNormArrays& a, bool sums) {
  using T = typename ComputedAs<S>::type::scalar;
  const ChannelShape shape = ChannelShape::of<S>(a.samples, a.channels, a.inner);
  const int64_t pitch = ceil_div(a.channels, kPiece<T>) * kPiece<T>;
  const int64_t parts = sums ? shape.sums() : 0;
  Scratch scratch(queue, (size_t)parts * 2 * sizeof(double) + (size_t)pitch * 4 * sizeof(T));
  if (scratch.error != cudaSuccess) return scratch.error;
  T* const of_channels = static_cast<T*>(scratch.data);
  const ChannelNumbers<T> numbers = {of_channels, of_channels + pitch, of_channels + 2 * pitch,
                                     of_channels + 3 * pitch};
  const Op<S> op = {a, shape, numbers};
  int error;
  if (sums) {
    ChannelArrays<Op<S>> arrays = {};
    arrays.data[Op<S>::inputs - 1] = const_cast<char*>(a.x);
    if (backward) arrays.data[0] = const_cast<char*>(a.dy);
    arrays.aligned = shape.keeps_aligned<S>();
    for (const char* p : arrays.data) arrays.aligned &= is_aligned(p);
    arrays.parts[0] = reinterpret_cast<double*>(of_channels + 4 * pitch);
    arrays.parts[1] = arrays.parts[0] + parts;
    error = launch_sums<S>(queue, op, shape, arrays);
    if (error != cudaSuccess) return error;
    const int64_t each = shape.rows ? 1 : a.inner;
    error = launch_add(queue, AddParts<double, Op<S>>(op, arrays.parts[0], arrays.parts[1], a.channels, each,
                                                      shape.columns, shape.parts));
  } else {
    error = launch<kBlock>(queue, blocks_for(queue, a.channels), EachChannel<Op<S>>{op});
  }
  const int64_t size = a.samples * a.channels * a.inner;
  if (error != cudaSuccess || size == 0) return error;
  const char* const x = backward && !a.training ? nullptr : a.x;
  const BatchApply<S, backward> apply = {
      a.dy,   x, a.out, size, is_aligned(a.dy) && is_aligned(x) && is_aligned(a.out), Cycle(a.inner, a.channels),
      numbers};
  return launch<kBlock>(queue, blocks_for(queue, ceil_div(size, kPiece<S>)), apply);
}

// 0 where a backward pass has no elements, NaN where training has none, as on the CPU.
template <class S>
struct FillChannels {
  char* data[2];
  int64_t size;
  double value;
  HD void operator()(const Block& block) const {
    using V = typename ComputedAs<S>::type;
    const Thread thread = block.thread();
    for (int64_t i = thread.index; i < size; i += thread.count) {
      for (char* p : data) {
        if (p != nullptr) store_one<S>(V((typename V::scalar)value), p, i);
      }
    }
  }
};

}  // namespace

int batch_norm_forward(const Queue& queue, Dtype dtype, const BatchNormArrays& a) {
  return with_storage(dtype, [&](auto stored) -> int {
    using S = decltype(stored);
    using T = typename ComputedAs<S>::type::scalar;
    if (a.training && a.samples * a.channels * a.inner == 0) {
      if (a.saved == nullptr) return cudaSuccess;
      return launch<kBlock>(queue, blocks_for(queue, 2 * a.channels),
                            FillChannels<T>{{a.saved, nullptr}, 2 * a.channels, NAN});
    }
    return run<S, BatchMoments, false>(queue, a, a.training);
  });
}

int batch_norm_backward(const Queue& queue, Dtype dtype, const BatchNormArrays& a) {
  return with_storage(dtype, [&](auto stored) -> int {
    using S = decltype(stored);
    if (a.samples * a.channels * a.inner == 0) {
      return launch<kBlock>(queue, blocks_for(queue, a.channels), FillChannels<S>{{a.dweight, a.dbias}, a.channels, 0});
    }
    return run<S, BatchGradients, true>(queue, a, a.training || a.dweight != nullptr || a.dbias != nullptr);
  });
}

}  // namespace innerloop::cuda
