#include "core/buffers.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <fstream>
#include <iterator>
#include <map>
#include <mutex>
#include <new>
#include <string>

namespace innerloop::buffers {
namespace {

constexpr size_t kAlign = 64;
constexpr size_t kSmall = 1 << 16;  // below this, malloc's own lists serve as well
constexpr size_t kHugePage = 2 << 20;
constexpr size_t kMapped = 2 * kHugePage;  // from here on, pages of their own, so that to free them is to return them

// Before each buffer.
struct alignas(kAlign) Header {
  size_t capacity;
  void* base;     // what was allocated,
  size_t length;  // and how much, where it was mapped
};

// Mapped buffers begin in 16 places of a huge page: arrays that lie alike in theirs meet in the same sets of the caches
// and the same banks of the memory.
constexpr size_t kStagger = (64 << 10) + 4096 + kAlign;

// A sixteenth of the memory that this process may use: its cgroup's, or the machine's.
size_t default_limit() {
  const long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
  const size_t memory = pages > 0 && page > 0 ? (size_t)pages * (size_t)page : size_t(8) << 30;
  return std::min(memory, cgroup_memory("/proc/self/cgroup", "/sys/fs/cgroup")) / 16;
}

struct Cache {
  std::mutex mutex;
  std::multimap<size_t, Header*> free;  // by capacity
  size_t held = 0, limit = default_limit();
};

void trim(Cache& c, size_t to);

// Leaked: arrays may be freed after static destructors have run.
Cache& cache() {
  static Cache* c = [] {
    auto* made = new Cache;
    pthread_atfork([] { cache().mutex.lock(); }, [] { cache().mutex.unlock(); },
                   [] {  // a child keeps nothing of its parent's cache: writing there would copy each page
                     trim(cache(), 0);
                     cache().mutex.unlock();
                   });
    return made;
  }();
  return *c;
}

// Powers of two in eight steps: a request reuses any buffer that is at most an eighth larger than it needs.
size_t round_up(size_t bytes) {
  if (bytes < 4096) return (bytes + kAlign - 1) & ~(kAlign - 1);
  const size_t step = size_t(1) << (63 - __builtin_clzll(bytes) - 3);
  return (bytes + step - 1) & ~(step - 1);
}

Header* allocate(size_t capacity) {
  void* base = nullptr;
  size_t length = capacity + sizeof(Header);
  char* at;
  if (capacity >= kMapped) {
    static std::atomic<size_t> count{0};
    const size_t stagger = count.fetch_add(1, std::memory_order_relaxed) % 16 * kStagger;
    const size_t needed = length;
    length += kHugePage + 16 * kStagger;
    base = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) throw std::bad_alloc();
    auto whole_pages = [](uintptr_t to) { return to / kHugePage * kHugePage; };
    const uintptr_t first = whole_pages((uintptr_t)base + kHugePage - 1);
    at = reinterpret_cast<char*>(first + stagger);
#ifdef MADV_HUGEPAGE
    // Whole ones alone: touched in part, a huge page is resident as a whole. A wish: it may not be granted.
    const uintptr_t begin = whole_pages(first + stagger + kHugePage - 1);
    madvise((void*)begin, whole_pages((uintptr_t)at + needed) - begin, MADV_HUGEPAGE);
#endif
  } else {
    if (posix_memalign(&base, kAlign, length) != 0) throw std::bad_alloc();
    at = static_cast<char*>(base);
  }
  auto* header = reinterpret_cast<Header*>(at);
  *header = {capacity, base, length};
  return header;
}

void give_back(const Header* header) {
  if (header->capacity >= kMapped) {
    munmap(header->base, header->length);
  } else {
    ::free(header->base);
  }
}

void trim(Cache& c, size_t to) {  // largest first
  while (c.held > to && !c.free.empty()) {
    auto last = std::prev(c.free.end());
    c.held -= last->first;
    give_back(last->second);
    c.free.erase(last);
  }
}

}  // namespace

size_t cgroup_memory(const char* membership, const std::string& mount) {
  size_t least = SIZE_MAX;
  auto climb = [&](const std::string& path, const std::string& root, const char* name) {
    for (size_t end = path.size(); end != std::string::npos; end = end ? path.rfind('/', end - 1) : std::string::npos) {
      size_t bytes;  // or "max"
      if (std::ifstream(root + path.substr(0, end) + name) >> bytes && bytes > 0) least = std::min(least, bytes);
    }
  };
  std::string unified, memory;
  std::ifstream lines(membership);
  for (std::string line; std::getline(lines, line);) {  // hierarchy:controllers:path
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    if (controllers == ",,") unified = line.substr(second + 1);
    if (controllers.find(",memory,") != std::string::npos) memory = line.substr(second + 1);
  }
  climb(unified, mount, "/memory.max");
  climb(memory, mount + "/memory", "/memory.limit_in_bytes");
  return least;
}

void* acquire(size_t bytes) {
  if (bytes > SIZE_MAX / 4) throw std::bad_alloc();
  const size_t capacity = round_up(bytes < kAlign ? kAlign : bytes);
  if (capacity >= kSmall) {
    Cache& c = cache();
    std::lock_guard<std::mutex> lock(c.mutex);
    auto found = c.free.lower_bound(capacity);
    if (found != c.free.end() && found->first <= capacity + capacity / 8) {
      Header* header = found->second;
      c.held -= found->first;
      c.free.erase(found);
      return header + 1;
    }
  }
  try {
    return allocate(capacity) + 1;
  } catch (const std::bad_alloc&) {  // what the cache holds may be what is lacking
    clear();
    return allocate(capacity) + 1;
  }
}

void release(void* p) noexcept {
  if (p == nullptr) return;
  Header* header = static_cast<Header*>(p) - 1;
  if (header->capacity >= kSmall) {
    Cache& c = cache();
    std::lock_guard<std::mutex> lock(c.mutex);
    if (header->capacity <= c.limit) {
      try {
        trim(c, c.limit - header->capacity);
        c.free.emplace(header->capacity, header);
        c.held += header->capacity;
        return;
      } catch (const std::bad_alloc&) {  // no room for the note of it: free it
      }
    }
  }
  give_back(header);
}

void set_limit(size_t bytes) {
  Cache& c = cache();
  std::lock_guard<std::mutex> lock(c.mutex);
  c.limit = bytes;
  trim(c, bytes);
}

size_t limit() {
  Cache& c = cache();
  std::lock_guard<std::mutex> lock(c.mutex);
  return c.limit;
}

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
