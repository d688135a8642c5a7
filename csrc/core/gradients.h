// The norm of all gradients of a call, and clipping by it.
#pragma once

#include <memory>
#include <vector>

#include "core/call.h"
#include "core/tensor.h"
#include "rules/clipping.h"

namespace innerloop {

class GradientNorm {
 public:
  explicit GradientNorm(size_t arrays) { gradients.reserve(arrays); }

  void add(const TensorView& gradient);  // checked to be of a floating dtype

  // The square root of the sum of all squares: in double, over blocks that depend on the shapes alone, and where the
  // squares of float64 would overflow or vanish, over scaled elements. NaN and infinities as they come.
  double norm(Call& call) const;
  void multiply(Call& call, double factor) const;  // every gradient, in place

 private:
  struct Walks {
    Walk<1> in_order, in_memory;
  };
  struct Gradient {
    char* data;
    int64_t size, item;
    const GradientKernels* kernels;
    std::unique_ptr<Walks> walks;  // null where it is one flat run
    const StorageKernels* half;    // null where it is float32 or float64

    // f(walk) with the walk over it.
    template <class F>
    void with_walk(bool in_order, const F& f) const;
  };
  std::vector<Gradient> gradients;
  bool wide = false;  // there is a float64 among them

  double sum_squares(Call& call, double scale) const;
};

extern const Parameter kMaxNorm;

}  // namespace innerloop
