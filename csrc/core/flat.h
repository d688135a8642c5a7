// Flat: an array of any strides as contiguous blocks of its elements in C order, in place where it lies so. Half
// precision comes as float32, and is rounded as it is written.
#pragma once

#include <string.h>

#include "core/half.h"

namespace innerloop {

class Flat {
 public:
  Flat() = default;
  explicit Flat(const TensorView& view)
      : walk(walk_elements(view)),
        item((ptrdiff_t)dtype_size(compute_dtype(view.dtype))),
        half(is_half(view.dtype) ? &storage_of(view.dtype) : nullptr) {
    in_place = !half && walk.ndim == 1 && walk.stride[0][0] == item;
  }

  bool is_in_place() const { return in_place; }

  // Where the elements from `begin` on are to be read or written: in the array, or else in `buffer`.
  char* at(int64_t begin, char* buffer) const { return in_place ? walk.data[0] + begin * item : buffer; }
  // Fills the buffer with n of them, or empties it into the array. Neither does anything in place.
  void read(int64_t begin, int n, char* buffer) const {
    if (half) return half->widen(walk, begin, begin + n, reinterpret_cast<float*>(buffer));
    each(begin, n, buffer, [](char* element, char* copy, size_t size) { memcpy(copy, element, size); });
  }
  void write(int64_t begin, int n, char* buffer) const {
    if (half) return half->narrow(reinterpret_cast<const float*>(buffer), walk, begin, begin + n);
    each(begin, n, buffer, [](char* element, char* copy, size_t size) { memcpy(element, copy, size); });
  }

 private:
  Walk<1> walk;
  ptrdiff_t item;
  const StorageKernels* half;
  bool in_place;

  template <class Copy>
  void each(int64_t begin, int n, char* buffer, const Copy& copy) const {
    if (in_place) return;
    for_runs(walk, begin, begin + n, [&](char* p, ptrdiff_t step, int64_t run) {
      if (item == 4) {  // a size that the compiler sees
        for (int64_t i = 0; i < run; i++) copy(p + i * step, buffer + i * 4, 4);
      } else {
        for (int64_t i = 0; i < run; i++) copy(p + i * step, buffer + i * item, (size_t)item);
      }
      buffer += run * item;
    });
  }
};

}  // namespace innerloop
