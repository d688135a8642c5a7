// Arrays of half precision to and from contiguous float32: how core/half.h lets float32 kernels serve them.
#include "simd/storage.h"

#include "cpu/elementwise.h"
#include "cpu/tables.h"

namespace innerloop::INNERLOOP_ISA {
namespace {

template <class S>
struct Loops {
  using V = Native<float>;

  static void widen(const Walk<1>& from, int64_t begin, int64_t end, float* to) {
    const ptrdiff_t stride = from.stride[0][from.ndim - 1];
    for_rows(from, begin, end, [&](char* const* p, int64_t n) {
      int64_t i = 0;
      if (stride == 2) {
        for (; i + V::lanes <= n; i += V::lanes) load_as<S>(p[0] + i * 2).store(to + i);
      }
      for (; i < n; i += V::lanes) {
        const int count = n - i < V::lanes ? (int)(n - i) : V::lanes;
        store_partial(load_as<S>(p[0] + i * stride, count, stride), to + i, count);
      }
      to += n;
    });
  }

  static void narrow(const float* from, const Walk<1>& to, int64_t begin, int64_t end) {
    const ptrdiff_t stride = to.stride[0][to.ndim - 1];
    for_rows(to, begin, end, [&](char* const* p, int64_t n) {
      int64_t i = 0;
      if (stride == 2) {
        for (; i + V::lanes <= n; i += V::lanes) store_as<S>(V::load(from + i), p[0] + i * 2);
      }
      for (; i < n; i += V::lanes) {
        const int count = n - i < V::lanes ? (int)(n - i) : V::lanes;
        store_as<S>(load_partial<V>(from + i, count), p[0] + i * stride, count, stride);
      }
      from += n;
    });
  }

  static constexpr StorageKernels kernels = {widen, narrow};
};

// float32 itself, for the operands of a mixed call.
struct Copies {
  using V = Native<float>;

  static void widen(const Walk<1>& from, int64_t begin, int64_t end, float* to) {
    const ptrdiff_t stride = from.stride[0][from.ndim - 1];
    for_rows(from, begin, end, [&](char* const* p, int64_t n) {
      if (stride == sizeof(float)) {
        memcpy(to, p[0], (size_t)n * sizeof(float));
      } else {
        for (int64_t i = 0; i < n; i++) memcpy(to + i, p[0] + i * stride, sizeof(float));
      }
      to += n;
    });
  }
  static void narrow(const float* from, const Walk<1>& to, int64_t begin, int64_t end) {
    const ptrdiff_t stride = to.stride[0][to.ndim - 1];
    for_rows(to, begin, end, [&](char* const* p, int64_t n) {
      if (stride == sizeof(float)) {
        memcpy(p[0], from, (size_t)n * sizeof(float));
      } else {
        for (int64_t i = 0; i < n; i++) memcpy(p[0] + i * stride, from + i, sizeof(float));
      }
      from += n;
    });
  }
};

}  // namespace

const Storages storages = {{Copies::widen, Copies::narrow}, Loops<Bfloat16>::kernels, Loops<Float16>::kernels};

}  // namespace innerloop::INNERLOOP_ISA
