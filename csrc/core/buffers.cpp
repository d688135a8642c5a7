#include "core/buffers.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>

#include <iterator>
#include <map>
#include <mutex>
#include <new>

namespace innerloop::buffers {
namespace {

constexpr size_t kAlign = 64;
constexpr size_t kHeader = 64;               // before each buffer: its capacity
constexpr size_t kSmall = 1 << 16;           // below this, malloc's own lists serve as well
constexpr size_t kDefaultLimit = 512 << 20;  // eight outputs of 16M float32

struct Cache {
  std::mutex mutex;
  std::multimap<size_t, void*> free;  // capacity -> base
  size_t held = 0, limit = kDefaultLimit;
};

// Leaked: arrays may be freed after static destructors have run.
Cache& cache() {
  static Cache* c = [] {
    auto* made = new Cache;
    pthread_atfork([] { cache().mutex.lock(); }, [] { cache().mutex.unlock(); }, [] { cache().mutex.unlock(); });
    return made;
  }();
  return *c;
}

size_t& capacity_of(void* base) { return *static_cast<size_t*>(base); }

// Powers of two in eight steps: a request reuses any buffer that is at most an eighth larger than it needs.
size_t round_up(size_t bytes) {
  if (bytes < 4096) return (bytes + kAlign - 1) & ~(kAlign - 1);
  const size_t step = size_t(1) << (63 - __builtin_clzll(bytes) - 3);
  return (bytes + step - 1) & ~(step - 1);
}

void trim(Cache& c, size_t to) {  // largest first
  while (c.held > to && !c.free.empty()) {
    auto last = std::prev(c.free.end());
    c.held -= last->first;
    ::free(last->second);
    c.free.erase(last);
  }
}

}  // namespace

void* acquire(size_t bytes) {
  if (bytes > SIZE_MAX / 4) throw std::bad_alloc();
  const size_t capacity = round_up(bytes < kAlign ? kAlign : bytes);
  if (capacity >= kSmall) {
    Cache& c = cache();
    std::lock_guard<std::mutex> lock(c.mutex);
    auto found = c.free.lower_bound(capacity);
    if (found != c.free.end() && found->first <= capacity + capacity / 8) {
      void* base = found->second;
      c.held -= found->first;
      c.free.erase(found);
      return static_cast<char*>(base) + kHeader;
    }
  }
  void* base = nullptr;
  if (posix_memalign(&base, kAlign, capacity + kHeader) != 0) throw std::bad_alloc();
  capacity_of(base) = capacity;
  return static_cast<char*>(base) + kHeader;
}

void release(void* p) noexcept {
  if (p == nullptr) return;
  void* base = static_cast<char*>(p) - kHeader;
  const size_t capacity = capacity_of(base);
  if (capacity >= kSmall) {
    Cache& c = cache();
    std::lock_guard<std::mutex> lock(c.mutex);
    if (capacity <= c.limit) {
      try {
        trim(c, c.limit - capacity);
        c.free.emplace(capacity, base);
        c.held += capacity;
        return;
      } catch (const std::bad_alloc&) {  // no room for the note of it: free it
      }
    }
  }
  ::free(base);
}

void set_limit(size_t bytes) {
  Cache& c = cache();
  std::lock_guard<std::mutex> lock(c.mutex);
  c.limit = bytes;
  trim(c, bytes);
}

size_t limit() { return cache().limit; }

size_t held() {
  Cache& c = cache();
  std::lock_guard<std::mutex> lock(c.mutex);
  return c.held;
}

void clear() noexcept {
  Cache& c = cache();
  std::lock_guard<std::mutex> lock(c.mutex);
  trim(c, 0);
}

}  // namespace innerloop::buffers
