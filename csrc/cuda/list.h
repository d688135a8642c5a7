// The list of the GPU's kernels, and all that crosses between what nvcc compiles and the rest of innerloop._cuda.
#pragma once

#include "core/tensor.h"
#include "kernels.h"

namespace innerloop::cuda {

constexpr int kReduceBytes = 32 * 16;  // of shared memory, that Block::reduce keeps for each warp of a block
constexpr int kPlainShared = 48 * 1024 - kReduceBytes;  // what else a block has without asking

// Where a call runs: a stream of the device that is current, and what that has.
struct Queue {
  void* stream;  // cudaStream_t
  int processors;
  int shared_memory = kPlainShared;  // dynamic, in bytes, that a block may ask for
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

// Rows along one axis of arrays in C order without gaps: element c of row (o, i) is number (o * length + c) * inner +
// i, and that row is number o * inner + i.
struct RowShape {
  int64_t outer, length, inner;
};

// Arrays of one dtype; the output may be an input.
struct SoftmaxFunction {
  const char* name;
  int (*forward)(const Queue&, Dtype, const RowShape&, const char* x, char* y);
  int (*backward)(const Queue&, Dtype, const RowShape&, const char* dy, const char* y, char* dx);
};
extern const Span<SoftmaxFunction> softmaxes;

// What a kernel found wrong in an array that nobody but it has read: a label that is no class, which it ignores, or a
// prediction out of its loss's range, whose loss and gradient are NaN. Its device's word in the host's memory says what
// it was.
struct alignas(16) Fault {
  int64_t label;   // its bits, where it is a uint64; of a prediction, those of a double
  uint64_t found;  // 0: no fault. Of a label 2 * classes + 1, and the highest bit where it is a uint64; of a prediction
                   // 2 * (the elementwise loss's place in its list + 1)

  bool none() const { return found == 0; }
  bool is_prediction() const { return found % 2 == 0; }
  int64_t loss() const { return (int64_t)(found / 2) - 1; }
  bool is_unsigned() const { return found >> 63 != 0; }
  int64_t classes() const { return (int64_t)(found << 1 >> 2); }
};
// Moves what the current device's kernels found, the latest of several, to *fault and forgets it. With `wait`, of all
// that is queued so far, for which it waits; else of what is done.
int take_fault(const Queue&, bool wait, Fault*);

// Values that may be stored in the dtype of the arrays they belong to, or in what that is computed in; or null.
struct Weights {
  const char* data;
  Storage storage;
};

// A loss over rows of classes, with its gradient. Arrays of the dtype but where it says otherwise; of T, what that is
// computed in. Labels are any integers.
struct RowLoss {
  Dtype dtype, target_dtype;
  RowShape shape;
  const char *input, *target;  // the target: one label a row, or probabilities, as many as the input has elements
  Weights weight;              // one a class
  Weights sample_weight;       // one a row
  int64_t ignore_index;
  double grad_scale;
  bool mean;       // of the losses, and the gradient's: else their sum
  char* loss;      // one T: the reduced loss; or null
  char* losses;    // one T a row; or null
  char* gradient;  // or null; may be the input
};
int softmax_cross_entropy(const Queue&, const RowLoss&, double label_smoothing, double z_loss);
int nll_loss(const Queue&, const RowLoss&);

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
struct ElementwiseLossArrays {
  const double* parameters;
  const char *pred, *target;
  Weights sample_weight, array;       // or null: 1; the first is of `size` elements
  int64_t array_inner, array_period;  // element (i / inner) % period of the third array goes with element i
  char* loss;                         // the reduced loss, of what is computed in; or null
  char* losses;                       // one each, of the same dtype; or null
  char* gradient;                     // or null; may be written over pred
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

// --- the dense layer, of matrices by their steps alone, without a table of rows ---
// `tf32` lets float32 be multiplied with ten bits of fraction. Of half precision, dz is rounded before the two products
// of the backward pass.
int linear_forward(const Queue&, Dtype, bool tf32, const Linear&);
int linear_backward(const Queue&, Dtype, bool tf32, const LinearBackward&, const DropoutWork*);  // which may be null
// The loss of a layer's output, C = layer.n classes, of which rows of at most `logits_bytes` are held at a time. `loss`
// has the shape (layer.m, C, 1); its input is not read, and its gradient is not written. `gradients` may be null; half
// precision rounds dw and db after each part.
int linear_cross_entropy(const Queue&, bool tf32, const Linear& layer, const RowLoss& loss, double label_smoothing,
                         double z_loss, size_t logits_bytes, const LinearBackward* gradients);
extern const bool has_tensor_cores;  // products run on them where they can: CUTLASS was at hand when this was built

// What checking a call's arrays asks of the driver. Each but the text returns a cudaError_t.
struct Runtime {
  const char* (*error_text)(int error);
  bool (*is_absent)(int error);                       // there is no device, or no driver for it
  int (*device_of)(const void* memory, int* device);  // -1: memory of the host
  int (*current_device)(int* device);
  int (*use_device)(int device);            // binds its context to this thread, which may have had none
  int (*limits)(int device, Queue* queue);  // all of it but the stream
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
  const Span<SoftmaxFunction>* softmaxes;
  int (*softmax_cross_entropy)(const Queue&, const RowLoss&, double label_smoothing, double z_loss);
  int (*nll_loss)(const Queue&, const RowLoss&);
  int (*take_fault)(const Queue&, bool wait, Fault*);
  bool has_tensor_cores;
  int (*linear_forward)(const Queue&, Dtype, bool tf32, const Linear&);
  int (*linear_backward)(const Queue&, Dtype, bool tf32, const LinearBackward&, const DropoutWork*);
  int (*linear_cross_entropy)(const Queue&, bool tf32, const Linear& layer, const RowLoss& loss, double label_smoothing,
                              double z_loss, size_t logits_bytes, const LinearBackward* gradients);
};
extern const Kernels kernels;
constexpr const char* kKernelsCapsule = "innerloop.cuda.Kernels";

}  // namespace innerloop::cuda
