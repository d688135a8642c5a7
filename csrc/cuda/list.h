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
// Arrays that are stepped with the same numbers, those computed in float32 apart from those in float64.
struct StepGroup {
  StepNumbers numbers;
  unsigned used;
  struct {
    const StepArray* data;
    int64_t count;
  } arrays[2];  // [float64]
};
// Clipping by the norm of all gradients of a call, divided by grad_scale. The norm is written on the device.
struct Clipping {
  double max_norm, grad_scale;
  char* norm;
  bool float64;  // the norm's dtype, else float32
};
struct Optimizer {
  const char* name;
  int state_count;
  const State* states;
  // Up to 416 arrays are one launch. `clipping` may be null.
  int (*step)(const Queue&, const StepGroup* groups, int64_t count, const Clipping* clipping);
};
extern const Span<Optimizer> optimizers;
// Gradients, as the operand 1 of arrays, multiplied in place.
int clip(const Queue&, const StepGroup& gradients, const Clipping& clipping);

// --- dropout, forward and backward alike ---
int dropout(const Queue&, Dtype, const DropoutWork&, const Elements<2>& x_y);

// --- gated pairs: `rows` rows of two halves of `half` elements each, the trailing axes among them ---
struct GatedArrays {
  const char *dy, *x;  // dy: null in the forward pass
  char* out;           // y, or dx
  int64_t rows, half;
};
struct GatedPair {
  const char* name;
  int (*forward)(const Queue&, Dtype, const GatedArrays&);
  int (*backward)(const Queue&, Dtype, const GatedArrays&);
};
extern const Span<GatedPair> gated;

// --- prelu: x is (samples, channels, inner), with one slope a channel; a single slope: (1, 1, size) ---
struct PreluArrays {
  const char *dy, *x, *weight;  // dy: null in the forward pass
  char *out, *dweight;          // y or dx, which may be dy or x
  int64_t samples, channels, inner;
};
int prelu_forward(const Queue&, Dtype, const PreluArrays&);
int prelu_backward(const Queue&, Dtype, const PreluArrays&);

// --- batch_norm over (samples, channels, inner) ---
// The running statistics and `saved`, (2, channels) with mean and 1 / deviation, are of the dtype that is computed in.
struct BatchNormArrays {
  const char *dy, *x;                // dy: null in the forward pass
  const char *weight, *bias;         // or null
  char *running_mean, *running_var;  // forward: written in training, and may then be null
  char* saved;                       // forward: written, or null; backward: read
  char *out, *dweight, *dbias;       // y or dx, which may be dy or x; the others may be null
  int64_t samples, channels, inner;
  bool training;
  double eps, momentum;
};
int batch_norm_forward(const Queue&, Dtype, const BatchNormArrays&);
int batch_norm_backward(const Queue&, Dtype, const BatchNormArrays&);

// --- elementwise losses ---
// The weights are of the predictions' dtype or, if `wide`, of what that is computed in, as `losses` and `loss` are.
struct ElementwiseLossArrays {
  const double* parameters;
  const char *pred, *target;
  const char *sample_weight, *array;  // or null: 1; the first is of `size` elements
  bool sample_weight_wide, array_wide;
  int64_t array_inner, array_period;  // element (i / inner) % period of the third array goes with element i
  char *loss, *losses, *gradient;     // the reduced loss; one each, or null; the gradient may be written over pred
  int64_t size;
  double divisor;          // of the sum, and of grad_scale in the gradient
  bool divide_by_weights;  // by the sum of the sample weights in its place, if there are any
  double grad_scale;
};
struct ElementwiseLoss {
  const char* name;
  int (*run)(const Queue&, Dtype, const ElementwiseLossArrays&);
};
extern const Span<ElementwiseLoss> elementwise_losses;

// --- layer_norm and rms_norm, along the last axis ---
// `saved` is (2, rows) with mean and 1 / deviation, or (rows,) without a mean, of the dtype that is computed in.
struct RowNormArrays {
  const char *dy, *x;           // dy: null in the forward pass
  const char *weight, *bias;    // or null
  char* saved;                  // forward: written, or null; backward: read
  char *out, *dweight, *dbias;  // y or dx, which may be dy or x; the others may be null
  int64_t rows, length;
  double eps;
};
struct RowNorm {
  const char* name;
  bool has_mean;
  int (*forward)(const Queue&, Dtype, const RowNormArrays&);
  int (*backward)(const Queue&, Dtype, const RowNormArrays&);
};
extern const Span<RowNorm> row_norms;

// What checking a call's arrays asks of the driver. Each but the text returns a cudaError_t.
struct Runtime {
  const char* (*error_text)(int error);
  bool (*is_absent)(int error);                       // there is no device, or no driver for it
  int (*device_of)(const void* memory, int* device);  // -1: memory of the host
  int (*current_device)(int* device);
  int (*use_device)(int device);
  int (*processors)(int device, int* count);
};

// All that innerloop._core calls of innerloop._cuda, which hands it over in a capsule.
struct Kernels {
  Runtime runtime;
  const Span<Activation>* activations;
  const Span<Optimizer>* optimizers;
  int (*clip)(const Queue&, const StepGroup& gradients, const Clipping& clipping);
  int (*dropout)(const Queue&, Dtype, const DropoutWork&, const Elements<2>& x_y);
  const Span<GatedPair>* gated;
  int (*prelu_forward)(const Queue&, Dtype, const PreluArrays&);
  int (*prelu_backward)(const Queue&, Dtype, const PreluArrays&);
  const Span<RowNorm>* row_norms;
  int (*batch_norm_forward)(const Queue&, Dtype, const BatchNormArrays&);
  int (*batch_norm_backward)(const Queue&, Dtype, const BatchNormArrays&);
  const Span<ElementwiseLoss>* elementwise_losses;
};
extern const Kernels kernels;
constexpr const char* kKernelsCapsule = "innerloop.cuda.Kernels";

}  // namespace innerloop::cuda
