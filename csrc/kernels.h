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
  size_t frugal = SIZE_MAX;  // a kernel that can do with less memory takes at most this

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

// prelu's slopes are summed over blocks of this many elements of a channel.
constexpr int64_t kSlopeBlock = 1024;
constexpr int64_t kSlopePitch = kSlopeBlock + 16;  // from channel to channel in scratch: no power of two

// For the gradient of prelu's slopes: one sum a block and channel. Pieces are blocks of up to kRowsAtOnce channels,
// worked on in scratch of 2 * kRowsAtOnce * kSlopePitch elements.
struct SlopeSums {
  Walk<2> dy_x;  // the elements of one channel, in the order of their indices
  int64_t length, channels;
  ptrdiff_t channel[2];  // bytes from one channel to the next
  void* sums;            // blocks x channels
};

// prelu in one dtype. Slopes are an operand of the walk, with strides of 0 where one serves many elements.
struct PreluKernels {
  void (*forward)(const Walk<3>& x_slope_y, int64_t begin, int64_t end);
  void (*backward)(const Walk<4>& dy_x_slope_dx, int64_t begin, int64_t end);
  void (*slope_sums)(const SlopeSums& work, void* scratch, int64_t begin, int64_t end);
};

// One gated pair in one dtype.
struct GatedKernels {
  void (*forward)(const Walk<3>& gate_value_y, int64_t begin, int64_t end);
  void (*backward)(const Walk<5>& dy_gate_value_dgate_dvalue, int64_t begin, int64_t end);
};

struct GatedPair {
  const char* name;
  const char* activation;  // of the gate
  bool gate_is_first;      // of the two halves
  GatedKernels f32, f64;
};

// An array that an optimizer keeps beside each parameter array.
struct State {
  const char* name;
  const char* needed_by = nullptr;  // the parameter that must not be 0 for the state to be used; null: always used
  const char* starts_as = nullptr;  // the parameter that its elements start as; null: 0
  bool below_0 = true;              // it may be; else its 8-bit codes need no sign
};

constexpr int kMaxOperands = 2 + kMaxStates;  // of a step: param, grad and the states

// Elements of a state in fewer bits that share a key of stochastic rounding, and of 8 bits a scale: rules/rounding.h.
constexpr int kRoundingBlock = 256;

// The numbers of one step: `factor` multiplies the gradients (unscaled, clipped, negated to maximize), `l1` is the L1
// penalty; the rest, in the types that the rule likes, is filled by `prepare` and read by the loops.
struct StepScalars {
  double factor = 1, l1 = 0;
  alignas(8) unsigned char bytes[128];
};

// One optimizer in one dtype. The operands are param, grad and the states in their order; bit i of `used` says whether
// state i is read and written, and where it is not set its operand is never touched.
struct OptimizerKernels {
  void (*prepare)(const double* parameters, double step, StepScalars& scalars);
  void (*flat)(const StepScalars& scalars, unsigned used, char* const* operands, int64_t begin, int64_t end);
  void (*strided)(const StepScalars& scalars, unsigned used, const Walk<kMaxOperands>& operands, int64_t begin,
                  int64_t end);
  // float32 with states in bfloat16, which are rounded stochastically by keys[state] (StateKernels): n elements that
  // lie end to end, of which the first is element `first` of its array; both are multiples of kRoundingBlock.
  void (*rounded)(const StepScalars& scalars, unsigned used, char* const* operands, const uint64_t* keys, int64_t first,
                  int64_t n);
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

// Elements of a gradient, in C order, that are summed together: the norm's bits depend on nothing but its shape.
constexpr int64_t kNormBlock = 16384;

// What clipping by norm asks of the gradients. The walk's axes are in C order for `sum_squares`.
struct GradientKernels {
  // The sum of (scale x)^2 over at most kNormBlock elements, in double over 16 lanes. `scale` is a power of 2.
  double (*sum_squares)(const Walk<1>& x, double scale, int64_t begin, int64_t end);
  void (*multiply)(const Walk<1>& x, double factor, int64_t begin, int64_t end);  // in place
};

// Arrays of one storage type to and from contiguous float32. Ranges are of the walk's flattened index; the other side
// holds end - begin elements.
struct StorageKernels {
  void (*widen)(const Walk<1>& from, int64_t begin, int64_t end, float* to);
  void (*narrow)(const float* from, const Walk<1>& to, int64_t begin, int64_t end);  // to the nearest, ties to even
};

// Optimizer states in fewer bits, and a float32 in two halves. All arrays are contiguous and start at element 0; begin
// is a multiple of kRoundingBlock, and the float32 side holds the elements [begin, end) alone.
struct StateKernels {
  // Rounded stochastically, with random bits from `key` and the element's place.
  void (*round_bf16)(const float* from, int64_t begin, int64_t end, uint64_t key, char* to);
  // One byte an element and a float32 scale a block; `negatives`: the state may be below 0.
  void (*widen_8bit)(const char* codes, const char* scales, bool negatives, int64_t begin, int64_t end, float* to);
  void (*round_8bit)(const float* from, bool negatives, int64_t begin, int64_t end, uint64_t key, char* codes,
                     char* scales);
};

// A float32 as the bfloat16 nearest to it and the 16 bits that are missing. Ranges are of the walks' flattened index.
struct SplitKernels {
  void (*join)(const Walk<1>& upper, const Walk<1>& lower, int64_t begin, int64_t end, float* to);
  void (*split)(const float* from, const Walk<1>& upper, const Walk<1>& lower, int64_t begin, int64_t end);
};

struct Storages {
  StorageKernels f32, bf16, f16;
  StateKernels states;
  SplitKernels split;
};

// exp, log, erf: what the rules are made of, reachable for tests of their accuracy.
struct Elementary {
  const char* name;
  void (*f32)(const float* x, float* y, int64_t n);
  void (*f64)(const double* x, double* y, int64_t n);
};

// How the elements of a float32 kernel's array lie in memory: as they are, or as half precision.
enum class Storage : uint8_t { full, bfloat16, float16 };

// A matrix in memory: element (i, j) lies at data + i * row + j * column bytes; where leading axes of an array do not
// merge into one, at data + rows[i] + j * column.
struct Matrix {
  char* data;
  ptrdiff_t row, column;
  const ptrdiff_t* rows;
  Storage storage = Storage::full;
};

// The elements of a vector, a step apart.
struct Strided {
  char* data;  // or null
  ptrdiff_t stride;
  Storage storage = Storage::full;
};

// What a dropout's mask is made of, see rules/dropout.h.
struct DropoutWork {
  uint64_t seed, offset;
  double p;
};

// y = act(x @ w + b): x is m x k, w is k x n.
struct Linear {
  int64_t m, n, k;
  Matrix x, w, y;
  Matrix z;            // where the pre-activation goes; data is null if nobody keeps it
  const void* panels;  // w as `pack` laid it out, or null; then w is not read
  Strided bias;        // data may be null
  int activation;      // its index in the list
  const double* parameters;
  const DropoutWork* dropout;  // of act(...); or null
  bool keeps_output;           // z gets act(...), before dropout, in place of the pre-activation
};

// dx = dz @ w^T, dw = x^T @ dz, db = the sum of dz's rows, where dz = dy * act'(saved).
struct LinearBackward {
  int64_t m, n, k;
  Matrix dy, x, w, dx, dw;
  Matrix saved;        // data is null for the identity
  const void* panels;  // of w transposed, or null; then w is not read
  Strided db;          // data may be null
  int activation;
  const double* parameters;
  // These, in full storage, go on from what they hold: the same bits as all rows, or all columns of w, at once.
  bool accumulate_dw, accumulate_dx;  // db with dw
  bool without_dw, without_dx;        // not wanted; db with dw
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

// layer_norm or rms_norm in one dtype: y = (x - mean) rstd w + b along each row, see rules/norms.h. Arrays of T are
// contiguous, one element an element of the row.
struct RowNorm {
  const void *weight, *bias;
  double eps;
};

struct RowNormKernels {
  // mean and rstd are one T a row, written.
  void (*forward)(const Rows<4>& x_mean_rstd_y, const RowNorm& work, void* scratch, int64_t begin, int64_t end);
  // Where dweight and dbias are not null, the sums over these rows, in their order, are added to them.
  void (*backward)(const Rows<5>& dy_x_mean_rstd_dx, const void* weight, void* scratch, int64_t begin, int64_t end,
                   void* dweight, void* dbias);
  // out[i] = the sum over b < blocks of sums[b * n + i], for i in [begin, end).
  void (*add_blocks)(const void* sums, int64_t blocks, int64_t n, char* out, ptrdiff_t stride, int64_t begin,
                     int64_t end);
};

struct RowNormFunction {
  const char* name;
  bool has_mean;
  RowNormKernels f32, f64;
};

// batch_norm in one dtype; T is float or double. Where a channel has many elements of a sample side by side, these are
// a row, and what belongs to the channel is an operand of one T a row. Where it has few, a whole sample is a row, and
// what belongs to its columns, the elements of all channels, is a contiguous array.
//
// Statistics and gradients are made of sums over parts of a channel, of u and of u v, where v = x - base, and u = v for
// the statistics, u = dy for the gradients. Part (o, i) of channel c, i < inner, is element o * outer_stride + c *
// inner
// + i of u and uv, and element o * base_stride + c * inner + i of base. It has `count` elements; where o is the last,
// last_count.
struct ChannelParts {
  const void *base, *u, *uv;
  int64_t outer, outer_stride, base_stride, inner, count, last_count;
};

// What a call knows of each channel. Of the first, arrays of T but where they are double; all contiguous but for those
// with a stride.
struct Channels {
  bool training;
  int64_t count;  // elements of a channel
  double eps, momentum;
  const void *weight, *bias;
  double *sum_0, *sum_1;  // mean and squared deviations, or the gradients' u and uv: from `moments` or `sums`
  void *mean, *rstd;      // saved
  void *scale, *shift,
      *slope;  // forward: y = (x - mean) scale + shift; backward: dx = (x - mean) slope + dy scale + shift
  char *running_mean, *running_var, *dweight, *dbias;  // or null
  ptrdiff_t running_mean_stride, running_var_stride, dweight_stride, dbias_stride;
};

struct BatchNormKernels {
  void (*row_moments)(const Rows<4>& x_base_u_uv, void* scratch, int64_t begin, int64_t end);  // base is written, too
  void (*row_gradients)(const Rows<5>& dy_x_base_u_uv, void* scratch, int64_t begin, int64_t end);
  void (*row_forward)(const Rows<5>& x_base_scale_shift_y, void* scratch, int64_t begin, int64_t end);
  void (*row_backward)(const Rows<7>& dy_x_base_scale_slope_shift_dx, void* scratch, int64_t begin, int64_t end);
  // The last operand of the two sums is not touched; the sums over these rows, in their order, are added to u and uv.
  void (*column_moments)(const Rows<2>& x, const void* base, void* scratch, int64_t begin, int64_t end, void* u,
                         void* uv);
  void (*column_gradients)(const Rows<3>& dy_x, const void* base, void* scratch, int64_t begin, int64_t end, void* u,
                           void* uv);
  void (*column_forward)(const Rows<2>& x_y, const void* base, const void* scale, const void* shift, void* scratch,
                         int64_t begin, int64_t end);
  void (*column_backward)(const Rows<3>& dy_x_dx, const void* base, const void* scale, const void* slope,
                          const void* shift, void* scratch, int64_t begin, int64_t end);
  // Of the channels [begin, end).
  void (*moments)(const ChannelParts& parts, double* mean, double* squares, int64_t begin, int64_t end);
  void (*sums)(const ChannelParts& parts, double* u, double* uv, int64_t begin, int64_t end);
  void (*prepare_forward)(const Channels& channels, int64_t begin, int64_t end);  // mean, rstd, scale and shift
  void (*update_running)(const Channels& channels, int64_t begin, int64_t end);
  void (*prepare_backward)(const Channels& channels, int64_t begin, int64_t end);  // scale, slope and shift
  void (*write_gradients)(const Channels& channels, int64_t begin, int64_t end);   // dweight and dbias
};

struct DropoutKernels {
  // Element i of the walk is element first + i of the array.
  void (*run)(const DropoutWork& work, const Walk<2>& x_y, int64_t first, int64_t begin, int64_t end);
};
struct Random {
  // n words from a block on, see rules/philox.h.
  void (*philox)(uint64_t seed, uint64_t offset, uint64_t block, int64_t n, uint32_t* words);
  ByDtype<DropoutKernels> dropout;
};

// What the loss of a row is made of, over the classes seen so far.
struct CrossEntropySums {
  double top = -__builtin_inf(), total = 0;  // the largest logit; sum(exp(z - top))
  double sum_q = 0, sum_qz = 0;              // of the shares q: sum(q), sum(q (z - top))
  double label = 0;                          // the label's logit
};

// Softmax cross-entropy of rows of which only some classes are at hand. T is the dtype of all but labels and sums.
struct CrossEntropyPart {
  int64_t first, classes, all_classes;  // classes [first, first + classes)
  char* z;                              // logits, their classes end to end; the gradient takes their place
  ptrdiff_t z_row;
  const char* probabilities;  // of the same classes, end to end; null for labels
  ptrdiff_t probabilities_row;
  const int64_t* labels;      // one a row, -1: ignored; null for probabilities
  const void* weight;         // one T for each of all classes; or null
  const void* sample_weight;  // one T a row; or null
  double label_smoothing, z_loss, scale;
  CrossEntropySums* sums;  // one a row
  const void* slopes;      // four T a row, as `finish` wrote them
};

struct CrossEntropyParts {
  void (*add)(const CrossEntropyPart& part, int64_t begin, int64_t end);
  void (*finish)(const CrossEntropyPart& part, void* losses, void* slopes, int64_t begin, int64_t end);
  void (*gradient)(const CrossEntropyPart& part, int64_t begin, int64_t end);
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
  const Storages* storages;
  const Span<Activation>* activations;
  const ByDtype<PreluKernels>* prelu;
  const Span<GatedPair>* gated;
  const Span<SoftmaxFunction>* softmaxes;
  const ByDtype<LinearKernels>* linear;
  const ByDtype<CrossEntropyKernel>* softmax_cross_entropy;
  const Span<ElementwiseLoss>* elementwise_losses;
  const ByDtype<NllKernels>* nll_loss;
  const ByDtype<CrossEntropyParts>* cross_entropy_parts;
  const Span<Optimizer>* optimizers;
  const ByDtype<GradientKernels>* gradients;
  const Span<RowNormFunction>* row_norms;
  const ByDtype<BatchNormKernels>* batch_norm;
  const Random* random;
  const Probes* probes;
};

}  // namespace innerloop
