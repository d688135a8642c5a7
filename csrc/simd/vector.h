// The numeric type V of every rule: Vec<T, N>, N lanes of float or double held in one register.
// One source for every width, on the compilers' vector extensions; what those cannot say (fma, sqrt, partial
// loads) is in the file of each instruction set, which simd.h chooses. No STL, no globals: see docs/design.md, 3.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifndef INNERLOOP_ISA
#error "define INNERLOOP_ISA, the namespace of this instruction set: v2, v3, v4, v4_bf16, neon, cuda or scalar"
#endif

#ifdef __CUDACC__
#define HD __host__ __device__ __forceinline__
#else
#define HD __attribute__((always_inline)) inline
#endif

namespace innerloop::INNERLOOP_ISA {

// The integers as wide as a T, for the bit operations of simd/math.h.
template <class T>
struct BitsOf;
template <>
struct BitsOf<float> {
  using type = uint32_t;
  using signed_type = int32_t;
};
template <>
struct BitsOf<double> {
  using type = uint64_t;
  using signed_type = int64_t;
};
template <>
struct BitsOf<uint32_t> : BitsOf<float> {};
template <>
struct BitsOf<uint64_t> : BitsOf<double> {};

// Vector types are named through a struct of their own: g++ takes a typedef with this attribute inside the class
// that uses it in a signature for a plain T.
template <class T, int N>
struct Raw {
  typedef T type __attribute__((vector_size(N * sizeof(T))));
};

template <class T, int N>
struct Vec;

// The result of a comparison: all ones or all zeros in each lane.
template <class T, int N>
struct Mask {
  using raw = typename Raw<typename BitsOf<T>::signed_type, N>::type;
  raw m;

  friend HD Mask operator&(Mask a, Mask b) { return {a.m & b.m}; }
  friend HD Mask operator|(Mask a, Mask b) { return {a.m | b.m}; }
  friend HD Mask operator!(Mask a) { return {~a.m}; }
};

template <class T, int N>
struct Vec {
  using scalar = T;
  using bits_type = Vec<typename BitsOf<T>::type, N>;
  static constexpr int lanes = N;
  using raw = typename Raw<T, N>::type;
  raw v;

  Vec() = default;
  HD Vec(raw r) : v(r) {}
  HD Vec(T s) : v(s - raw{}) {}  // s - 0 is s, -0 and NaN included: the compiler emits one broadcast

  static HD Vec load(const void* p) {  // any alignment
    Vec r;
    memcpy(&r.v, p, sizeof(raw));
    return r;
  }
  HD void store(void* p) const { memcpy(p, &v, sizeof(raw)); }

  HD T operator[](int i) const { return v[i]; }

  friend HD Vec operator+(Vec a, Vec b) { return a.v + b.v; }
  friend HD Vec operator-(Vec a, Vec b) { return a.v - b.v; }
  friend HD Vec operator*(Vec a, Vec b) { return a.v * b.v; }
  friend HD Vec operator/(Vec a, Vec b) { return a.v / b.v; }
  friend HD Vec operator-(Vec a) { return -a.v; }
  friend HD Vec operator&(Vec a, Vec b) { return a.v & b.v; }  // from here to >>: for integer lanes
  friend HD Vec operator|(Vec a, Vec b) { return a.v | b.v; }
  friend HD Vec operator^(Vec a, Vec b) { return a.v ^ b.v; }
  friend HD Vec operator~(Vec a) { return ~a.v; }
  friend HD Vec operator<<(Vec a, int n) { return a.v << n; }
  friend HD Vec operator>>(Vec a, int n) { return a.v >> n; }  // logical: integer lanes are unsigned
  friend HD Mask<T, N> operator<(Vec a, Vec b) { return {a.v < b.v}; }
  friend HD Mask<T, N> operator<=(Vec a, Vec b) { return {a.v <= b.v}; }
  friend HD Mask<T, N> operator>(Vec a, Vec b) { return {a.v > b.v}; }
  friend HD Mask<T, N> operator>=(Vec a, Vec b) { return {a.v >= b.v}; }
  friend HD Mask<T, N> operator==(Vec a, Vec b) { return {a.v == b.v}; }
  friend HD Mask<T, N> operator!=(Vec a, Vec b) { return {a.v != b.v}; }
};

// mask ? a : b in each lane: the only branch that a rule may take on its data.
template <class T, int N>
HD Vec<T, N> select(Mask<T, N> mask, Vec<T, N> a, Vec<T, N> b) {
  return mask.m ? a.v : b.v;
}

// The larger or smaller of two, and b where either is NaN or both are equal: the instructions of x86, which its files
// name where the compiler does not find them.
template <class V>
HD V larger(V a, V b) {
  return select(a > b, a, b);
}
template <class V>
HD V smaller(V a, V b) {
  return select(a < b, a, b);
}

// The same bits read as unsigned integers, and back.
template <class V>
HD typename V::bits_type bits(V a) {
  typename V::bits_type r;
  memcpy(&r.v, &a.v, sizeof r.v);
  return r;
}
template <class V>
HD V from_bits(typename V::bits_type b) {
  V r;
  memcpy(&r.v, &b.v, sizeof r.v);
  return r;
}

// The sign bit of each lane, and nothing else.
template <class V>
HD typename V::bits_type sign_bit(V) {
  using Bits = typename V::bits_type;
  return Bits(typename Bits::scalar(1)) << (int)(sizeof(typename Bits::scalar) * 8 - 1);
}
template <class V>
HD V abs(V a) {
  return from_bits<V>(bits(a) & ~sign_bit(a));
}

// |magnitude| with the sign of `sign`.
template <class V>
HD V copysign(V magnitude, V sign) {
  return from_bits<V>((bits(magnitude) & ~sign_bit(sign)) | (bits(sign) & sign_bit(sign)));
}

// The larger or smaller of two; a NaN in either is returned (unlike the instructions of x86).
template <class V>
HD V max(V a, V b) {
  return select((a > b) | (a != a), a, b);
}
template <class V>
HD V min(V a, V b) {
  return select((a < b) | (a != a), a, b);
}

// The first n lanes from memory, the others 0; and the first n lanes to memory. 0 <= n <= lanes.
template <class V>
HD V load_partial(const void* p, int n) {
  V r(typename V::scalar(0));
  memcpy(&r.v, p, (size_t)n * sizeof(typename V::scalar));
  return r;
}
template <class V>
HD void store_partial(V a, void* p, int n) {
  memcpy(p, &a.v, (size_t)n * sizeof(typename V::scalar));
}

// Lanes `stride` bytes apart; the first n of them, the others 0.
template <class V>
HD V gather(const void* p, ptrdiff_t stride, int n = V::lanes) {
  typename V::scalar lane[V::lanes] = {};
  for (int i = 0; i < n; i++) memcpy(&lane[i], (const char*)p + i * stride, sizeof lane[0]);
  return V::load(lane);
}
template <class V>
HD void scatter(V a, void* p, ptrdiff_t stride, int n = V::lanes) {
  typename V::scalar lane[V::lanes];
  a.store(lane);
  for (int i = 0; i < n; i++) memcpy((char*)p + i * stride, &lane[i], sizeof lane[0]);
}

}  // namespace innerloop::INNERLOOP_ISA
