// TensorView: an array that somebody else owns, as every entry point sees it.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <string>
#include <vector>

#include "kernels.h"

namespace innerloop {

enum class Dtype : uint8_t { f32, f64, bf16, f16, i8, u8, i16, u16, i32, u32, i64, u64, boolean };

const char* dtype_name(Dtype);  // NumPy's name
size_t dtype_size(Dtype);       // bytes
inline bool is_floating(Dtype d) { return d <= Dtype::f16; }
inline bool is_half(Dtype d) { return d == Dtype::bf16 || d == Dtype::f16; }
// What a kernel computes in, and what sums over half precision are kept in.
inline Dtype compute_dtype(Dtype d) { return d == Dtype::f64 ? Dtype::f64 : Dtype::f32; }
inline bool is_integer(Dtype d) { return d >= Dtype::i8 && d <= Dtype::u64; }

using Shape = std::vector<int64_t>;

struct TensorView {
  const char* name = "";  // of the argument, for messages
  char* data = nullptr;
  Dtype dtype = Dtype::f32;
  bool writeable = false;
  int ndim = 0;
  int64_t shape[kMaxDims];
  ptrdiff_t strides[kMaxDims];  // bytes, any sign

  int64_t size() const {
    int64_t n = 1;
    for (int d = 0; d < ndim; d++) n *= shape[d];
    return n;
  }
  Shape dims() const { return Shape(shape, shape + ndim); }
};

// The part of a table, which has f32 and f64, that serves a dtype.
template <class Table>
const auto& typed(const Table& table, Dtype d) {
  return d == Dtype::f64 ? table.f64 : table.f32;
}

// In C order without gaps, as nothing is, too.
inline bool is_contiguous(const TensorView& t) {
  if (t.size() == 0) return true;
  ptrdiff_t expected = (ptrdiff_t)dtype_size(t.dtype);
  for (int d = t.ndim - 1; d >= 0; d--) {
    if (t.shape[d] != 1 && t.strides[d] != expected) return false;
    expected *= t.shape[d];
  }
  return true;
}

std::string shape_text(const int64_t* shape, int ndim);  // (2, 3)
inline std::string shape_text(const Shape& s) { return shape_text(s.data(), (int)s.size()); }
std::string describe(const TensorView&);  // float32 array of shape (2, 3)

}  // namespace innerloop
