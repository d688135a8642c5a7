// Loops that do nothing but reach a limit of the machine: what benchmarks are held against.
#include "cpu/tables.h"
#include "kernels.h"
#include "simd/simd.h"

namespace innerloop::INNERLOOP_ISA {
namespace {

// Chains that do not wait for each other: two pipes of 4-6 cycles need 8-12, and 12 with two constants fit 16
// registers.
constexpr int kChains = 12;

// x = x * a + b tends to b / (1 - a) = 1: no infinity and no subnormal slows it.
template <class T>
int64_t fma_chains(int64_t rounds, T* sink) {
  using V = Native<T>;
  V x[kChains];
  for (int i = 0; i < kChains; i++) x[i] = V(T(1) + T(i) / 16);
  const V a(T(0.75)), b(T(0.25));
  for (int64_t r = 0; r < rounds; r++) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; i++) x[i] = fma(x[i], a, b);
  }
  for (int i = 1; i < kChains; i++) x[0] = x[0] + x[i];
  *sink = x[0][0];
  return rounds * kChains * V::lanes * 2;
}

// The sizes below are in floats, multiples of 64; pointers are 64-byte aligned.
constexpr int kUnroll = 4;
using V = Native<float>;

void read(float* x, int64_t n) {
  V sum[kUnroll];
  for (int i = 0; i < kUnroll; i++) sum[i] = V(0.0f);
  for (int64_t at = 0; at < n; at += kUnroll * V::lanes) {
    for (int i = 0; i < kUnroll; i++) sum[i] = sum[i] + V::load(x + at + i * V::lanes);
  }
  for (int i = 1; i < kUnroll; i++) sum[0] = sum[0] + sum[i];
  if (sum[0][0] < 0) x[0] = 0;  // never: it keeps the loads
}

void update(float* x, int64_t n) {
  for (int64_t at = 0; at < n; at += kUnroll * V::lanes) {
    for (int i = 0; i < kUnroll; i++) {
      float* p = x + at + i * V::lanes;
      (V::load(p) * V(2.0f) - V::load(p)).store(p);
    }
  }
}

// The second half from the first.
void copy(float* x, int64_t n) {
  float* y = x + n / 2;
  for (int64_t at = 0; at < n / 2; at += V::lanes) V::load(x + at).store(y + at);
}

void copy_around_caches(float* x, int64_t n) {
  float* y = x + n / 2;
  for (int64_t at = 0; at < n / 2; at += V::lanes) stream(V::load(x + at), y + at);
  stream_end();
}

constexpr MemoryProbe memory[] = {
    {"read", 1, read}, {"update", 2, update}, {"copy", 1, copy}, {"stream", 1, copy_around_caches}};

}  // namespace

const Probes probes = {fma_chains<float>, fma_chains<double>, {memory, 4}};

}  // namespace innerloop::INNERLOOP_ISA
