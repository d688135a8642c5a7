#include "guarded.h"

#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <utility>

namespace innerloop::emulator {
namespace {

const size_t page = (size_t)sysconf(_SC_PAGESIZE);
constexpr char kBeside = 0x5a;

bool all_beside(const char* from, const char* to) {
  while (from < to) {
    if (*from++ != kBeside) return false;
  }
  return true;
}

}  // namespace

Guarded::Guarded(size_t bytes, size_t alignment) : size(bytes) {
  if (bytes > SIZE_MAX / 2) return;
  const size_t open = (bytes + page - 1) / page * page;
  void* p = mmap(nullptr, open + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) return;
  pages = static_cast<char*>(p);
  page_bytes = open + 2 * page;
  if (open > 0 && mprotect(pages + page, open, PROT_READ | PROT_WRITE) != 0) return;
  data = pages + page + (open - bytes) / alignment * alignment;
  memset(pages + page, kBeside, (size_t)(data - pages) - page);
  memset(data + size, kBeside, (size_t)(pages + page + open - data) - size);
}

Guarded::Guarded(Guarded&& other) noexcept { *this = std::move(other); }

Guarded& Guarded::operator=(Guarded&& other) noexcept {
  std::swap(data, other.data);
  std::swap(size, other.size);
  std::swap(pages, other.pages);
  std::swap(page_bytes, other.page_bytes);
  return *this;
}

Guarded::~Guarded() {
  if (pages != nullptr) munmap(pages, page_bytes);
}

void Guarded::fill() { memset(data, 0xff, size); }

bool Guarded::holds() const {
  return data == nullptr || (all_beside(pages + page, data) && all_beside(data + size, pages + page_bytes - page));
}

}  // namespace innerloop::emulator
