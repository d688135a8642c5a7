// THE LIST: every kernel that a backend has, as one struct of function pointers.
// Each instruction set of cmake/isa.cmake exports one constant Kernels; core/dispatch picks one; nothing else crosses
// between the per-ISA objects and the rest. Kernels trust their arguments: core has checked them.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace innerloop {

constexpr int kMaxDims = 64;        // NumPy's own limit
constexpr int kMaxParameters = 12;  // of one activation or optimizer
constexpr int kMaxStates = 4;       // arrays that an optimizer keeps for one parameter array

// What a kernel may ask of the core: threads and memory. It belongs to one call.
struct Team {
  int threads;  // how many tasks can run at once
  void (*run_tasks)(Team& team, int tasks, void (*task)(void* argument, int index), void* argument);
  void* (*get_scratch)(Team& team, size_t bytes);

  // Runs task(0) .. task(tasks - 1), the caller's thread among the workers, and returns when all are done.
  template <class Task>
  void run(int tasks, const Task& task) {
    run_tasks(*this, tasks, [](void* t, int index) { (*static_cast<const Task*>(t))(index); }, (void*)&task);
  }

  // 64-byte aligned memory until the call ends. Throws std::bad_alloc: ask on the caller's thread, before the first
  // write to an output.
  void* scratch(size_t bytes) { return get_scratch(*this, bytes); }
};

template <class T>
struct Span {
  const T* data;
  int count;
  const T* begin() const { return data; }
  const T* end() const { return data + count; }
};

// One noun's kernels in every dtype.
template <class K>
struct ByDtype {
  K f32, f64;
};

// A number that a rule takes, such as negative_slope or lr, and the range it must lie in.
struct Parameter {
  const char* name;
  double default_value;
  double minimum = -__builtin_inf();
  double maximum = __builtin_inf();
  bool below_maximum = false;  // the maximum itself is refused
  bool is_flag = false;        // Python's False or True, 0 or 1
  bool above_minimum = false;  // the minimum itself is refused
};

// Elementwise work over up to Operands arrays of one shape, axes merged where memory allows.
// Strides are in bytes and may be 0 or negative; the last axis is the innermost.
template <int Operands>
struct Walk {
  int ndim;  // at least 1
  int64_t shape[kMaxDims];
  ptrdiff_t stride[Operands][kMaxDims];
  char* data[Operands];
  bool stream;  // the last operand is larger than the last-level cache: write around the caches
};

// One activation in one dtype. Ranges are of the walk's flattened index.
struct ActivationKernels {
  void (*forward)(const double* parameters, const Walk<2>& x_y, int64_t begin, int64_t end);
  // `saved` is y for activations that save their output, else x.
  void (*backward)(const double* parameters, const Walk<3>& dy_saved_dx, int64_t begin, int64_t end);
  // dx from dy and x for activations that save their output, where only the input is at hand.
  void (*backward_from_input)(const double* parameters, const Walk<3>& dy_x_dx, int64_t begin, int64_t end);
};

struct Activation {
  const char* name;
  const Parameter* parameters;
  int parameter_count;
  bool saves_output;  // the derivative is taken from y, so a layer keeps y and not x
  ActivationKernels f32, f64;
};

// An array that an optimizer keeps beside each parameter array.
struct State {
  const char* name;
  const char* needed_by = nullptr;  // the parameter that must not be 0 for the state to be used; null: always used
};

constexpr int kMaxOperands = 2 + kMaxStates;  // of a step: param, grad and the states

// The numbers of one step, in the types that the rule likes: filled by `prepare`, read by the loops.
struct StepScalars {
  alignas(8) unsigned char bytes[128];
};

// One optimizer in one dtype. The operands are param, grad and the states in their order; bit i of `used` says whether
// state i is read and written, and where it is not set its operand is never touched.
struct OptimizerKernels {
  void (*prepare)(const double* parameters, double step, StepScalars& scalars);
  void (*flat)(const StepScalars& scalars, unsigned used, char* const* operands, int64_t begin, int64_t end);
  void (*strided)(const StepScalars& scalars, unsigned used, const Walk<kMaxOperands>& operands, int64_t begin,
                  int64_t end);
};

struct Optimizer {
  const char* name;
  const Parameter* parameters;
  int parameter_count;
  const State* states;
  int state_count;
  const char* (*refuse)(const double* parameters);  // why these do not go together, or null; may itself be null
  OptimizerKernels f32, f64;
};

// exp, log, erf: what the rules are made of, reachable for tests of their accuracy.
struct Elementary {
  const char* name;
  void (*f32)(const float* x, float* y, int64_t n);
  void (*f64)(const double* x, double* y, int64_t n);
};

// A matrix in memory: element (i, j) lies at data + i * row + j * column bytes; where leading axes of an array do not
// merge into one, at data + rows[i] + j * column.
struct Matrix {
  char* data;
  ptrdiff_t row, column;
  const ptrdiff_t* rows;
};

// y = act(x @ w + b): x is m x k, w is k x n.
struct Linear {
  int64_t m, n, k;
  Matrix x, w, y;
  Matrix z;            // where the pre-activation goes; data is null if nobody keeps it
  const void* panels;  // w as `pack` laid it out, or null; then w is not read
  const char* bias;    // or null
  ptrdiff_t bias_stride;
  int activation;  // its index in the list
  const double* parameters;
};

// dx = dz @ w^T, dw = x^T @ dz, db = the sum of dz's rows, where dz = dy * act'(saved).
struct LinearBackward {
  int64_t m, n, k;
  Matrix dy, x, w, dx, dw;
  Matrix saved;        // data is null for the identity
  const void* panels;  // of w transposed, or null; then w is not read
  char* db;            // or null
  ptrdiff_t db_stride;
  int activation;
  const double* parameters;
};

// The dense layer in one dtype.
struct LinearKernels {
  int panel;  // columns of a panel: `pack` needs room for k * (n rounded up to a multiple of it)
  void (*pack)(Team& team, int64_t k, int64_t n, const Matrix& w, void* panels);
  void (*forward)(Team& team, const Linear& linear);
  void (*backward)(Team& team, const LinearBackward& linear);
};

// Rows along one axis of up to Operands arrays: a step of the walk is a row. Rows that do not lie contiguous are worked
// on in scratch, `block` rows at a time, so that one kernel serves every layout with the same bits.
constexpr int kRowsAtOnce = 16;  // largest `block`
template <int Operands>
struct Rows {
  Walk<Operands> walk;  // over the other axes
  int64_t length;       // elements of a row, at least 1
  int block;
  ptrdiff_t pitch;           // bytes from one row in scratch to the next
  bool gathered[Operands];   // worked on in scratch
  ptrdiff_t step[Operands];  // bytes between the elements of a gathered row
};

// A long row is read in blocks of this many elements, each of which may raise the maximum that exp is taken relative
// to. The scratch of a task begins with one element a block, then come the gathered rows, operand by operand.
constexpr int64_t kRowBlock = 2048;

// Softmax or log_softmax in one dtype. Ranges are of the rows.
struct SoftmaxKernels {
  void (*forward)(const Rows<2>& x_y, void* scratch, int64_t begin, int64_t end);
  void (*backward)(const Rows<3>& dy_y_dx, void* scratch, int64_t begin, int64_t end);
};

struct SoftmaxFunction {
  const char* name;
  SoftmaxKernels f32, f64;
};

// Softmax cross-entropy over rows of logits; see rules/softmax_cross_entropy.h. T is the dtype of all but the labels.
struct CrossEntropyWork {
  // logits; target probabilities; labels, one int64 a row, -1: ignored; sample weights, one T a row; losses, one T a
  // row; dlogits
  Rows<6> rows;
  bool probabilities;    // else labels
  bool sample_weighted;  // else every row weighs 1
  bool gradient;         // whether dlogits are wanted
  const void* weight;    // one T a class, contiguous; or null
  double label_smoothing, z_loss;
  double scale;  // multiplies the gradient
};
using CrossEntropyKernel = void (*)(const CrossEntropyWork& work, void* scratch, int64_t begin, int64_t end);

// A block of an elementwise loss: n elements of each array, contiguous, at any alignment. The losses of a block are
// added up over 16 lanes, the sums of the blocks in double: they depend on the shape alone.
constexpr int kLossBlock = 2048;  // most elements of a block; all but the last have as many
struct LossBlock {
  int n;
  const char *pred, *target;
  const char *sample_weight, *array;  // null: 1
  char *losses, *gradient;            // null where not wanted; the gradient may be written over pred
  double scale;                       // multiplies the gradient
  bool stream;                        // write the gradient around the caches
};

// One elementwise loss in one dtype.
struct ElementwiseLossKernels {
  double (*block)(const double* parameters, const LossBlock& block);     // returns the sum of its losses
  bool (*inside)(const char* x, int n, double minimum, double maximum);  // whether all lie there; NaN does not
};

struct ElementwiseLoss {
  const char* name;
  const Parameter* parameters;
  int parameter_count;
  const char* array;         // name of the third array, or null
  bool batchmean;            // has that reduction
  const double* pred_range;  // [minimum, maximum] of the predictions, or null
  ElementwiseLossKernels f32, f64;
};

// nll_loss over rows of log-probabilities, of which it reads one a row.
struct NllWork {
  Walk<5> rows;          // log-probabilities; labels, one int64 a row, -1: ignored; sample weights; losses; gradient
  ptrdiff_t step;        // bytes from one class to the next in the log-probabilities
  ptrdiff_t grad_step;   // and in the gradient
  bool sample_weighted;  // else every row weighs 1
  const void* weight;    // one T a class, contiguous; or null
  double scale;          // multiplies the gradient
};
struct NllKernels {
  void (*losses)(const NllWork& work, int64_t begin, int64_t end);
  void (*gradient)(const NllWork& work, int64_t begin, int64_t end);  // at the labels; it is 0 elsewhere
};

// Loops that reach a limit of the machine, for benchmarks to be held against.
struct MemoryProbe {
  const char* name;
  int passes;  // bytes moved, in times the buffer's size
  void (*run)(float* buffer, int64_t n);
};
struct Probes {
  int64_t (*fma_f32)(int64_t rounds, float* sink);  // both return the number of floating-point operations
  int64_t (*fma_f64)(int64_t rounds, double* sink);
  Span<MemoryProbe> memory;
};

struct Kernels {
  const char* isa;
  int vector_bytes;
  bool has_fma;
  const Span<Elementary>* elementary;
  const Span<Activation>* activations;
  const Span<SoftmaxFunction>* softmaxes;
  const ByDtype<LinearKernels>* linear;
  const ByDtype<CrossEntropyKernel>* softmax_cross_entropy;
  const Span<ElementwiseLoss>* elementwise_losses;
  const ByDtype<NllKernels>* nll_loss;
  const Span<Optimizer>* optimizers;
  const Probes* probes;
};

}  // namespace innerloop
