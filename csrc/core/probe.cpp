#include "core/probe.h"

#include <string.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "core/call.h"
#include "core/dispatch.h"
#include "core/errors.h"

namespace innerloop::probe {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// The best rate of work(rounds), which returns what it did, until `seconds` are over. Rounds of at least 2 ms make
// waking the threads negligible.
template <class Work>
double best_rate(double seconds, const Work& work) {
  const auto start = Clock::now();
  double best = 0;
  int64_t rounds = 1;
  do {
    const auto begin = Clock::now();
    const double done = work(rounds);
    const double elapsed = seconds_since(begin);
    if (elapsed < 2e-3) {
      rounds *= 2;
      continue;
    }
    if (done / elapsed > best) best = done / elapsed;
  } while (best == 0 || seconds_since(start) < seconds);
  return best;
}

}  // namespace

double fma_rate(Dtype dtype, double seconds) {
  const Probes& probes = *kernels().probes;
  Call call;
  std::vector<int64_t> operations(call.threads);
  return best_rate(seconds, [&](int64_t rounds) {
    call.run(call.threads, [&](int i) {
      float f;
      double d;
      operations[i] = dtype == Dtype::f64 ? probes.fma_f64(rounds * 64, &d) : probes.fma_f32(rounds * 64, &f);
    });
    double total = 0;
    for (int64_t n : operations) total += (double)n;
    return total;
  });
}

double bandwidth(const std::string& kind, int64_t bytes, double seconds) {
  const MemoryProbe* probe = nullptr;
  std::string have;
  for (const MemoryProbe& p : kernels().probes->memory) {
    if (kind == p.name) probe = &p;
    have += (have.empty() ? "" : ", ") + std::string(p.name);
  }
  if (probe == nullptr) throw ValueError("kind must be one of " + have + ", got '" + kind + "'");
  Call call;
  // Each thread has a piece of its own; odd multiples of 512 bytes keep the streams of copy off each other's sets.
  const int64_t piece = bytes / call.threads / 1024 * 1024 + 512;
  float* buffer = (float*)call.scratch((size_t)(piece * call.threads));
  const int64_t n = piece / (int64_t)sizeof(float);
  call.run(call.threads, [&](int i) { memset(buffer + i * n, 0, (size_t)piece); });
  return best_rate(seconds, [&](int64_t rounds) {
    call.run(call.threads, [&](int i) {
      for (int64_t r = 0; r < rounds; r++) probe->run(buffer + i * n, n);
    });
    return (double)rounds * piece * call.threads * probe->passes;
  });
}

double fork_join(double seconds) {
  Call call;
  constexpr int kJoins = 100, kPatience = 1 << 16;  // a core that is taken may never come
  if (call.threads < 2) return 0;
  std::atomic<int> here;
  const double rate = best_rate(seconds, [&](int64_t rounds) {
    for (int64_t r = 0; r < rounds * kJoins; r++) {
      here.store(0, std::memory_order_relaxed);
      call.run(call.threads, [&](int) {  // each waits for all, or the caller would do them alone
        here.fetch_add(1, std::memory_order_relaxed);
        for (int i = 0; i < kPatience && here.load(std::memory_order_relaxed) < call.threads; i++) {
        }
      });
    }
    return (double)(rounds * kJoins);
  });
  return 1 / rate;
}

double round_trip(double seconds) {
  if (pool::default_threads() < 2 && std::thread::hardware_concurrency() < 2) return 0;
  alignas(64) std::atomic<int64_t> line{0};
  alignas(64) std::atomic<bool> stop{false};  // not a number in the line: an answer that comes late would cover it
  std::thread other([&] {
    for (int64_t next = 1;; next += 2) {  // answers each odd number with the even one after it
      while (line.load(std::memory_order_acquire) != next) {
        if (stop.load(std::memory_order_relaxed)) return;
      }
      line.store(next + 1, std::memory_order_release);
    }
  });
  const auto start = Clock::now();
  double best = 0;
  for (int64_t sent = 0; seconds_since(start) < seconds;) {
    constexpr int kTrips = 200;
    const auto begin = Clock::now();
    int trip = 0;
    for (; trip < kTrips; trip++, sent += 2) {
      line.store(sent + 1, std::memory_order_release);
      int64_t spins = 0;
      while (line.load(std::memory_order_acquire) != sent + 2) {
        // Without a core of its own the other thread may not answer for a while.
        if ((++spins & 0xfff) == 0 && seconds_since(start) > 10 * seconds) break;
      }
      if (line.load(std::memory_order_acquire) != sent + 2) break;
    }
    if (trip < kTrips) break;
    const double each = seconds_since(begin) / kTrips;
    if (best == 0 || each < best) best = each;
  }
  stop.store(true, std::memory_order_relaxed);
  other.join();
  return best;
}

}  // namespace innerloop::probe
