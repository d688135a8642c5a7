// A bounded cache of freed buffers: a fresh output of tens of MB costs more in page faults than the kernel that fills
// it (relu over 16M float32: 17 ms fresh, 2.4 ms reused).
#pragma once

#include <stddef.h>

#include <string>

namespace innerloop::buffers {

void* acquire(size_t bytes);  // 64-byte aligned; throws std::bad_alloc
void release(void* p) noexcept;

void set_limit(size_t bytes);  // of what is kept for reuse, at first a sixteenth of the memory; 0 keeps nothing
size_t limit();
size_t held();          // bytes kept for reuse now
void clear() noexcept;  // gives all of them back to the system

// The smallest memory limit from a process's cgroup up to the root of the mount, of either version; SIZE_MAX where
// there is none. A container may see its host's path and no folder of that name: then the root's own counts.
size_t cgroup_memory(const char* membership, const std::string& mount);

}  // namespace innerloop::buffers
