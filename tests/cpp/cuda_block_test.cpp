// What a body may ask of its block, by kernels made for it; and that the emulator notices what would go wrong.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

#include "cuda_support.h"
#include "emulator/device_memory.h"

using namespace innerloop;
using cuda::Block;
using cuda::kWarp;
using cuda::Queue;

namespace {

void expect(bool holds, const std::string& what) {
  compared++;
  if (holds || ++failures > 20) return;
  printf("DIFFERS: %s\n", what.c_str());
}

// What a launch wrote, one element for each thread.
template <class T, int Threads, class Body>
std::vector<T> launched(int64_t blocks, Body body, size_t shared = 0) {
  std::vector<T> out((size_t)(blocks * Threads));
  body.out = out.data();
  expect_success("launch", cuda::launch<Threads>(Queue{nullptr, 1}, blocks, body, shared));
  return out;
}

template <class T>
struct Index {
  T* out;
  HD void operator()(const Block& block) const { out[block.thread().index] = (T)(block.thread().count + block.lane); }
};

// Two reductions, one after another, that go over the lanes in a fixed order.
struct Reduce {
  double* out;
  HD void operator()(const Block& block) const {
    const auto i = (double)block.thread().index;
    const double sum = block.reduce(i, [](double a, double b) { return a + b; });
    const double most = block.reduce(block.lane % 7 == 3 ? i : -i, [](double a, double b) { return a > b ? a : b; });
    out[block.thread().index] = sum * 4096 + most;
  }
};
// Rounded sums, which depend on their order.
struct Rounded {
  float* out;
  HD void operator()(const Block& block) const {
    out[block.thread().index] =
        block.reduce(1 / (float)(block.thread().index + 1), [](float a, float b) { return a + b; });
  }
};

struct Exchange {
  uint64_t* out;
  int mask;
  HD void operator()(const Block& block) const {
    const auto wide = block.shuffle_xor((uint64_t)block.lane << 40, mask);
    const int narrow = block.shuffle_xor(block.lane, mask ^ 31);
    out[block.thread().index] = wide + (uint64_t)narrow;
  }
};
// Warps that do not shuffle equally often.
struct Uneven {
  int* out;
  HD void operator()(const Block& block) const {
    int value = block.lane;
    for (int i = 0; i <= block.lane / kWarp; i++) value = block.shuffle_xor(value, 1);
    out[block.thread().index] = value;
  }
};

// Turns round what shared memory holds, again and again; `before` and `after`: with each of the syncs that it takes.
struct Turn {
  int* out;
  bool before, after;
  HD void operator()(const Block& block) const {
    int* held = reinterpret_cast<int*>(block.shared);
    int value = block.lane;
    for (int i = 0; i < 3; i++) {
      held[block.lane] = value;
      if (before) block.sync();
      value = held[(block.lane + kWarp + 1) % block.lanes];
      if (after) block.sync();
    }
    out[block.thread().index] = value;
  }
};
std::vector<int> turned(int lanes) {
  std::vector<int> want;
  for (int i = 0; i < lanes; i++) want.push_back((i + 3 * (kWarp + 1)) % lanes);
  return want;
}

struct Uninitialised {
  float* out;
  HD void operator()(const Block& block) const {
    out[block.thread().index] = reinterpret_cast<const float*>(block.shared)[block.lane];
    reinterpret_cast<float*>(block.shared)[block.lane] = 0;  // which the next block does not find
  }
};

template <int Threads>
void test_lanes() {
  const std::string name = std::to_string(Threads) + " threads";
  constexpr int64_t blocks = 3;
  const auto index = launched<double, Threads>(blocks, Index<double>{});
  const auto reduced = launched<double, Threads>(blocks, Reduce{});
  const auto rounded = launched<float, Threads>(blocks, Rounded{});
  const auto uneven = launched<int, Threads>(blocks, Uneven{});
  const auto turn = launched<int, Threads>(1, Turn{nullptr, true, true}, Threads * sizeof(int));
  expect(turn == turned(Threads), name + ", shared memory");
  for (int64_t b = 0; b < blocks; b++) {
    double sum = 0, most = -INFINITY;
    float by_warp[Threads / kWarp];
    for (int64_t lane = 0; lane < Threads; lane++) {
      const auto i = (double)(b * Threads + lane);
      sum += i;
      most = std::max(most, lane % 7 == 3 ? i : -i);
    }
    for (int w = 0; w < Threads / kWarp; w++) {
      float values[kWarp];
      for (int i = 0; i < kWarp; i++) values[i] = 1 / (float)(b * Threads + w * kWarp + i + 1);
      for (int n = kWarp / 2; n > 0; n /= 2) {
        for (int i = 0; i < n; i++) values[i] = values[i] + values[i + n];
      }
      by_warp[w] = w > 0 ? by_warp[w - 1] + values[0] : values[0];
    }
    for (int64_t lane = 0; lane < Threads; lane++) {
      const auto at = (size_t)(b * Threads + lane);
      expect(index[at] == (double)(blocks * Threads + lane), name + ", index");
      expect(reduced[at] == sum * 4096 + most, name + ", reduce");
      expect(rounded[at] == by_warp[Threads / kWarp - 1], name + ", reduce's order");
      expect(uneven[at] == (lane / kWarp % 2 == 0 ? lane ^ 1 : lane), name + ", shuffles of some warps");
    }
  }
}

void test_shuffles() {
  for (int mask = 1; mask < kWarp - 1; mask++) {
    const auto got = launched<uint64_t, 96>(2, Exchange{nullptr, mask});
    for (uint64_t i = 0; i < got.size(); i++) {
      const uint64_t lane = i % 96;
      expect(got[i] == ((lane ^ (uint64_t)mask) << 40) + (lane ^ (uint64_t)(mask ^ 31)), "shuffle_xor");
    }
  }
}

// Runs it in a process of its own, which must end by a signal and say something.
template <class F>
void expect_stop(const char* what, int with, const std::string& message, const F& f) {
  int ends[2];
  if (pipe(ends) != 0) return expect(false, "no pipe");
  fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], 2);
    f();
    _exit(0);
  }
  close(ends[1]);
  std::string said;
  char text[512];
  for (ssize_t n; (n = read(ends[0], text, sizeof text)) > 0;) said.append(text, (size_t)n);
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  expect(WIFSIGNALED(status) && WTERMSIG(status) == with && said.find(message) != std::string::npos,
         std::string(what) + ": it was not noticed, it said: " + said);
}

struct LeavesEarly {
  HD void operator()(const Block& block) const {
    if (block.lane != 40) block.sync();
  }
};
struct SyncsOnceMore {
  HD void operator()(const Block& block) const {
    for (int i = 0; i <= block.lane / kWarp; i++) block.sync();
  }
};
struct ShufflesAlone {
  HD void operator()(const Block& block) const {
    if (block.lane % kWarp < 16) block.shuffle_xor(1, 1);
  }
};
struct ShufflesDifferently {
  HD void operator()(const Block& block) const { block.shuffle_xor(1, block.lane % 2 + 1); }
};
struct WritesAt {
  char* at;
  int64_t in_shared, in_kept;  // an offset, or -1
  HD void operator()(const Block& block) const {
    if (block.lane > 0) return;
    (in_shared >= 0 ? block.shared + in_shared : in_kept >= 0 ? block.kept + in_kept : at)[0] = 1;
  }
};

template <class Body>
void run_one(const Body& body, size_t shared = 0) {
  cuda::launch<64>(Queue{nullptr, 1}, 1, body, shared);
}

void test_what_is_noticed() {
  expect_stop("a thread that ends", SIGABRT, "63 threads wait at a sync", [] { run_one(LeavesEarly{}); });
  expect_stop("a sync more", SIGABRT, "32 have ended (0)", [] { run_one(SyncsOnceMore{}); });
  expect_stop("half a warp", SIGABRT, "32 at a shuffle", [] { run_one(ShufflesAlone{}); });
  expect_stop("two masks", SIGABRT, "shuffle differently", [] { run_one(ShufflesDifferently{}); });
  expect_stop("past shared memory", SIGABRT, "shared memory", [] { run_one(WritesAt{nullptr, 40, -1}, 40); });
  expect_stop("far past it", SIGSEGV, "", [] { run_one(WritesAt{nullptr, 48, -1}, 40); });
  expect_stop("past what is kept", SIGSEGV, "", [] { run_one(WritesAt{nullptr, -1, cuda::kReduceBytes}); });
  expect_stop("past an array", SIGABRT, "written beside it", [] {
    const cuda::Scratch array(Queue{nullptr, 1}, 10);
    run_one(WritesAt{static_cast<char*>(array.data) + 10, -1, -1});
  });
  expect_stop("past an array of bytes", SIGSEGV, "",
              [] { run_one(WritesAt{static_cast<char*>(emulator::allocate(10, 1)) + 10, -1, -1}); });
  // Without a sync, in either place, threads run in orders that show it.
  for (const bool before : {false, true}) {
    const auto got = launched<int, 256>(1, Turn{nullptr, before, !before}, 256 * sizeof(int));
    expect(got != turned(256), "a missing sync is not noticed");
  }
  for (const float x : launched<float, 64>(2, Uninitialised{}, 64 * sizeof(float))) {
    expect(x != x, "shared memory that is read before it is written is not NaN");
  }
}

void test_launches() {
  const Queue queue = {nullptr, 1};
  const Index<int> nothing = {nullptr};
  expect(cuda::launch<32>(queue, 0, nothing) == cudaSuccess, "a launch of no blocks");
  expect(cuda::launch<32>(queue, -1, nothing) == cudaErrorInvalidConfiguration, "a launch of -1 blocks");
  expect(cuda::launch<32>(queue, 1, nothing, 300 << 10) == cudaErrorInvalidValue, "too much shared memory");
}

void test_scratch() {
  const Queue queue = {nullptr, 1};
  {
    cuda::Scratch none(queue, 0), some(queue, 100);
    expect(none.data == nullptr && none.error == cudaSuccess, "no scratch");
    expect(some.data != nullptr && some.error == cudaSuccess && emulator::array_count() == 1, "scratch");
    emulator::fail_after(0);
    cuda::Scratch failed(queue, 8);
    expect(failed.data == nullptr && failed.error == cudaErrorMemoryAllocation, "scratch that there is not");
    emulator::fail_after(-1);
  }
  expect(emulator::array_count() == 0, "scratch goes when its call does");
}

}  // namespace

int main() {
  test_lanes<32>();
  test_lanes<64>();
  test_lanes<96>();
  test_lanes<256>();
  test_lanes<512>();
  test_lanes<1024>();
  test_shuffles();
  test_what_is_noticed();
  test_launches();
  test_scratch();
  return report();
}
