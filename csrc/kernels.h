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

// A number that a rule takes, such as negative_slope or lr.
struct Parameter {
  const char* name;
  double default_value;
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

// exp, log, erf: what the rules are made of, reachable for tests of their accuracy.
struct Elementary {
  const char* name;
  void (*f32)(const float* x, float* y, int64_t n);
  void (*f64)(const double* x, double* y, int64_t n);
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

// Softmax cross-entropy over rows of logits; see rules/losses.h. T is the dtype of all but the labels.
struct CrossEntropyWork {
  Rows<5> rows;  // logits; target probabilities; labels, one int64 a row, -1: ignored; losses, one T a row; dlogits
  bool probabilities;  // else labels
  bool gradient;       // whether dlogits are wanted
  const void* weight;  // one T a class, contiguous; or null
  double label_smoothing;
  double scale;  // multiplies the gradient
};

struct LossKernels {
  void (*softmax_cross_entropy)(const CrossEntropyWork& work, void* scratch, int64_t begin, int64_t end);
};

struct Losses {
  LossKernels f32, f64;
};

template <class T>
struct Span {
  const T* data;
  int count;
  const T* begin() const { return data; }
  const T* end() const { return data + count; }
};

struct Kernels {
  const char* isa;
  int vector_bytes;
  bool has_fma;
  const Span<Elementary>* elementary;
  const Span<Activation>* activations;
  const Span<SoftmaxFunction>* softmaxes;
  const Losses* losses;
};

}  // namespace innerloop
