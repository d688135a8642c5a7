// AArch64's Advanced SIMD: 16-byte registers with FMA.
#pragma once

#include <arm_neon.h>

#include "simd/vector.h"

namespace innerloop::INNERLOOP_ISA {

constexpr int kVectorBytes = 16;
constexpr bool kHasFma = true;

HD Vec<float, 4> fma(Vec<float, 4> a, Vec<float, 4> b, Vec<float, 4> c) {
  return (Vec<float, 4>::raw)vfmaq_f32((float32x4_t)c.v, (float32x4_t)a.v, (float32x4_t)b.v);
}
HD Vec<double, 2> fma(Vec<double, 2> a, Vec<double, 2> b, Vec<double, 2> c) {
  return (Vec<double, 2>::raw)vfmaq_f64((float64x2_t)c.v, (float64x2_t)a.v, (float64x2_t)b.v);
}
HD Vec<float, 4> sqrt(Vec<float, 4> a) { return (Vec<float, 4>::raw)vsqrtq_f32((float32x4_t)a.v); }
HD Vec<double, 2> sqrt(Vec<double, 2> a) { return (Vec<double, 2>::raw)vsqrtq_f64((float64x2_t)a.v); }

// The products of the low halves.
HD Vec<uint64_t, 2> multiply_low(Vec<uint64_t, 2> a, Vec<uint64_t, 2> b) {
  return (Vec<uint64_t, 2>::raw)vmull_u32(vmovn_u64((uint64x2_t)a.v), vmovn_u64((uint64x2_t)b.v));
}

// NEON has no store that bypasses the caches from C: a plain one.
template <class V>
HD void stream(V a, void* p) {
  a.store(p);
}
HD void stream_end() {}
HD void prefetch(const void* p) { __builtin_prefetch(p); }

}  // namespace innerloop::INNERLOOP_ISA
