// The dense layer over checked views: y = act(x @ w + b) and its gradients.
#pragma once

#include <atomic>
#include <vector>

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

// Whether x (..., K) and w (K, N) fit, of one floating dtype; and what shape the result has.
Shape check_linear(const TensorView& x, const Weight& w);

// `bias` and `z` may be null; z receives x @ w + b.
void linear_forward(const Activation& activation, const double* parameters, const TensorView& x, const Weight& w,
                    const TensorView* bias, const TensorView& y, const TensorView* z);

// `saved` is null for the identity alone, `db` where there is no bias.
void linear_backward(const Activation& activation, const double* parameters, const TensorView& dy, const TensorView& x,
                     const Weight& w, const TensorView* saved, const TensorView& dx, const TensorView& dw,
                     const TensorView* db);

}  // namespace innerloop
