// bfloat16 and float16 by bit operations on any V of floats, for processors that have no instruction for them: the 16
// bits stand in the lower half of each lane's word.
#pragma once

#include "simd/vector.h"

namespace innerloop::INNERLOOP_ISA {

// To the nearest, and to even in the middle. bfloat16 is a float's upper half.
template <class V>
HD typename V::bits_type nearest_bfloat16(V x) {
  using Words = typename V::bits_type;
  const Words b = bits(x);
  const Words rounded = b + Words(0x7fff) + ((b >> 16) & Words(1));
  const Words quiet = b | Words(0x400000);  // a NaN whose upper half might be zero
  return bits(select(x != x, from_bits<V>(quiet), from_bits<V>(rounded))) >> 16;
}

// float16 is 1 sign, 5 exponent (bias 15) and 10 mantissa bits: IEEE 754-2019, table 3.5.
template <class V>
HD V float16_value(typename V::bits_type w) {
  using Words = typename V::bits_type;
  const Words rest = w & Words(0x7fff);
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
template <class V>
HD typename V::bits_type nearest_float16(V x) {
  using Words = typename V::bits_type;
  const V a = abs(x);
  const Words b = bits(a), sign = (bits(x) >> 16) & Words(0x8000);
  const Words normal = (b - Words((127 - 15) << 23) + Words(0xfff) + ((b >> 13) & Words(1))) >> 13;
  // Below 2^-14 the last place is 2^-24, which is that of floats from 1/2 to 1.
  const Words subnormal = bits(a + V(0.5f)) - Words(0x3f000000);
  V y = select(a < V(6.103515625e-5f), from_bits<V>(subnormal), from_bits<V>(normal));
  y = select(a >= V(65520.0f), from_bits<V>(Words(0x7c00)), y);
  y = select(a != a, from_bits<V>(Words(0x7e00)), y);
  return bits(y) | sign;
}

}  // namespace innerloop::INNERLOOP_ISA
