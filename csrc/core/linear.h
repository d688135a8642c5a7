// The dense layer over checked views: y = act(x @ w + b) and its gradients.
#pragma once

#include <atomic>
#include <vector>

#include "core/call.h"
#include "core/tensor.h"

namespace innerloop {

// A copy of a weight in the order that a product reads it. It serves every instruction set, and the backward pass too:
// panels for those that have not asked before are laid out when they do.
class PackedWeight {
 public:
  explicit PackedWeight(const TensorView& w);  // throws std::bad_alloc
  ~PackedWeight();
  PackedWeight(const PackedWeight&) = delete;
  PackedWeight& operator=(const PackedWeight&) = delete;

  const Dtype dtype;
  const int64_t k, n;

  const void* panels(const LinearKernels& kernels, bool transposed) const;
  void unpack(char* w) const;  // to k x n elements in C order
  void widen(char* w) const;   // the same, half precision as float32

 private:
  struct Panels {
    int width;
    bool transposed;
    void* data;
    Panels* next;
  };
  // Laid out first, published when finished, never taken back: readers need no lock, and a fork finds none held. Two
  // threads that ask at once may both lay the same out.
  mutable std::atomic<Panels*> newest{nullptr};
  const Panels* first;  // w itself

  const Panels* lay_out(const LinearKernels& kernels, bool transposed, const Matrix& w) const;
};

// The weight of a call: an array or a packed one.
struct Weight {
  TensorView view;  // where packed is null
  const PackedWeight* packed = nullptr;

  Dtype dtype() const { return packed ? packed->dtype : view.dtype; }
  int64_t k() const { return packed ? packed->k : view.shape[0]; }
  int64_t n() const { return packed ? packed->n : view.shape[1]; }
};

Storage storage_code(Dtype dtype);
Strided strided(const TensorView* vector);           // null: none
const LinearKernels& linear_kernels(Dtype dtype);    // of the instruction set in use
int activation_index(const Activation& activation);  // in the list
int identity_index();

// The last axis as columns, all others as rows, of which those from `first` on: a step where they merge, a table of
// offsets where they do not.
Matrix matrix_of(const TensorView& t, Call& call);
Matrix matrix_of(const TensorView& t, Call& call, int64_t first, int64_t count);
int64_t rows_of(const TensorView& t);

// Calls f(i, offset) for `count` rows from `first` on, a row being an element of the first `axes` axes.
template <class F>
void for_rows_of(const TensorView& t, int axes, int64_t first, int64_t count, const F& f) {
  int64_t index[kMaxDims] = {}, rest = first;
  ptrdiff_t at = 0;
  for (int d = axes - 1; d >= 0 && count > 0; d--) {
    index[d] = rest % t.shape[d];
    rest /= t.shape[d];
    at += index[d] * t.strides[d];
  }
  for (int64_t i = 0; i < count; i++) {
    f(i, at);
    for (int d = axes - 1; d >= 0; d--) {
      at += t.strides[d];
      if (++index[d] < t.shape[d]) break;
      at -= index[d] * t.strides[d];
      index[d] = 0;
    }
  }
}

// Whether the first `axes` axes merge into one of this step.
bool rows_merge(const TensorView& t, int axes, ptrdiff_t& step);

// Whether x (..., K) and w (K, N) fit, of one floating dtype; and what shape the result has.
Shape check_linear(const TensorView& x, const Weight& w);

// `bias` and `z` may be null; z receives x @ w + b. With `dropout`, which may be null and has 0 < p, y is dropped out
// after the activation, and where the activation saves its output, z receives that as it was before.
void linear_forward(const Activation& activation, const double* parameters, const TensorView& x, const Weight& w,
                    const TensorView* bias, const TensorView& y, const TensorView* z,
                    const DropoutWork* dropout = nullptr);

// `saved` is null for the identity alone, `dx` where nobody asks for it, `db` where there is no bias.
void linear_backward(const Activation& activation, const double* parameters, const TensorView& dy, const TensorView& x,
                     const Weight& w, const TensorView* saved, const TensorView* dx, const TensorView& dw,
                     const TensorView* db, const DropoutWork* dropout = nullptr);

}  // namespace innerloop
