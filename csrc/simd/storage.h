// bfloat16 and float16 as they lie in memory. Kernels compute on Vec<float, N>: these widen to it, which is exact, and
// narrow from it, to the nearest and to even in the middle, as every ISA has it or as bit operations where it has not.
#pragma once

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
HD Words nearest_bfloat16(Native<float> x) {
  const Words b = bits(x);
  const Words rounded = b + Words(0x7fff) + ((b >> 16) & Words(1));
  const Words quiet = b | Words(0x400000);  // a NaN whose upper half might be zero
  return bits(select(x != x, from_bits<Native<float>>(quiet), from_bits<Native<float>>(rounded))) >> 16;
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
// float16 is 1 sign, 5 exponent (bias 15) and 10 mantissa bits: IEEE 754-2019, table 3.5.
template <>
HD Native<float> widen<Float16>(Halves h) {
  using V = Native<float>;
  const Words w = widen_bits(h), rest = w & Words(0x7fff);
  const Words normal = (rest << 13) + Words((127 - 15) << 23);
  const Words special = (rest << 13) | Words(0x7f800000);
  // rest * 2^-24, by way of the float 2^23 + rest.
  const V subnormal = (from_bits<V>(rest | Words(0x4b000000)) - V(8388608.0f)) * V(5.9604644775390625e-8f);
  const V magnitude = from_bits<V>(rest << 13);  // compares as the 16 bits do, and is never NaN
  const V edge = from_bits<V>(Words(0x0400 << 13)), infinite = from_bits<V>(Words(0x7c00 << 13));
  const V y =
      select(magnitude < edge, subnormal, select(magnitude >= infinite, from_bits<V>(special), from_bits<V>(normal)));
  return from_bits<V>(bits(y) | ((w & Words(0x8000)) << 16));
}
template <>
HD Halves narrow<Float16>(Native<float> x) {
  using V = Native<float>;
  const V a = abs(x);
  const Words b = bits(a), sign = (bits(x) >> 16) & Words(0x8000);
  const Words normal = (b - Words((127 - 15) << 23) + Words(0xfff) + ((b >> 13) & Words(1))) >> 13;
  // Below 2^-14 the last place is 2^-24, which is that of floats from 1/2 to 1.
  const Words subnormal = bits(a + V(0.5f)) - Words(0x3f000000);
  V y = select(a < V(6.103515625e-5f), from_bits<V>(subnormal), from_bits<V>(normal));
  y = select(a >= V(65520.0f), from_bits<V>(Words(0x7c00)), y);
  y = select(a != a, from_bits<V>(Words(0x7e00)), y);
  return narrow_bits(bits(y) | sign);
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
