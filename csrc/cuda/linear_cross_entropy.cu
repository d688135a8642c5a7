// Softmax cross-entropy of a linear layer's output, some rows of which are held at a time.
#include "cuda/softmax_cross_entropy.h"

namespace innerloop::cuda {
namespace {

constexpr int64_t kWhole = 128;  // rows of a product's tile

int64_t item_size(Dtype dtype) {
  switch (dtype) {
    case Dtype::i8:
    case Dtype::u8:
      return 1;
    case Dtype::i16:
    case Dtype::u16:
    case Dtype::bf16:
    case Dtype::f16:
      return 2;
    case Dtype::i32:
    case Dtype::u32:
    case Dtype::f32:
      return 4;
    default:
      return 8;
  }
}

int64_t loss_size(Dtype dtype) { return dtype == Dtype::f64 ? 8 : 4; }

// The part of a loss from row `first` on.
RowLoss rows_from(const RowLoss& loss, int64_t first, int64_t rows, char* logits, bool gradient) {
  RowLoss part = loss;
  const int64_t weight_bytes = part.sample_weight.storage == Storage::full ? loss_size(loss.dtype) : 2;
  part.shape.outer = rows;
  part.input = logits;
  part.gradient = gradient ? logits : nullptr;
  part.target += first * item_size(loss.target_dtype) * (is_integer(loss.target_dtype) ? 1 : loss.shape.length);
  if (loss.sample_weight.data != nullptr) part.sample_weight.data += first * weight_bytes;
  return part;
}

}  // namespace

int linear_cross_entropy(const Queue& queue, bool tf32, const Linear& layer, const RowLoss& loss,
                         double label_smoothing, double z_loss, size_t logits_bytes, const LinearBackward* gradients) {
  const Dtype dtype = loss.dtype;
  const int64_t item = item_size(dtype), row_bytes = layer.n * item;
  int64_t at_once = row_bytes > 0 ? (int64_t)logits_bytes / row_bytes : layer.m;
  if (at_once > kWhole) at_once -= at_once % kWhole;
  if (at_once < 1) at_once = 1;
  if (at_once > layer.m) at_once = layer.m;
  const Scratch logits(queue, (size_t)(at_once * row_bytes));
  if (logits.error != cudaSuccess) return logits.error;
  auto* const held = static_cast<char*>(logits.data);
  const Matrix held_rows = {held, row_bytes, item, nullptr, layer.x.storage};

  auto part_of_layer = [&](int64_t first, int64_t rows, const RowScale& scale, char* losses) {
    Linear part = layer;
    part.m = rows;
    part.x.data += first * layer.x.row;
    part.y = held_rows;
    int error = linear_forward(queue, dtype, tf32, part);
    if (error != cudaSuccess) return error;
    error = launch_cross_entropy(queue, rows_from(loss, first, rows, held, gradients != nullptr), label_smoothing,
                                 z_loss, scale, losses + first * loss_size(dtype));
    if (error != cudaSuccess || gradients == nullptr) return error;
    LinearBackward back = *gradients;
    back.m = rows;
    back.dy = held_rows;
    back.x = part.x;
    back.dx.data += first * back.dx.row;
    back.accumulate_dw = first > 0;
    return linear_backward(queue, dtype, tf32, back, nullptr);
  };
  const int error = launch_loss(queue, loss, layer.m, [&](const RowScale& scale, char* losses) {
    for (int64_t first = 0; first < layer.m; first += at_once) {
      const int64_t rows = layer.m - first < at_once ? layer.m - first : at_once;
      const int failed = part_of_layer(first, rows, scale, losses);
      if (failed != cudaSuccess) return failed;
    }
    return (int)cudaSuccess;
  });
  if (error != cudaSuccess || gradients == nullptr || layer.m > 0) return error;
  LinearBackward nothing = *gradients;  // dw and db of no rows are 0
  nothing.m = 0;
  return linear_backward(queue, dtype, tf32, nothing, nullptr);
}

}  // namespace innerloop::cuda
