// What a test may ask of the emulated device.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace innerloop::emulator {

constexpr int kProcessors = 1;  // few, so that arrays need not be large for a thread to take several pieces

// The device's arrays, as guarded.h has them.
void* allocate(size_t bytes, size_t alignment);
bool holds(void* data);    // nothing was written beside it
bool release(void* data);  // whether it was there, and nothing was written beside it
int64_t array_count();
// From now on, so many allocations succeed; all if negative.
void fail_after(int64_t allocations);

}  // namespace innerloop::emulator
