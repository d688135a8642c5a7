// What the C++ tests share: owned tensors of reproducible numbers, and a hash of their bits.
#pragma once

#include <stdint.h>
#include <string.h>

#include <vector>

#include "core/tensor.h"

namespace innerloop {

// Numbers between -4 and 4 from a linear congruential generator (Knuth's MMIX constants): the same on every machine.
struct Numbers {
  uint64_t state;
  double next() {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return ((double)(state >> 40) / (1 << 24) - 0.5) * 8;
  }
};

struct Tensor {
  std::vector<char> bytes;
  TensorView view;

  Tensor(Dtype dtype, const Shape& shape) {
    view.dtype = dtype;
    view.writeable = true;
    view.ndim = (int)shape.size();
    ptrdiff_t stride = (ptrdiff_t)dtype_size(dtype);
    for (int d = view.ndim - 1; d >= 0; d--) {
      view.shape[d] = shape[d];
      view.strides[d] = stride;
      stride *= shape[d];
    }
    bytes.resize((size_t)view.size() * dtype_size(dtype) + 1);
    view.data = bytes.data();
  }
  Tensor(const Tensor&) = delete;
  Tensor& operator=(const Tensor&) = delete;

  Tensor& fill(uint64_t seed) {
    Numbers numbers{seed};
    for (int64_t i = 0; i < view.size(); i++) {
      if (view.dtype == Dtype::f64) {
        reinterpret_cast<double*>(view.data)[i] = numbers.next();
      } else if (view.dtype == Dtype::f32) {
        reinterpret_cast<float*>(view.data)[i] = (float)numbers.next();
      }
    }
    return *this;
  }

  uint64_t hash() const {  // FNV-1a
    uint64_t h = 14695981039346656037u;
    for (size_t i = 0; i + 1 < bytes.size(); i++) h = (h ^ (unsigned char)bytes[i]) * 1099511628211u;
    return h;
  }
};

}  // namespace innerloop
