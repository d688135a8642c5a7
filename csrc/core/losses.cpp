#include "core/losses.h"

#include <string.h>

#include "core/errors.h"
#include "core/half.h"

namespace innerloop {
namespace {

// visit(pointer, i) for each element in C order.
template <class Visit>
void for_elements(const TensorView& t, const Visit& visit) {
  const int64_t n = t.size();
  if (n == 0) return;
  int64_t i = 0;
  for_runs(walk_elements(t), 0, n, [&](const char* p, ptrdiff_t step, int64_t run) {
    for (int64_t j = 0; j < run; j++, i++) visit(p + j * step, i);
  });
}

template <class Integer>
void check_label(const TensorView& target, Integer label, int64_t i, int64_t classes, int64_t ignore_index) {
  if (label >= 0 && (uint64_t)label < (uint64_t)classes) return;
  throw IndexError(std::string(target.name) + " must hold class labels from 0 to " + std::to_string(classes) +
                   ", that one excluded, or ignore_index, " + std::to_string(ignore_index) + "; got " +
                   std::to_string(label) + " at " + shape_text(position(target, i)));
}

template <class Integer>
Labels read(Call& call, const TensorView& target, int64_t classes, int64_t ignore_index) {
  // Compared as the label's own type, where -100 is no uint64 and 300 no uint8.
  const Integer ignored = (Integer)ignore_index;
  const bool can_ignore = (int64_t)ignored == ignore_index && (ignored < 0) == (ignore_index < 0);
  Labels labels = {call.array<int64_t>(target.size()), 0};
  for_elements(target, [&](const char* p, int64_t i) {
    Integer label;
    memcpy(&label, p, sizeof label);
    if (can_ignore && label == ignored) {
      labels.index[i] = kIgnored;
      return;
    }
    check_label(target, label, i, classes, ignore_index);
    labels.index[i] = (int64_t)label;
    labels.counted++;
  });
  return labels;
}

template <class T>
const T* read_as(Call& call, const TensorView& t) {
  T* values = call.array<T>(t.size());
  for_elements(t, [&](const char* p, int64_t i) { memcpy(&values[i], p, sizeof(T)); });
  return values;
}

template <class T>
double weights_of(const Labels& labels, int64_t n, const T* weight, const T* sample_weight) {
  double sum = 0;
  for (int64_t i = 0; i < n; i++) {
    if (labels.index[i] == kIgnored) continue;
    sum += (weight ? (double)weight[labels.index[i]] : 1) * (sample_weight ? (double)sample_weight[i] : 1);
  }
  return sum;
}

// Halves of 512 elements or fewer, and those over eight lanes.
template <class T>
double sum_tree(const T* x, int64_t n) {
  if (n > 512) {
    const int64_t half = (n / 2 + 7) & ~int64_t(7);
    return sum_tree(x, half) + sum_tree(x + half, n - half);
  }
  double lane[8] = {};
  for (int64_t i = 0; i < n; i++) lane[i % 8] += (double)x[i];
  return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

}  // namespace

Reduction find_reduction(const std::string& name, bool batchmean) {
  if (name == "mean") return Reduction::mean;
  if (name == "sum") return Reduction::sum;
  if (name == "none") return Reduction::none;
  if (name == "batchmean" && batchmean) return Reduction::batchmean;
  throw ValueError("reduction must be one of mean, sum, none" + std::string(batchmean ? ", batchmean" : "") +
                   ", got '" + name + "'");
}

Shape position(const TensorView& t, int64_t i) {
  Shape at(t.ndim);
  for (int d = t.ndim - 1; d >= 0; d--) {
    at[d] = i % t.shape[d];
    i /= t.shape[d];
  }
  return at;
}

double sum_of(const void* losses, Dtype dtype, int64_t n) {
  return dtype == Dtype::f64 ? sum_tree((const double*)losses, n) : sum_tree((const float*)losses, n);
}

Labels read_labels(Call& call, const TensorView& t, int64_t classes, int64_t ignore_index) {
  switch (t.dtype) {
    case Dtype::i8:
      return read<int8_t>(call, t, classes, ignore_index);
    case Dtype::u8:
      return read<uint8_t>(call, t, classes, ignore_index);
    case Dtype::i16:
      return read<int16_t>(call, t, classes, ignore_index);
    case Dtype::u16:
      return read<uint16_t>(call, t, classes, ignore_index);
    case Dtype::i32:
      return read<int32_t>(call, t, classes, ignore_index);
    case Dtype::u32:
      return read<uint32_t>(call, t, classes, ignore_index);
    case Dtype::u64:
      return read<uint64_t>(call, t, classes, ignore_index);
    default:
      return read<int64_t>(call, t, classes, ignore_index);
  }
}

const void* read_values(Call& call, const TensorView& t) {
  if (is_half(t.dtype)) return widened(call, t).data;
  if (t.dtype == Dtype::f64) return read_as<double>(call, t);
  return read_as<float>(call, t);
}

double sum_of_weights(const Labels& labels, int64_t n, const void* weight, const void* sample_weight, Dtype dtype) {
  if (!weight && !sample_weight) return (double)labels.counted;
  return dtype == Dtype::f64 ? weights_of(labels, n, (const double*)weight, (const double*)sample_weight)
                             : weights_of(labels, n, (const float*)weight, (const float*)sample_weight);
}

}  // namespace innerloop
