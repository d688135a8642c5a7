// What the losses share: their reductions, and class labels and weights, read once.
#pragma once

#include "core/call.h"
#include "core/tensor.h"

namespace innerloop {

enum class Reduction { mean, sum, none, batchmean };
// Throws ValueError, naming those there are; "batchmean" is among them only for a loss that has it.
Reduction find_reduction(const std::string& name, bool batchmean = false);

Shape position(const TensorView& t, int64_t i);  // of flattened index i in an array of t's shape

// The sum of n losses of type f32 or f64 that lie end to end, in a tree that depends on n alone.
double sum_of(const void* losses, Dtype dtype, int64_t n);

// Labels are read once, into scratch: what was checked is what is used, whatever another thread writes meanwhile.
constexpr int64_t kIgnored = -1;
struct Labels {
  int64_t* index;   // of the class, or kIgnored; in C order of the target
  int64_t counted;  // labels that are not ignored
};
// Throws IndexError for a label that is neither in [0, classes) nor ignore_index.
Labels read_labels(Call& call, const TensorView& target, int64_t classes, int64_t ignore_index);

// A contiguous copy of an array in C order, in what it is computed in.
const void* read_values(Call& call, const TensorView& values);

// What a mean over labels divides by: the sum of weight[label] * sample_weight over those that are not ignored. Both
// weights are contiguous, of the dtype, and may be null, for 1.
double sum_of_weights(const Labels& labels, int64_t n, const void* weight, const void* sample_weight, Dtype dtype);

}  // namespace innerloop
