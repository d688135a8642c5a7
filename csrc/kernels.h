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

// One noun's kernels in every dtype.
template <class K>
struct ByDtype {
  K f32, f64;
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
  const ByDtype<LinearKernels>* linear;
};

}  // namespace innerloop
