#include "core/losses.h"

#include <math.h>
#include <string.h>

#include "core/dispatch.h"
#include "core/errors.h"
#include "core/rows.h"

namespace innerloop {
namespace {

constexpr int64_t kIgnored = -1;

// Labels are read once, into scratch: what was checked is what is used, whatever another thread writes meanwhile.
struct Labels {
  int64_t* index;  // of the class, or kIgnored
  double weight;   // of the labels that count
};

// The position of flattened index i in an array of t's shape.
Shape position(const TensorView& t, int64_t i) {
  Shape at(t.ndim);
  for (int d = t.ndim - 1; d >= 0; d--) {
    at[d] = i % t.shape[d];
    i /= t.shape[d];
  }
  return at;
}

template <class Integer>
void check_label(const TensorView& target, Integer label, int64_t i, int64_t classes, int64_t ignore_index) {
  if (label >= 0 && (uint64_t)label < (uint64_t)classes) return;
  throw IndexError(std::string(target.name) + " must hold class labels from 0 to " + std::to_string(classes) +
                   ", that one excluded, or ignore_index, " + std::to_string(ignore_index) + "; got " +
                   std::to_string(label) + " at " + shape_text(position(target, i)));
}

template <class Integer>
Labels read_labels(Call& call, const TensorView& target, int64_t classes, int64_t ignore_index, const double* weight) {
  // Compared as the label's own type, where -100 is no uint64 and 300 no uint8.
  const Integer ignored = (Integer)ignore_index;
  const bool can_ignore = (int64_t)ignored == ignore_index && (ignored < 0) == (ignore_index < 0);
  const int64_t n = target.size();
  Labels labels = {call.array<int64_t>(n), 0};
  if (n == 0) return labels;

  int64_t index[kMaxDims] = {};
  const int last = target.ndim - 1;
  const int64_t run = last < 0 ? 1 : target.shape[last];
  const ptrdiff_t step = last < 0 ? 0 : target.strides[last];
  const char* row = target.data;
  for (int64_t i = 0; i < n;) {
    for (int64_t j = 0; j < run; j++, i++) {
      Integer label;
      memcpy(&label, row + j * step, sizeof label);
      if (can_ignore && label == ignored) {
        labels.index[i] = kIgnored;
        continue;
      }
      check_label(target, label, i, classes, ignore_index);
      labels.index[i] = (int64_t)label;
      labels.weight += weight ? weight[(int64_t)label] : 1;
    }
    for (int d = last - 1; d >= 0; d--) {
      row += target.strides[d];
      if (++index[d] < target.shape[d]) break;
      row -= index[d] * target.strides[d];
      index[d] = 0;
    }
  }
  return labels;
}

Labels read_labels(Call& call, const TensorView& t, int64_t classes, int64_t ignore_index, const double* weight) {
  switch (t.dtype) {
    case Dtype::i8:
      return read_labels<int8_t>(call, t, classes, ignore_index, weight);
    case Dtype::u8:
      return read_labels<uint8_t>(call, t, classes, ignore_index, weight);
    case Dtype::i16:
      return read_labels<int16_t>(call, t, classes, ignore_index, weight);
    case Dtype::u16:
      return read_labels<uint16_t>(call, t, classes, ignore_index, weight);
    case Dtype::i32:
      return read_labels<int32_t>(call, t, classes, ignore_index, weight);
    case Dtype::u32:
      return read_labels<uint32_t>(call, t, classes, ignore_index, weight);
    case Dtype::u64:
      return read_labels<uint64_t>(call, t, classes, ignore_index, weight);
    default:
      return read_labels<int64_t>(call, t, classes, ignore_index, weight);
  }
}

// The class weights, read once: as the kernels take them and as double.
struct Weights {
  const void* values = nullptr;
  const double* wide = nullptr;
};

template <class T>
Weights read_weights(Call& call, const TensorView& weight) {
  const int64_t n = weight.shape[0];
  T* values = call.array<T>(n);
  double* wide = call.array<double>(n);
  for (int64_t c = 0; c < n; c++) {
    memcpy(&values[c], weight.data + c * weight.strides[0], sizeof(T));
    wide[c] = (double)values[c];
  }
  return {values, wide};
}

// In a tree that depends on n alone: halves of 512 elements or fewer, and those over eight lanes.
template <class T>
double sum_of(const T* x, int64_t n) {
  if (n > 512) {
    const int64_t half = (n / 2 + 7) & ~int64_t(7);
    return sum_of(x, half) + sum_of(x + half, n - half);
  }
  double lane[8] = {};
  for (int64_t i = 0; i < n; i++) lane[i % 8] += (double)x[i];
  return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

}  // namespace

Reduction find_reduction(const std::string& name) {
  if (name == "mean") return Reduction::mean;
  if (name == "sum") return Reduction::sum;
  if (name == "none") return Reduction::none;
  throw ValueError("reduction must be one of mean, sum, none, got '" + name + "'");
}

void check_labels(const TensorView& logits, const TensorView& target, const CrossEntropyOptions& options) {
  Call call;
  if (is_floating(target.dtype)) return;
  read_labels(call, target, logits.shape[options.axis], options.ignore_index, nullptr);
}

double softmax_cross_entropy(const TensorView& logits, const TensorView& target, const TensorView* weight,
                             const CrossEntropyOptions& options, const TensorView* losses, const TensorView* dlogits) {
  Call call;
  const bool wide = logits.dtype == Dtype::f64, probabilities = is_floating(target.dtype);
  const int64_t classes = logits.shape[options.axis];
  const TensorView rows_shape = without_axis(logits, options.axis);
  const int64_t rows = rows_shape.size();
  Weights weights;
  if (weight) weights = wide ? read_weights<double>(call, *weight) : read_weights<float>(call, *weight);
  Labels labels = {nullptr, classes > 0 ? (double)rows : 0};  // as in PyTorch, the mean over no logits is NaN
  if (!probabilities) labels = read_labels(call, target, classes, options.ignore_index, weights.wide);
  TensorView rows_losses;
  if (losses) {
    rows_losses = *losses;
  } else {
    rows_losses =
        contiguous_view(wide ? (void*)call.array<double>(rows) : call.array<float>(rows), logits.dtype, rows_shape);
  }
  const double divisor = options.reduction == Reduction::mean ? labels.weight : 1;

  if (rows > 0 && classes > 0) {
    CrossEntropyWork work;
    const TensorView label_view = probabilities ? rows_losses : contiguous_view(labels.index, Dtype::i64, rows_shape);
    work.rows = plan_rows<5>({{&logits, true},
                              {probabilities ? &target : &rows_losses, probabilities},
                              {&label_view, false},
                              {&rows_losses, false},
                              {dlogits ? dlogits : &logits, true}},
                             options.axis, classes);
    if (!dlogits) work.rows.gathered[4] = false;
    work.probabilities = probabilities;
    work.gradient = dlogits != nullptr;
    work.weight = weights.values;
    work.label_smoothing = options.label_smoothing;
    work.scale = options.grad_scale / divisor;
    const LossKernels& typed = wide ? kernels().losses->f64 : kernels().losses->f32;
    run_rows(call, work.rows, [&](void* scratch, int64_t begin, int64_t end) {
      typed.softmax_cross_entropy(work, scratch, begin, end);
    });
  } else if (losses) {
    memset(losses->data, 0, (size_t)rows * dtype_size(logits.dtype));  // fresh, so contiguous
  }
  if (options.reduction == Reduction::none) return 0;
  if (classes == 0) return 0 / divisor;
  const double sum =
      wide ? sum_of((const double*)rows_losses.data, rows) : sum_of((const float*)rows_losses.data, rows);
  return sum / divisor;
}

}  // namespace innerloop
