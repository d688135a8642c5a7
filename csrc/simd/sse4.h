// x86-64-v2: 16-byte registers and no fused multiply-add, so fma() rounds twice here and v2 stands outside the
// promise of equal bits (docs/design.md, 4).
#pragma once

#include <smmintrin.h>

#include "simd/vector.h"

namespace innerloop::INNERLOOP_ISA {

constexpr int kVectorBytes = 16;
constexpr bool kHasFma = false;

HD Vec<float, 4> fma(Vec<float, 4> a, Vec<float, 4> b, Vec<float, 4> c) { return a * b + c; }
HD Vec<double, 2> fma(Vec<double, 2> a, Vec<double, 2> b, Vec<double, 2> c) { return a * b + c; }
HD Vec<float, 4> sqrt(Vec<float, 4> a) { return (Vec<float, 4>::raw)_mm_sqrt_ps((__m128)a.v); }
HD Vec<double, 2> sqrt(Vec<double, 2> a) { return (Vec<double, 2>::raw)_mm_sqrt_pd((__m128d)a.v); }

// See vector.h.
HD Vec<float, 4> larger(Vec<float, 4> a, Vec<float, 4> b) {
  return (Vec<float, 4>::raw)_mm_max_ps((__m128)a.v, (__m128)b.v);
}
HD Vec<float, 4> smaller(Vec<float, 4> a, Vec<float, 4> b) {
  return (Vec<float, 4>::raw)_mm_min_ps((__m128)a.v, (__m128)b.v);
}
HD Vec<double, 2> larger(Vec<double, 2> a, Vec<double, 2> b) {
  return (Vec<double, 2>::raw)_mm_max_pd((__m128d)a.v, (__m128d)b.v);
}
HD Vec<double, 2> smaller(Vec<double, 2> a, Vec<double, 2> b) {
  return (Vec<double, 2>::raw)_mm_min_pd((__m128d)a.v, (__m128d)b.v);
}

// The products of the low halves.
HD Vec<uint64_t, 2> multiply_low(Vec<uint64_t, 2> a, Vec<uint64_t, 2> b) {
  return (Vec<uint64_t, 2>::raw)_mm_mul_epu32((__m128i)a.v, (__m128i)b.v);
}

// Stores that bypass the caches; p is aligned to kVectorBytes. stream_end() orders them before what follows.
HD void stream(Vec<float, 4> a, void* p) { _mm_stream_ps((float*)p, (__m128)a.v); }
HD void stream(Vec<double, 2> a, void* p) { _mm_stream_pd((double*)p, (__m128d)a.v); }
HD void stream_end() { _mm_sfence(); }
HD void prefetch(const void* p) { _mm_prefetch((const char*)p, _MM_HINT_T0); }

}  // namespace innerloop::INNERLOOP_ISA
