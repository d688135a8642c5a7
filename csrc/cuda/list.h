// The list of the GPU's kernels, and all that crosses between what nvcc compiles and the rest of innerloop._cuda.
#pragma once

#include "core/tensor.h"
#include "kernels.h"

namespace innerloop::cuda {

// Where a call runs: a stream of the device that is current, and how many multiprocessors that has.
struct Queue {
  void* stream;  // cudaStream_t
  int processors;
};

// Arrays of one dtype and of as many elements each, which lie in the same order without gaps; the last is written.
template <int Operands>
struct Elements {
  char* data[Operands];
  int64_t size;
  bool aligned;  // every address is a multiple of 16
};

// Each queues one launch and returns its cudaError_t. Arguments have been checked.
struct Activation {
  const char* name;
  int (*forward)(const Queue&, Dtype, const double* parameters, const Elements<2>& x_y);
  // `saved` is y for activations that save their output, else x.
  int (*backward)(const Queue&, Dtype, const double* parameters, const Elements<3>& dy_saved_dx);
  int (*backward_from_input)(const Queue&, Dtype, const double* parameters, const Elements<3>& dy_x_dx);
};
extern const Span<Activation> activations;

// One parameter array of a step. The operands are param, grad and the states in their order, as far as they are used,
// all in one order without gaps; states are of the dtype that is computed in, as are param and grad if stored in full.
struct StepArray {
  char* data[kMaxOperands];
  char* copy;  // half precision of what is stepped, written beside it; or null
  int64_t size;
  Storage param, grad, copied;
  bool aligned;  // every address is a multiple of 16
};
struct StepNumbers {
  const double* parameters;
  double step, factor, l1;  // factor and l1 as in StepScalars
};
struct Optimizer {
  const char* name;
  int state_count;
  const State* states;
  // Of arrays that are all computed in float64, or all in float32. Up to 416 are one launch.
  int (*step)(const Queue&, bool float64, const StepNumbers&, unsigned used, const StepArray* arrays, int64_t count);
};
extern const Span<Optimizer> optimizers;

// --- the dense layer: matrices by their steps alone, without a table of rows ---
// `tf32` lets float32 be multiplied with ten bits of fraction.
int linear_forward(const Queue&, Dtype, bool tf32, const Linear&);
int linear_backward(const Queue&, Dtype, bool tf32, const LinearBackward&, const DropoutWork*);  // which may be null

}  // namespace innerloop::cuda
