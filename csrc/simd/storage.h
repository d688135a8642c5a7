// bfloat16 and float16 as they lie in memory. Kernels compute on Vec<float, N>: these widen to it, which is exact, and
// narrow from it, to the nearest and to even in the middle, as every ISA has it or as bit operations where it has not.
#pragma once

#include "simd/half_bits.h"
#include "simd/simd.h"

namespace innerloop::INNERLOOP_ISA {

struct Bfloat16 {};
struct Float16 {};

// 16 bits a lane, as loaded and stored, and the same widened to a float's 32.
using Halves = typename Raw<uint16_t, Native<float>::lanes>::type;
using Words = typename Native<float>::bits_type;

// Lanes of 16 bits to and from words; of the two in each word of a vector; and two vectors' worth stored end to end.
#if defined(__AVX2__) && !defined(__AVX512F__)
// One or two instructions each, of which g++ 12 makes four of the general form.
HD Words widen_bits(Halves h) { return (Words::raw)_mm256_cvtepu16_epi32((__m128i)h); }
HD Halves narrow_bits(Words w) {  // below 2^16
  const auto v = (__m256i)w.v;
  return (Halves)_mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
}
HD void store_narrow(const Words (&w)[2], void* p) {
  const __m256i mixed = _mm256_packus_epi32((__m256i)w[0].v, (__m256i)w[1].v);
  _mm256_storeu_si256((__m256i*)p, _mm256_permute4x64_epi64(mixed, 0xd8));
}
#else
HD Words widen_bits(Halves h) { return __builtin_convertvector(h, typename Words::raw); }
HD Halves narrow_bits(Words w) { return __builtin_convertvector(w.v, Halves); }
HD void store_narrow(const Words (&w)[2], void* p) {
  const Halves h[2] = {narrow_bits(w[0]), narrow_bits(w[1])};
  memcpy(p, h, sizeof h);
}
#endif
HD void split_halves(Words w, Words (&half)[2]) {  // in the order of memory
  Halves h[2];
  memcpy(h, &w.v, sizeof h);
  for (int i = 0; i < 2; i++) half[i] = widen_bits(h[i]);
}

template <class S>
HD Native<float> widen(Halves h);
template <class S>
HD Halves narrow(Native<float> x);

// A float's upper half.
template <>
HD Native<float> widen<Bfloat16>(Halves h) {
  return from_bits<Native<float>>(widen_bits(h) << 16);
}
template <>
HD Halves narrow<Bfloat16>(Native<float> x) {
  return narrow_bits(nearest_bfloat16(x));
}

#if defined(__AVX512F__)
template <>
HD Native<float> widen<Float16>(Halves h) {
  return (Native<float>::raw)_mm512_maskz_cvtph_ps(0xffff, (__m256i)h);
}
template <>
HD Halves narrow<Float16>(Native<float> x) {
  return (Halves)_mm512_maskz_cvtps_ph(0xffff, (__m512)x.v, _MM_FROUND_TO_NEAREST_INT);
}
#elif defined(__F16C__)
template <>
HD Native<float> widen<Float16>(Halves h) {
  return (Native<float>::raw)_mm256_cvtph_ps((__m128i)h);
}
template <>
HD Halves narrow<Float16>(Native<float> x) {
  return (Halves)_mm256_cvtps_ph((__m256)x.v, _MM_FROUND_TO_NEAREST_INT);
}
#else
template <>
HD Native<float> widen<Float16>(Halves h) {
  return float16_value<Native<float>>(widen_bits(h));
}
template <>
HD Halves narrow<Float16>(Native<float> x) {
  return narrow_bits(nearest_float16(x));
}
#endif

// The first n lanes from and to memory at any alignment; `stride` bytes apart.
template <class S>
HD Native<float> load_as(const void* p) {
  Halves h;
  memcpy(&h, p, sizeof h);
  return widen<S>(h);
}
template <class S>
HD void store_as(Native<float> x, void* p) {
  const Halves h = narrow<S>(x);
  memcpy(p, &h, sizeof h);
}
template <class S>
HD void store_two_as(Native<float> x, Native<float> y, void* p) {  // end to end
  const Halves h[2] = {narrow<S>(x), narrow<S>(y)};
  memcpy(p, h, sizeof h);
}
template <>
HD void store_two_as<Bfloat16>(Native<float> x, Native<float> y, void* p) {
  const Words w[2] = {nearest_bfloat16(x), nearest_bfloat16(y)};
  store_narrow(w, p);
}
template <class S>
HD Native<float> load_as(const void* p, int n, ptrdiff_t stride = 2) {
  uint16_t lane[Native<float>::lanes] = {};
  for (int i = 0; i < n; i++) memcpy(&lane[i], (const char*)p + i * stride, 2);
  return load_as<S>(lane);
}
template <class S>
HD void store_as(Native<float> x, void* p, int n, ptrdiff_t stride = 2) {
  uint16_t lane[Native<float>::lanes];
  store_as<S>(x, lane);
  for (int i = 0; i < n; i++) memcpy((char*)p + i * stride, &lane[i], 2);
}

}  // namespace innerloop::INNERLOOP_ISA
