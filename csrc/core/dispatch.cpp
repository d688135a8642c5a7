#include "core/dispatch.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <atomic>
#include <stdexcept>

#include "core/errors.h"

// INNERLOOP_ISAS is the table of cmake/isa.cmake for this architecture, lowest first: ROW(v2) ROW(v3) ...
#define ROW(isa)                \
  namespace innerloop::isa {    \
  extern const Kernels kernels; \
  }
INNERLOOP_ISAS
#undef ROW

namespace innerloop {
namespace {

#if defined(__x86_64__)
[[maybe_unused]] bool has_v2() {
  return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("ssse3") && __builtin_cpu_supports("popcnt");
}
[[maybe_unused]] bool has_v3() {
  return has_v2() && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
         __builtin_cpu_supports("bmi2")
#if !defined(__clang__)  // Clang 14 cannot ask for these; processors with BMI2 have them
         && __builtin_cpu_supports("f16c") && __builtin_cpu_supports("lzcnt") && __builtin_cpu_supports("movbe")
#endif
      ;
}
[[maybe_unused]] bool has_v4() {
  return has_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
[[maybe_unused]] bool has_v4_bf16() { return has_v4() && __builtin_cpu_supports("avx512bf16"); }
#else
[[maybe_unused]] bool has_neon() { return true; }
#endif

struct Row {
  const Kernels* kernels;
  bool (*usable)();
};
#define ROW(isa) {&isa::kernels, has_##isa},
constexpr Row kRows[] = {INNERLOOP_ISAS};
#undef ROW

std::atomic<const Kernels*> active{nullptr};

const Kernels* find(const std::string& name) {
  for (const Row& row : kRows) {
    if (name == row.kernels->isa && row.usable()) return row.kernels;
  }
  std::string have;
  for (const std::string& isa : isas()) have += (have.empty() ? "" : ", ") + isa;
  throw ValueError("isa must be one of " + have + " on this machine, got '" + name + "'");
}

}  // namespace

void check_cpu() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!kRows[0].usable()) {
    throw std::runtime_error(
        "innerloop needs an x86-64-v2 processor (SSE4.2, SSSE3, POPCNT); this one lacks at least one of them");
  }
#endif
}

const Kernels& kernels() {
  const Kernels* k = active.load(std::memory_order_acquire);
  if (k == nullptr) {
    const char* forced = getenv("INNERLOOP_ISA");
    use_isa(forced && *forced ? forced : isas().back());
    k = active.load(std::memory_order_acquire);
  }
  return *k;
}

std::vector<std::string> isas() {
  std::vector<std::string> names;
  for (const Row& row : kRows) {
    if (row.usable()) names.push_back(row.kernels->isa);
  }
  return names;
}

void use_isa(const std::string& name) { active.store(find(name), std::memory_order_release); }

template <class Entry>
static const Entry& find_in(const Span<Entry>& list, const char* what, const std::string& name) {
  for (const Entry& entry : list) {
    if (name == entry.name) return entry;
  }
  std::string have;
  for (const Entry& entry : list) have += (have.empty() ? "" : ", ") + std::string(entry.name);
  throw ValueError(std::string(what) + " must be one of " + have + ", got '" + name + "'");
}

const Activation& find_activation(const std::string& name) {
  return find_in(*kernels().activations, "activation", name);
}
const Optimizer& find_optimizer(const std::string& name) { return find_in(*kernels().optimizers, "optimizer", name); }

int64_t stream_bytes() {
  static const int64_t bytes = [] {
    long cache = 0;
#ifdef _SC_LEVEL3_CACHE_SIZE
    cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
#endif
    return cache > 0 ? (int64_t)cache : int64_t(32) << 20;
  }();
  return bytes;
}

}  // namespace innerloop
