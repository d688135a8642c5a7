#undef _FORTIFY_SOURCE  // its longjmp refuses to leave one stack for another
#include "fibres.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>

#include <atomic>
#include <memory>
#include <vector>

#include "cuda_runtime_api.h"
#include "guarded.h"

namespace innerloop::emulator {
namespace {

constexpr int kWarp = 32;
constexpr size_t kStack = 64 << 10, kColours = 16 << 10;

struct Fibre {
  jmp_buf at;
  Guarded stack;
};

// Not inlined, so that nothing of the caller's is kept in registers over it that setjmp does not keep.
__attribute__((noinline)) void change(jmp_buf& from, jmp_buf& to) {
  if (_setjmp(from) == 0) _longjmp(to, 1);
}

[[noreturn]] void stop(const Launch& launch, int64_t block, const char* what) {
  fprintf(stderr, "emulated GPU, block %lld of %lld with %d threads: %s\n", (long long)block, (long long)launch.blocks,
          launch.lanes, what);
  abort();
}

class Fibres {
 public:
  void run(const Launch& l) {
    launch = &l;
    random = 1;
    if (shared.data == nullptr || shared.size != l.shared) shared = Guarded(l.shared, 16);
    if (kept.data == nullptr || kept.size != l.kept) kept = Guarded(l.kept, 16);
    for (block = l.blocks - 1; block >= 0; block--) run_block();
  }

  void sync() {
    lane[running].waits = kSync;
    if (++at_sync == launch->lanes) {
      at_sync = 0;
      make_all_ready();
    }
    pass(lane[running].fibre->at);
  }

  uint64_t shuffle_xor(uint64_t value, int mask, int bytes) {
    const int self = running, first = self / kWarp * kWarp;
    lane[self].waits = kShuffle;
    lane[self].value = value;
    lane[self].mask = mask;
    lane[self].bytes = bytes;
    if (mask < 1 || mask >= kWarp) stop("a shuffle's mask is not between 1 and 31");
    if (++at_shuffle[self / kWarp] == kWarp) {
      at_shuffle[self / kWarp] = 0;
      for (int i = first; i < first + kWarp; i++) {
        if (lane[i].mask != mask || lane[i].bytes != bytes) stop("the lanes of a warp shuffle differently");
        lane[i].taken = lane[i ^ mask].value;
      }
      make_warp_ready(first);
    }
    pass(lane[self].fibre->at);
    return lane[self].taken;
  }

 private:
  enum Wait : char { kNothing, kSync, kShuffle, kEnd };
  struct Lane {
    Wait waits;
    int mask, bytes;
    uint64_t value, taken;  // of a shuffle
    Fibre* fibre;           // none before it begins
  };

  void run_block() {
    shared.fill();
    kept.fill();
    at_sync = ended = 0;
    for (int& n : at_shuffle) n = 0;
    for (int i = 0; i < launch->lanes; i++) lane[i].fibre = nullptr;
    make_all_ready();
    pass(outside);
    if (!shared.holds()) stop("something was written beside its shared memory");
    if (!kept.holds()) stop("something was written beside what reduce() keeps");
  }

  // From the one that waits, ends or starts a block, to the one that is next.
  void pass(jmp_buf& from) {
    if (ready_count == 0) {
      if (ended < launch->lanes) report_stuck();
      return change(from, outside);
    }
    running = ready[--ready_count];
    Fibre*& fibre = lane[running].fibre;
    if (fibre == nullptr) {
      if (idle.empty()) make_fibre();
      fibre = idle.back();
      idle.pop_back();
    }
    change(from, fibre->at);
  }

  // What a fibre does for good. Threads that wait for nothing follow each other without a change of stacks.
  void work(Fibre* self) {
    for (;;) {
      launch->run_thread(launch->body, {block, launch->blocks, running, shared.data, kept.data});
      lane[running].waits = kEnd;
      ended++;
      if (ready_count > 0 && lane[ready[ready_count - 1]].fibre == nullptr) {
        running = ready[--ready_count];
        lane[running].fibre = self;
      } else {
        idle.push_back(self);
        pass(self->at);
      }
    }
  }

  // setjmp and longjmp change stacks without a system call; only ucontext starts on one.
  void make_fibre() {
    fibres.push_back(std::make_unique<Fibre>());
    Fibre* fibre = fibres.back().get();
    fibre->stack = Guarded(kStack + kColours, 16);
    if (fibre->stack.data == nullptr) stop("no memory for a thread's stack");
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = fibre->stack.data;
    context.uc_stack.ss_size = kStack + fibres.size() * 320 % kColours;  // else all share a few lines of the caches
    context.uc_link = nullptr;
    makecontext(&context, (void (*)())begin, 0);
    starting = this;
    swapcontext(&starter, &context);
    idle.push_back(fibre);
  }
  static void begin() {
    Fibres* self = starting;
    Fibre* fibre = self->fibres.back().get();
    if (_setjmp(fibre->at) == 0) setcontext(&self->starter);
    self->work(fibre);
  }

  // The last to be made ready is the next to run.
  void make_all_ready() {
    const int warps = launch->lanes / kWarp, step = next_prime(), first = step >> 3;
    for (int i = 0; i < warps; i++) make_warp_ready((i * step + first) % warps * kWarp);
  }
  void make_warp_ready(int begin) {
    const int step = next_prime();
    for (int i = 0; i < kWarp; i++) {
      ready[ready_count++] = begin + (i * step + (step >> 3)) % kWarp;
      lane[ready[ready_count - 1]].waits = kNothing;
    }
  }
  // A multiple of it goes through all numbers below a block's number of warps, and of a warp's lanes.
  int next_prime() {
    constexpr int primes[] = {37, 41, 43, 47, 53, 59, 61, 67};
    random = random * 6364136223846793005u + 1442695040888963407u;
    return primes[random >> 61];
  }

  void stop(const char* what) { emulator::stop(*launch, block, what); }

  void report_stuck() {
    int count[kEnd + 1] = {}, first[kEnd + 1] = {};
    for (int i = launch->lanes - 1; i >= 0; i--) {
      count[lane[i].waits]++;
      first[lane[i].waits] = i;
    }
    char text[300];
    snprintf(text, sizeof text,
             "it would hang: %d threads wait at a sync (the first: %d), %d at a shuffle (%d), %d have ended (%d)",
             count[kSync], first[kSync], count[kShuffle], first[kShuffle], count[kEnd], first[kEnd]);
    stop(text);
  }

  const Launch* launch = nullptr;
  int64_t block = 0;
  uint64_t random = 1;
  Guarded shared, kept;

  Lane lane[kMostLanes];
  int ready[kMostLanes], ready_count = 0;
  int running = 0, at_sync = 0, ended = 0, at_shuffle[kMostLanes / kWarp];

  jmp_buf outside;
  std::vector<std::unique_ptr<Fibre>> fibres;
  std::vector<Fibre*> idle;
  ucontext_t starter;
  static thread_local Fibres* starting;
};

thread_local Fibres* Fibres::starting = nullptr;

std::atomic<int64_t> launches{0};

Fibres& here() {
  static thread_local auto fibres = std::make_unique<Fibres>();
  return *fibres;
}

}  // namespace

int run(const Launch& launch) {
  if (launch.blocks < 0 || launch.blocks > INT32_MAX) return cudaErrorInvalidConfiguration;
  if (launch.shared > kMostShared) return cudaErrorInvalidValue;
  launches++;
  here().run(launch);
  return cudaSuccess;
}

int64_t launch_count() { return launches; }

void sync() { here().sync(); }

uint64_t shuffle_xor(uint64_t value, int mask, int bytes) { return here().shuffle_xor(value, mask, bytes); }

}  // namespace innerloop::emulator
