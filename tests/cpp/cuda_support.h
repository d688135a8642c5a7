// What the tests of the GPU's kernels share. They run on the host, by emulator/, and are held bit for bit against the
// CPU's kernels where nothing is said of a tolerance: no GPU is needed.
#pragma once

#include <math.h>
#include <stdio.h>
#include <string.h>

#include <memory>
#include <string>
#include <vector>

#include "core/dispatch.h"
#include "emulator/guarded.h"
#include "support.h"

#define INNERLOOP_ISA cuda
#include "cuda/launch.h"
#include "cuda/storage.h"
#include "simd/half_bits.h"

namespace innerloop {

inline int failures = 0, compared = 0;

inline bool is_nan(Dtype dtype, const char* p) {
  uint16_t half;
  float single;
  double wide;
  switch (dtype) {
    case Dtype::f32:
      memcpy(&single, p, sizeof single);
      return single != single;
    case Dtype::f64:
      memcpy(&wide, p, sizeof wide);
      return wide != wide;
    default:
      memcpy(&half, p, sizeof half);
      return (half & 0x7fff) > (dtype == Dtype::bf16 ? 0x7f80 : 0x7c00);
  }
}

// Elements that an array has in front so that it is not at a multiple of 16 bytes: where it can be, as many as make it
// end where a page does that nobody may touch.
inline int64_t misaligned(Dtype dtype, int64_t size) {
  const int64_t whole = 16 / (int64_t)dtype_size(dtype);
  return size % whole == 0 ? 1 : whole - size % whole;
}

// An array between bytes that nobody may write, `offset` elements from where 16 bytes begin. It is filled with NaNs.
struct Buffer {
  Dtype dtype;
  int64_t size, begin;
  emulator::Guarded memory;
  TensorView view;

  Buffer(Dtype dtype, int64_t size, int64_t offset)
      : dtype(dtype),
        size(size),
        begin(offset * (int64_t)dtype_size(dtype)),
        memory((size_t)(offset + size) * dtype_size(dtype), 16) {
    memory.fill();
    view.name = "array";
    view.dtype = dtype;
    view.writeable = true;
    view.ndim = 1;
    view.shape[0] = size;
    view.strides[0] = (ptrdiff_t)dtype_size(dtype);
    view.data = data();
  }
  // The same elements at another place.
  Buffer(const Buffer& other) : Buffer(other.dtype, other.size, other.begin / (int64_t)dtype_size(other.dtype)) {
    memcpy(data(), other.data(), (size_t)(size * (int64_t)dtype_size(dtype)));
  }
  Buffer& operator=(const Buffer&) = delete;

  char* data() { return memory.data + begin; }
  const char* data() const { return memory.data + begin; }
  bool is_aligned() const { return reinterpret_cast<uintptr_t>(data()) % 16 == 0; }

  // Of every kind: numbers about 1, from 2^-20 to 2^20, and any bits at all, which are also infinite, NaN or subnormal.
  Buffer& fill(uint64_t seed, bool any_bits = true) {
    Numbers numbers{seed};
    const auto item = (int64_t)dtype_size(dtype);
    for (int64_t i = 0; i < size; i++) {
      double x = numbers.next();
      if (i % 4 == 1) x = ldexp(x, (int)(numbers.next() * 5));
      const float single = (float)x;
      uint64_t raw = 0;
      if (any_bits && i % 4 == 3) {
        numbers.next();
        raw = numbers.state >> 7;
      } else if (dtype == Dtype::f64) {
        memcpy(&raw, &x, sizeof x);
      } else if (dtype == Dtype::f32) {
        memcpy(&raw, &single, sizeof single);
      } else {
        raw = dtype == Dtype::bf16 ? cuda::nearest_bfloat16(cuda::Vec<float, 1>(single)).v
                                   : cuda::nearest_float16(cuda::Vec<float, 1>(single)).v;
      }
      memcpy(data() + i * item, &raw, (size_t)item);
    }
    return *this;
  }
  void make_positive() {  // what is never negative: running means of squares
    const auto item = (int64_t)dtype_size(dtype);
    for (int64_t i = 0; i < size; i++) data()[i * item + item - 1] &= 0x7f;
  }

  bool guards_hold() const {
    for (int64_t i = 0; i < begin; i++) {
      if (memory.data[i] != '\xff') return false;
    }
    return memory.holds();
  }
};

inline void expect_same(const std::string& what, const Buffer& got, const Buffer& want) {
  const auto item = (int64_t)dtype_size(got.dtype);
  compared++;
  int64_t wrong = got.guards_hold() ? -1 : -2;
  for (int64_t i = 0; i < got.size && wrong == -1; i++) {
    const char *a = got.data() + i * item, *b = want.data() + i * item;
    if (memcmp(a, b, (size_t)item) != 0 && !(is_nan(got.dtype, a) && is_nan(got.dtype, b))) wrong = i;
  }
  if (wrong == -1 || ++failures > 20) return;
  printf("DIFFERS: %s, %s of %lld elements, %s %lld\n", what.c_str(), dtype_name(got.dtype), (long long)got.size,
         wrong == -2 ? "bytes outside of it were written" : "at", (long long)wrong);
}

inline void expect_success(const std::string& what, int error) {
  if (error == cudaSuccess || ++failures > 20) return;
  printf("FAILED: %s, %s\n", what.c_str(), cudaGetErrorString((cudaError_t)error));
}

// The entry of a name in one of cuda/list.h's lists.
template <class Entry>
const Entry& find_entry(const Span<Entry>& list, const char* name) {
  for (const Entry& entry : list) {
    if (strcmp(entry.name, name) == 0) return entry;
  }
  printf("MISSING: the GPU has no %s\n", name);
  abort();
}

template <class... Buffers>
cuda::Elements<sizeof...(Buffers)> elements(Buffers&... buffers) {
  const int64_t sizes[] = {buffers.size...};
  return {{buffers.data()...}, sizes[0], (buffers.is_aligned() && ...)};
}

// A program's exit status; 77 where it cannot be compared.
inline int report() {
  printf("%d arrays compared, %d differ\n", compared, failures);
  return failures > 0;
}
inline bool has_same_bits() {
  if (kernels().has_fma) return true;
  printf("this machine has no fused multiply-add: the bits would differ\n");
  return false;
}

}  // namespace innerloop
