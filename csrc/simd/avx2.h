// x86-64-v3: 32-byte registers with FMA.
#pragma once

#include <immintrin.h>

#include "simd/vector.h"

namespace innerloop::INNERLOOP_ISA {

constexpr int kVectorBytes = 32;
constexpr bool kHasFma = true;

HD Vec<float, 8> fma(Vec<float, 8> a, Vec<float, 8> b, Vec<float, 8> c) {
  return (Vec<float, 8>::raw)_mm256_fmadd_ps((__m256)a.v, (__m256)b.v, (__m256)c.v);
}
HD Vec<double, 4> fma(Vec<double, 4> a, Vec<double, 4> b, Vec<double, 4> c) {
  return (Vec<double, 4>::raw)_mm256_fmadd_pd((__m256d)a.v, (__m256d)b.v, (__m256d)c.v);
}
HD Vec<float, 8> sqrt(Vec<float, 8> a) { return (Vec<float, 8>::raw)_mm256_sqrt_ps((__m256)a.v); }
HD Vec<double, 4> sqrt(Vec<double, 4> a) { return (Vec<double, 4>::raw)_mm256_sqrt_pd((__m256d)a.v); }

// See vector.h.
HD Vec<float, 8> larger(Vec<float, 8> a, Vec<float, 8> b) {
  return (Vec<float, 8>::raw)_mm256_max_ps((__m256)a.v, (__m256)b.v);
}
HD Vec<float, 8> smaller(Vec<float, 8> a, Vec<float, 8> b) {
  return (Vec<float, 8>::raw)_mm256_min_ps((__m256)a.v, (__m256)b.v);
}
HD Vec<double, 4> larger(Vec<double, 4> a, Vec<double, 4> b) {
  return (Vec<double, 4>::raw)_mm256_max_pd((__m256d)a.v, (__m256d)b.v);
}
HD Vec<double, 4> smaller(Vec<double, 4> a, Vec<double, 4> b) {
  return (Vec<double, 4>::raw)_mm256_min_pd((__m256d)a.v, (__m256d)b.v);
}

HD __m256i first_lanes_of_8(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
HD __m256i first_lanes_of_4(int n) { return _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3)); }
template <>
HD Vec<float, 8> load_partial<Vec<float, 8>>(const void* p, int n) {
  return (Vec<float, 8>::raw)_mm256_maskload_ps((const float*)p, first_lanes_of_8(n));
}
template <>
HD Vec<double, 4> load_partial<Vec<double, 4>>(const void* p, int n) {
  return (Vec<double, 4>::raw)_mm256_maskload_pd((const double*)p, first_lanes_of_4(n));
}
// In pieces: a masked store is one instruction, but Zen takes it apart into dozens, and the others wait behind it.
template <>
HD void store_partial<Vec<float, 8>>(Vec<float, 8> a, void* p, int n) {
  if (n >= 8) return a.store(p);
  auto* to = (float*)p;
  __m128 rest = _mm256_castps256_ps128((__m256)a.v);
  if (n & 4) {
    _mm_storeu_ps(to, rest);
    rest = _mm256_extractf128_ps((__m256)a.v, 1);
    to += 4;
  }
  if (n & 2) {
    _mm_storel_pi((__m64*)to, rest);
    rest = _mm_movehl_ps(rest, rest);
    to += 2;
  }
  if (n & 1) _mm_store_ss(to, rest);
}
template <>
HD void store_partial<Vec<double, 4>>(Vec<double, 4> a, void* p, int n) {
  if (n >= 4) return a.store(p);
  auto* to = (double*)p;
  __m128d rest = _mm256_castpd256_pd128((__m256d)a.v);
  if (n & 2) {
    _mm_storeu_pd(to, rest);
    rest = _mm256_extractf128_pd((__m256d)a.v, 1);
    to += 2;
  }
  if (n & 1) _mm_store_sd(to, rest);
}

// The products of the low halves.
HD Vec<uint64_t, 4> multiply_low(Vec<uint64_t, 4> a, Vec<uint64_t, 4> b) {
  return (Vec<uint64_t, 4>::raw)_mm256_mul_epu32((__m256i)a.v, (__m256i)b.v);
}

// Stores that bypass the caches; p is aligned to kVectorBytes. stream_end() orders them before what follows.
HD void stream(Vec<float, 8> a, void* p) { _mm256_stream_ps((float*)p, (__m256)a.v); }
HD void stream(Vec<double, 4> a, void* p) { _mm256_stream_pd((double*)p, (__m256d)a.v); }
HD void stream_end() { _mm_sfence(); }
HD void prefetch(const void* p) { _mm_prefetch((const char*)p, _MM_HINT_T0); }

}  // namespace innerloop::INNERLOOP_ISA
