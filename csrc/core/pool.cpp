#include "core/pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdlib.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <mutex>
#include <thread>

namespace innerloop::pool {
namespace {

constexpr int kMaxThreads = 1024;
// Waking a sleeper costs 20-65 us; between two calls of a network's step in Python lie 100 to 450 us, so that with 100
// the threads slept eight times a step.
constexpr auto kSpin = std::chrono::microseconds(1000);
// Then whoever is waited for may have been put on this very core: let it run. Without, a call that two threads do in
// 100 us took 200 where both were on one.
constexpr auto kAlone = std::chrono::microseconds(10);

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// How the processor rounds and treats subnormals: a task runs in its caller's mode, whichever thread runs it.
#if defined(__x86_64__)
unsigned float_mode() { return __builtin_ia32_stmxcsr() & ~0x3fu; }  // without the sticky flags
void set_float_mode(unsigned mode) { __builtin_ia32_ldmxcsr(mode); }
#elif defined(__aarch64__)
uint64_t float_mode() {
  uint64_t mode;
  asm volatile("mrs %0, fpcr" : "=r"(mode));
  return mode;
}
void set_float_mode(uint64_t mode) { asm volatile("msr fpcr, %0" : : "r"(mode)); }
#else
int float_mode() { return 0; }
void set_float_mode(int) {}
#endif

// Spins for kSpin, reading the clock seldom; true as soon as ready() is.
template <class Ready>
bool spin(const Ready& ready) {
  const auto start = std::chrono::steady_clock::now();
  for (;;) {
    for (int i = 0; i < 64; i++) {
      if (ready()) return true;
      relax();
    }
    const auto waited = std::chrono::steady_clock::now() - start;
    if (waited >= kSpin) return false;
    if (waited >= kAlone) sched_yield();
  }
}

// The core that this thread runs on; -1 where that is not known.
int this_core() {
#ifdef __linux__
  return sched_getcpu();
#else
  return -1;
#endif
}

// Moves this thread off a core, where it may run on another. Linux may wake a worker on the core of the one who wakes
// it, and leave both there for milliseconds.
void leave(int core) {
#ifdef __linux__
  cpu_set_t all;
  if (core < 0 || sched_getcpu() != core || sched_getaffinity(0, sizeof all, &all) != 0) return;
  cpu_set_t others = all;
  CPU_CLR(core, &others);
  if (CPU_COUNT(&others) > 0 && sched_setaffinity(0, sizeof others, &others) == 0) {
    sched_setaffinity(0, sizeof all, &all);
  }
#else
  (void)core;
#endif
}

// A job's claim ticket: the high half counts jobs, the low half the tasks not yet claimed. A worker claims a task by
// taking one off, so one that wakes late can never touch a job that has ended.
constexpr uint64_t kRemaining = 0xffffffff;

struct Pool {
  alignas(64) std::atomic<uint64_t> ticket{0};
  alignas(64) std::atomic<int> unfinished{0};
  alignas(64) std::atomic<int> sleepers{0};
  std::atomic<int> limit{1};  // workers with a lower number take part in this job
  void (*task)(void*, int) = nullptr;
  void* argument = nullptr;
  decltype(float_mode()) mode = 0;
  int tasks = 0;
  int workers = 0;  // started so far; changed under `busy`
  std::atomic<bool> busy{false};
  std::mutex mutex;
  std::condition_variable wake;
  int waker = -1;  // the core that `wake` was last called from

  // Claims and runs tasks until none is left.
  void work(bool worker) {
    uint64_t t = ticket.load(std::memory_order_acquire);
    while (t & kRemaining) {
      if (!ticket.compare_exchange_weak(t, t - 1, std::memory_order_acq_rel)) continue;
      if (worker) set_float_mode(mode);
      task(argument, tasks - (int)(t & kRemaining));  // task 0 first
      unfinished.fetch_sub(1, std::memory_order_acq_rel);
      t = ticket.load(std::memory_order_acquire);
    }
  }

  void serve(int number) {
    auto ready = [&] {
      return (ticket.load(std::memory_order_acquire) & kRemaining) != 0 &&
             number < limit.load(std::memory_order_relaxed);
    };
    for (;;) {
      if (!spin(ready)) {
        std::unique_lock<std::mutex> lock(mutex);
        sleepers.fetch_add(1, std::memory_order_seq_cst);
        wake.wait(lock, ready);
        sleepers.fetch_sub(1, std::memory_order_relaxed);
        const int core = waker;
        lock.unlock();
        leave(core);
      }
      work(true);
    }
  }

  void run(int count, void (*f)(void*, int), void* a, int threads) {
    while (workers < threads - 1) {
      try {
        std::thread([this, number = workers] { serve(number); }).detach();
        workers++;
      } catch (const std::exception&) {  // no more threads to be had: fewer workers do the same work
        break;
      }
    }
    task = f;
    argument = a;
    mode = float_mode();
    tasks = count;
    limit.store(threads - 1, std::memory_order_relaxed);
    unfinished.store(count, std::memory_order_relaxed);
    const uint64_t job = (ticket.load(std::memory_order_relaxed) >> 32) + 1;
    ticket.store(job << 32 | (uint64_t)count, std::memory_order_seq_cst);
    if (sleepers.load(std::memory_order_seq_cst) > 0) {
      std::lock_guard<std::mutex> lock(mutex);
      waker = this_core();
      wake.notify_all();
    }
    work(false);
    auto done = [&] { return unfinished.load(std::memory_order_acquire) == 0; };
    while (!spin(done)) {
    }
  }
};

// The cores that a cgroup's CPU quota leaves, rounded up; 0 if there is none.
int cgroup_cores() {
  double quota = 0, period = 0;
  if (FILE* f = fopen("/sys/fs/cgroup/cpu.max", "r")) {
    if (fscanf(f, "%lf %lf", &quota, &period) != 2) quota = 0;
    fclose(f);
  } else if (FILE* q = fopen("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "r")) {
    if (fscanf(q, "%lf", &quota) != 1) quota = 0;
    fclose(q);
    if (FILE* p = fopen("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "r")) {
      if (fscanf(p, "%lf", &period) != 1) period = 0;
      fclose(p);
    }
  }
  if (quota <= 0 || period <= 0) return 0;
  return (int)((quota + period - 1) / period);
}

int affinity_cores() {
#ifdef __linux__
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
  const unsigned n = std::thread::hardware_concurrency();
  return n ? (int)n : 1;
}

int positive_env(const char* name) {
  const char* text = getenv(name);
  return text ? atoi(text) : 0;  // "4,2", OpenMP's nested form, gives 4
}

std::atomic<Pool*> the_pool{nullptr};
std::atomic<int> the_threads{0};
thread_local int the_limit = kMaxThreads;  // of the jobs of this thread

Pool& instance() {
  Pool* p = the_pool.load(std::memory_order_acquire);
  if (p == nullptr) {
    Pool* made = new Pool;
    if (the_pool.compare_exchange_strong(p, made)) {
      p = made;
      // The child of a fork has none of the workers: it forgets the pool and starts its own when it needs one.
      static std::once_flag once;
      std::call_once(once, [] { pthread_atfork(nullptr, nullptr, [] { the_pool.store(nullptr); }); });
    } else {
      delete made;
    }
  }
  return *p;
}

}  // namespace

int default_threads() {
  for (const char* name : {"INNERLOOP_NUM_THREADS", "OMP_NUM_THREADS"}) {
    const int n = positive_env(name);
    if (n > 0) return n < kMaxThreads ? n : kMaxThreads;
  }
  const int cores = affinity_cores(), quota = cgroup_cores();
  return quota > 0 && quota < cores ? quota : cores;
}

int threads() {
  int n = the_threads.load(std::memory_order_relaxed);
  if (n == 0) {
    n = default_threads();
    the_threads.store(n, std::memory_order_relaxed);
  }
  return n < the_limit ? n : the_limit;
}

Limit::Limit(int n) : outer(the_limit) { the_limit = n < outer ? n : outer; }
Limit::~Limit() { the_limit = outer; }

void set_threads(int n) { the_threads.store(n < kMaxThreads ? n : kMaxThreads, std::memory_order_relaxed); }

void run(int tasks, void (*task)(void*, int), void* argument) {
  const int n = threads();
  if (tasks > 1 && n > 1) {
    Pool& p = instance();
    if (!p.busy.exchange(true, std::memory_order_acquire)) {
      p.run(tasks, task, argument, n);
      p.busy.store(false, std::memory_order_release);
      return;
    }
  }
  for (int i = 0; i < tasks; i++) task(argument, i);
}

}  // namespace innerloop::pool
