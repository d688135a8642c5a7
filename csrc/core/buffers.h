// A bounded cache of freed buffers: a fresh output of tens of MB costs more in page faults than the kernel that fills
// it (relu over 16M float32: 17 ms fresh, 2.4 ms reused).
#pragma once

#include <stddef.h>

namespace innerloop::buffers {

void* acquire(size_t bytes);  // 64-byte aligned; throws std::bad_alloc
void release(void* p) noexcept;

void set_limit(size_t bytes);  // of what is kept for reuse, at first a sixteenth of the memory; 0 keeps nothing
size_t limit();
size_t held();          // bytes kept for reuse now
void clear() noexcept;  // gives all of them back to the system

}  // namespace innerloop::buffers
