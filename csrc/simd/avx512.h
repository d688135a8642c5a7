// x86-64-v4: 64-byte registers with FMA and masked memory accesses.
#pragma once

#include <immintrin.h>

#include "simd/vector.h"

namespace innerloop::INNERLOOP_ISA {

constexpr int kVectorBytes = 64;
constexpr bool kHasFma = true;

HD Vec<float, 16> fma(Vec<float, 16> a, Vec<float, 16> b, Vec<float, 16> c) {
  return (Vec<float, 16>::raw)_mm512_fmadd_ps((__m512)a.v, (__m512)b.v, (__m512)c.v);
}
HD Vec<double, 8> fma(Vec<double, 8> a, Vec<double, 8> b, Vec<double, 8> c) {
  return (Vec<double, 8>::raw)_mm512_fmadd_pd((__m512d)a.v, (__m512d)b.v, (__m512d)c.v);
}
// Masked, with every lane: g++ 12 warns of an uninitialised value inside its own _mm512_sqrt_ps (its bug 105593).
HD Vec<float, 16> sqrt(Vec<float, 16> a) { return (Vec<float, 16>::raw)_mm512_maskz_sqrt_ps(0xffff, (__m512)a.v); }
HD Vec<double, 8> sqrt(Vec<double, 8> a) { return (Vec<double, 8>::raw)_mm512_maskz_sqrt_pd(0xff, (__m512d)a.v); }

// See vector.h.
HD Vec<float, 16> larger(Vec<float, 16> a, Vec<float, 16> b) {
  return (Vec<float, 16>::raw)_mm512_maskz_max_ps(0xffff, (__m512)a.v, (__m512)b.v);
}
HD Vec<float, 16> smaller(Vec<float, 16> a, Vec<float, 16> b) {
  return (Vec<float, 16>::raw)_mm512_maskz_min_ps(0xffff, (__m512)a.v, (__m512)b.v);
}
HD Vec<double, 8> larger(Vec<double, 8> a, Vec<double, 8> b) {
  return (Vec<double, 8>::raw)_mm512_maskz_max_pd(0xff, (__m512d)a.v, (__m512d)b.v);
}
HD Vec<double, 8> smaller(Vec<double, 8> a, Vec<double, 8> b) {
  return (Vec<double, 8>::raw)_mm512_maskz_min_pd(0xff, (__m512d)a.v, (__m512d)b.v);
}

template <>
HD Vec<float, 16> load_partial<Vec<float, 16>>(const void* p, int n) {
  return (Vec<float, 16>::raw)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
}
template <>
HD Vec<double, 8> load_partial<Vec<double, 8>>(const void* p, int n) {
  return (Vec<double, 8>::raw)_mm512_maskz_loadu_pd((__mmask8)((1u << n) - 1), p);
}
template <>
HD void store_partial<Vec<float, 16>>(Vec<float, 16> a, void* p, int n) {
  _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)a.v);
}
template <>
HD void store_partial<Vec<double, 8>>(Vec<double, 8> a, void* p, int n) {
  _mm512_mask_storeu_pd(p, (__mmask8)((1u << n) - 1), (__m512d)a.v);
}

// The products of the low halves.
HD Vec<uint64_t, 8> multiply_low(Vec<uint64_t, 8> a, Vec<uint64_t, 8> b) {
  return (Vec<uint64_t, 8>::raw)_mm512_maskz_mul_epu32(0xff, (__m512i)a.v, (__m512i)b.v);
}

// Stores that bypass the caches; p is aligned to kVectorBytes. stream_end() orders them before what follows.
HD void stream(Vec<float, 16> a, void* p) { _mm512_stream_ps((float*)p, (__m512)a.v); }
HD void stream(Vec<double, 8> a, void* p) { _mm512_stream_pd((double*)p, (__m512d)a.v); }
HD void stream_end() { _mm_sfence(); }
HD void prefetch(const void* p) { _mm_prefetch((const char*)p, _MM_HINT_T0); }

}  // namespace innerloop::INNERLOOP_ISA
