// The emulated device's memory for Python's ctypes: tests/device_arrays.py.
#include "device_memory.h"
#include "fibres.h"

#define EXPORTED extern "C" __attribute__((visibility("default")))

EXPORTED void* emulator_allocate(size_t bytes, size_t alignment) {
  return innerloop::emulator::allocate(bytes, alignment);
}
EXPORTED bool emulator_release(void* data) { return innerloop::emulator::release(data); }
EXPORTED bool emulator_holds(void* data) { return innerloop::emulator::holds(data); }
EXPORTED int64_t emulator_array_count() { return innerloop::emulator::array_count(); }
EXPORTED void emulator_fail_after(int64_t allocations) { innerloop::emulator::fail_after(allocations); }
EXPORTED int64_t emulator_launch_count() { return innerloop::emulator::launch_count(); }
