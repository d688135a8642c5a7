// Lanes<V>: 16 values in as many V as they need, whatever the width of V. A reduction over 16 lanes and a fixed tree
// gives the same bits on every instruction set (docs/design.md, 4).
#pragma once

#include "simd/math.h"
#include "simd/vector.h"

// Lanes of a vector in another order.
#ifdef __clang__
#define INNERLOOP_SHUFFLE(v, ...) __builtin_shufflevector(v, v, __VA_ARGS__)
#else
#define INNERLOOP_SHUFFLE(v, ...) __builtin_shuffle(v, typename Mask<T, N>::raw{__VA_ARGS__})
#endif

namespace innerloop::INNERLOOP_ISA {

// Lane i of the result is lane i ^ by.
template <int by, class T, int N>
HD Vec<T, N> exchange(Vec<T, N> a) {
  if constexpr (N == 2) {
    return INNERLOOP_SHUFFLE(a.v, 0 ^ by, 1 ^ by);
  } else if constexpr (N == 4) {
    return INNERLOOP_SHUFFLE(a.v, 0 ^ by, 1 ^ by, 2 ^ by, 3 ^ by);
  } else if constexpr (N == 8) {
    return INNERLOOP_SHUFFLE(a.v, 0 ^ by, 1 ^ by, 2 ^ by, 3 ^ by, 4 ^ by, 5 ^ by, 6 ^ by, 7 ^ by);
  } else {
    static_assert(N == 16);
    return INNERLOOP_SHUFFLE(a.v, 0 ^ by, 1 ^ by, 2 ^ by, 3 ^ by, 4 ^ by, 5 ^ by, 6 ^ by, 7 ^ by, 8 ^ by, 9 ^ by,
                             10 ^ by, 11 ^ by, 12 ^ by, 13 ^ by, 14 ^ by, 15 ^ by);
  }
}
#undef INNERLOOP_SHUFFLE

// 0, 1, 2 ... in the lanes of a V.
template <class V>
HD V lane_numbers() {
  typename V::scalar number[V::lanes];
  for (int i = 0; i < V::lanes; i++) number[i] = typename V::scalar(i);
  return V::load(number);
}

template <class V>
struct Lanes {
  using scalar = typename V::scalar;
  static constexpr int count = 16;
  static constexpr int parts = count / V::lanes;
  V part[parts];

  Lanes() = default;
  HD Lanes(scalar s) {
    for (int i = 0; i < parts; i++) part[i] = V(s);
  }

  static HD Lanes load(const char* p) {
    Lanes r;
    for (int i = 0; i < parts; i++) r.part[i] = V::load(p + i * sizeof(V));
    return r;
  }
  HD void store(char* p) const {
    for (int i = 0; i < parts; i++) part[i].store(p + i * sizeof(V));
  }

  // The first n lanes from memory, the others 0; and the first n lanes to memory.
  static HD Lanes load_first(const char* p, int n) {
    Lanes r;
    for (int i = 0; i < parts; i++) r.part[i] = load_partial<V>(p + i * sizeof(V), of_part(n, i));
    return r;
  }
  HD void store_first(char* p, int n) const {
    for (int i = 0; i < parts; i++) {
      // A masked store takes four times as long as a whole one, and cannot be read back from the store buffer.
      if (of_part(n, i) == V::lanes) {
        part[i].store(p + i * sizeof(V));
      } else if (of_part(n, i) > 0) {
        store_partial(part[i], p + i * sizeof(V), of_part(n, i));
      }
    }
  }
  // These, and `fill` from lane n on.
  HD Lanes first(int n, scalar fill) const {
    Lanes r;
    for (int i = 0; i < parts; i++) {
      r.part[i] = select(lane_numbers<V>() < V(scalar(n - i * V::lanes)), part[i], V(fill));
    }
    return r;
  }
  // These, and `other` in lane n.
  HD Lanes but(int64_t n, Lanes other) const {
    Lanes r;
    for (int i = 0; i < parts; i++) {
      r.part[i] = select(lane_numbers<V>() == V(scalar(n - i * V::lanes)), other.part[i], part[i]);
    }
    return r;
  }

  friend HD Lanes operator+(const Lanes& a, const Lanes& b) {
    return each(a, b, [](V x, V y) { return x + y; });
  }
  friend HD Lanes operator-(const Lanes& a, const Lanes& b) {
    return each(a, b, [](V x, V y) { return x - y; });
  }
  friend HD Lanes operator*(const Lanes& a, const Lanes& b) {
    return each(a, b, [](V x, V y) { return x * y; });
  }
  friend HD Lanes operator/(const Lanes& a, const Lanes& b) {
    return each(a, b, [](V x, V y) { return x / y; });
  }
  friend HD Lanes larger(const Lanes& a, const Lanes& b) {
    return each(a, b, [](V x, V y) { return larger(x, y); });
  }
  friend HD Lanes fma(const Lanes& a, const Lanes& b, const Lanes& c) {
    Lanes r;
    for (int i = 0; i < parts; i++) r.part[i] = fma(a.part[i], b.part[i], c.part[i]);
    return r;
  }
  friend HD Lanes operator-(const Lanes& a) {
    Lanes r;
    for (int i = 0; i < parts; i++) r.part[i] = -a.part[i];
    return r;
  }
  friend HD Lanes exp(const Lanes& a) {
    Lanes r;
    for (int i = 0; i < parts; i++) r.part[i] = exp(a.part[i]);
    return r;
  }
  friend HD Lanes exp_below_1(const Lanes& a) {
    Lanes r;
    for (int i = 0; i < parts; i++) r.part[i] = exp_below_1(a.part[i]);
    return r;
  }
  friend HD Lanes log(const Lanes& a) {
    Lanes r;
    for (int i = 0; i < parts; i++) r.part[i] = log(a.part[i]);
    return r;
  }

  // 16 lanes to one by halves: 0 with 8, 1 with 9 ...; then 0 with 4 ...; with 2; with 1.
  template <class F>
  HD scalar fold(const F& f) const {
    V half[parts];
    for (int i = 0; i < parts; i++) half[i] = part[i];
    for (int n = parts / 2; n > 0; n /= 2) {
      for (int i = 0; i < n; i++) half[i] = f(half[i], half[i + n]);
    }
    V v = half[0];
    if constexpr (V::lanes > 8) v = f(v, exchange<8>(v));
    if constexpr (V::lanes > 4) v = f(v, exchange<4>(v));
    if constexpr (V::lanes > 2) v = f(v, exchange<2>(v));
    if constexpr (V::lanes > 1) v = f(v, exchange<1>(v));
    return v[0];
  }
  friend HD scalar sum(const Lanes& a) {
    return a.fold([](V x, V y) { return x + y; });
  }
  friend HD scalar largest(const Lanes& a) {  // NaN is passed over where another lane holds a number
    return a.fold([](V x, V y) { return larger(x, y); });
  }

 private:
  static HD int of_part(int n, int i) {
    n -= i * V::lanes;
    return n < 0 ? 0 : n > V::lanes ? V::lanes : n;
  }
  template <class F>
  static HD Lanes each(const Lanes& a, const Lanes& b, const F& f) {
    Lanes r;
    for (int i = 0; i < parts; i++) r.part[i] = f(a.part[i], b.part[i]);
    return r;
  }
};

}  // namespace innerloop::INNERLOOP_ISA
