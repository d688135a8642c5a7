// Beside cuda_support.h, for kernels whose sums are not the CPU's to the last bit.
#pragma once

#include "core/rows.h"
#include "cuda_support.h"

namespace innerloop {

constexpr cuda::Queue queue = {nullptr, 1, 98 * 1024};  // of few threads, so that they take several pieces
constexpr cuda::Queue many = {nullptr, 7, 226 * 1024};  // on which the bits are to be the same
constexpr int kThreads = 16 * cuda::kBlock;             // of the largest grid
constexpr Dtype kDtypes[] = {Dtype::f32, Dtype::f64, Dtype::bf16, Dtype::f16};

inline TensorView shaped(const Buffer& b, const Shape& shape) {
  return contiguous_view(const_cast<char*>(b.data()), b.dtype, [&] {
    TensorView t = b.view;
    t.ndim = (int)shape.size();
    for (int d = 0; d < t.ndim; d++) t.shape[d] = shape[(size_t)d];
    return t;
  }());
}

inline double get(const Buffer& b, int64_t i) {
  const char* p = b.data() + i * (int64_t)dtype_size(b.dtype);
  double wide;
  float single;
  uint16_t half;
  switch (b.dtype) {
    case Dtype::f64:
      memcpy(&wide, p, sizeof wide);
      return wide;
    case Dtype::f32:
      memcpy(&single, p, sizeof single);
      return (double)single;
    default:
      memcpy(&half, p, sizeof half);
      return (double)(b.dtype == Dtype::bf16 ? cuda::widen(cuda::Bfloat16{half}) : cuda::widen(cuda::Float16{half})).v;
  }
}
inline void set(Buffer& b, int64_t i, double x) {
  char* p = b.data() + i * (int64_t)dtype_size(b.dtype);
  const float single = (float)x;
  const cuda::Vec<float, 1> v(single);
  const uint16_t half = (uint16_t)(b.dtype == Dtype::bf16 ? cuda::nearest_bfloat16(v) : cuda::nearest_float16(v)).v;
  switch (b.dtype) {
    case Dtype::f64:
      memcpy(p, &x, sizeof x);
      break;
    case Dtype::f32:
      memcpy(p, &single, sizeof single);
      break;
    default:
      memcpy(p, &half, sizeof half);
  }
}

// Numbers between -4 and 4, so that what a sum may lose is known.
inline void fill_plain(Buffer& b, uint64_t seed) {
  Numbers numbers{seed};
  for (int64_t i = 0; i < b.size; i++) set(b, i, numbers.next());
}

// Within `steps` roundings of numbers of the given magnitude, or of the dtype's own if that is coarser; or neither is
// finite.
inline void expect_close(const std::string& what, const Buffer& got, const Buffer& want, double steps,
                         double magnitude) {
  compared++;
  const double rounding = got.dtype == Dtype::f64 ? 0x1p-53 : 0x1p-24;
  const double own = got.dtype == Dtype::bf16 ? 0x1p-8 : got.dtype == Dtype::f16 ? 0x1p-11 : rounding;
  int64_t wrong = got.guards_hold() ? -1 : -2;
  for (int64_t i = 0; i < got.size && wrong == -1; i++) {
    const double a = get(got, i), b = get(want, i);
    const double allowed = steps * rounding * magnitude + 2 * own * fabs(b) + (is_half(got.dtype) ? 0x1p-24 : 0);
    const bool close = isfinite(b) ? fabs(a - b) <= allowed : !isfinite(a);
    if (!close) wrong = i;
  }
  if (wrong == -1 || ++failures > 20) return;
  printf("DIFFERS: %s, %s of %lld elements, %s %lld: %g, not %g\n", what.c_str(), dtype_name(got.dtype),
         (long long)got.size, wrong == -2 ? "bytes outside of it were written" : "at", (long long)wrong,
         wrong >= 0 ? get(got, wrong) : 0, wrong >= 0 ? get(want, wrong) : 0);
}

}  // namespace innerloop
