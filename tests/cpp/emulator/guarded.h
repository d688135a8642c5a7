// Memory that ends where a page begins that nobody may touch: what reads or writes past its end crashes there and then.
#pragma once

#include <stddef.h>

namespace innerloop::emulator {

// Begins at a multiple of `alignment`, a power of two up to a page: up to alignment - 1 bytes behind the end are only
// watched for writes, as is the rest of the first page in front.
class Guarded {
 public:
  Guarded() = default;
  Guarded(size_t bytes, size_t alignment);  // data is null where there is not enough memory
  Guarded(Guarded&&) noexcept;
  Guarded& operator=(Guarded&&) noexcept;
  ~Guarded();

  void fill();         // with 0xff, NaN in every float, so that what is read before it is written shows
  bool holds() const;  // nobody wrote beside it

  char* data = nullptr;
  size_t size = 0;

 private:
  char* pages = nullptr;  // with one page at each end that is shut
  size_t page_bytes = 0;
};

}  // namespace innerloop::emulator
