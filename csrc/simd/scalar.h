// Vec<T, 1>: the V of one lane. CUDA threads and the tests' oracle run the rules with it.
#pragma once

#include <math.h>
#include <string.h>

#include "simd/vector.h"

namespace innerloop::INNERLOOP_ISA {

template <class T>
struct Mask<T, 1> {
  bool m;

  friend HD Mask operator&(Mask a, Mask b) { return {a.m && b.m}; }
  friend HD Mask operator|(Mask a, Mask b) { return {a.m || b.m}; }
  friend HD Mask operator!(Mask a) { return {!a.m}; }
};

template <class T>
struct Vec<T, 1> {
  using scalar = T;
  using bits_type = Vec<typename BitsOf<T>::type, 1>;
  static constexpr int lanes = 1;
  T v;

  Vec() = default;
  HD Vec(T s) : v(s) {}

  static HD Vec load(const void* p) {
    Vec r;
    memcpy(&r.v, p, sizeof(T));
    return r;
  }
  HD void store(void* p) const { memcpy(p, &v, sizeof(T)); }
  HD T operator[](int) const { return v; }

  friend HD Vec operator+(Vec a, Vec b) { return a.v + b.v; }
  friend HD Vec operator-(Vec a, Vec b) { return a.v - b.v; }
  friend HD Vec operator*(Vec a, Vec b) { return a.v * b.v; }
  friend HD Vec operator/(Vec a, Vec b) { return a.v / b.v; }
  friend HD Vec operator-(Vec a) { return -a.v; }
  friend HD Vec operator&(Vec a, Vec b) { return a.v & b.v; }
  friend HD Vec operator|(Vec a, Vec b) { return a.v | b.v; }
  friend HD Vec operator^(Vec a, Vec b) { return a.v ^ b.v; }
  friend HD Vec operator~(Vec a) { return ~a.v; }
  friend HD Vec operator<<(Vec a, int n) { return a.v << n; }
  friend HD Vec operator>>(Vec a, int n) { return a.v >> n; }
  friend HD Mask<T, 1> operator<(Vec a, Vec b) { return {a.v < b.v}; }
  friend HD Mask<T, 1> operator<=(Vec a, Vec b) { return {a.v <= b.v}; }
  friend HD Mask<T, 1> operator>(Vec a, Vec b) { return {a.v > b.v}; }
  friend HD Mask<T, 1> operator>=(Vec a, Vec b) { return {a.v >= b.v}; }
  friend HD Mask<T, 1> operator==(Vec a, Vec b) { return {a.v == b.v}; }
  friend HD Mask<T, 1> operator!=(Vec a, Vec b) { return {a.v != b.v}; }
};

template <class T>
HD Vec<T, 1> select(Mask<T, 1> mask, Vec<T, 1> a, Vec<T, 1> b) {
  return mask.m ? a : b;
}

HD Vec<float, 1> fma(Vec<float, 1> a, Vec<float, 1> b, Vec<float, 1> c) { return fmaf(a.v, b.v, c.v); }
HD Vec<double, 1> fma(Vec<double, 1> a, Vec<double, 1> b, Vec<double, 1> c) { return ::fma(a.v, b.v, c.v); }
HD Vec<float, 1> sqrt(Vec<float, 1> a) { return sqrtf(a.v); }
HD Vec<double, 1> sqrt(Vec<double, 1> a) { return ::sqrt(a.v); }

// The product of the low halves of a and b.
HD Vec<uint64_t, 1> multiply_low(Vec<uint64_t, 1> a, Vec<uint64_t, 1> b) {
  return (uint64_t)(uint32_t)a.v * (uint32_t)b.v;
}

}  // namespace innerloop::INNERLOOP_ISA
