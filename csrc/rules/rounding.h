// How optimizer states are kept in fewer bits without a bias: rounded up or down at random, with the odds of the
// distance to each. The random bits are a function of a key and of the element's place, so a run can be repeated.
#pragma once

#include "kernels.h"
#include "simd/vector.h"

namespace innerloop::INNERLOOP_ISA {

// The finaliser of MurmurHash3 for 32 bits (A. Appleby, in the public domain): every input bit flips half the output's.
template <class B>
HD B mixed(B h) {
  h = (h ^ (h >> 16)) * B(0x85ebca6b);
  h = (h ^ (h >> 13)) * B(0xc2b2ae35);
  return h ^ (h >> 16);
}

// splitmix64's output function (G. Steele, D. Lea and C. Flood, OOPSLA 2014): the key of a block from that of an array.
HD uint32_t block_key(uint64_t key, uint64_t block) {
  uint64_t z = key + (block + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return (uint32_t)((z ^ (z >> 31)) >> 32);
}

// 32 random bits a lane for the numbers first, first + 1 ... of a block, and then for those that follow: of an element
// in 8 bits each, or of two in bfloat16, of which the even one takes the lower 16.
template <class B>
struct RandomBits {
  B counter;

  HD RandomBits(uint32_t key, B first) : counter(B(key) + first * B(kStep)) {}
  HD B next() {
    const B now = counter;
    counter = counter + B(kStep * (uint32_t)B::lanes);
    return mixed(now);
  }

 private:
  static constexpr uint32_t kStep = 0x9e3779b9;  // 2^32 by the golden ratio, odd
};

// The upper 16 bits of x, a bfloat16, rounded stochastically by as many random ones; both in each lane's lower half. A
// NaN is made a quiet one: its payload may lie in the bits that go.
template <class V>
HD typename V::bits_type to_bfloat16(V x, typename V::bits_type random) {
  using B = typename V::bits_type;
  const V none = from_bits<V>(B(0));
  const B up = bits(x) + bits(select(x == x, from_bits<V>(random), none));
  return (up | bits(select(x == x, none, from_bits<V>(B(0x400000))))) >> 16;
}

// Note [8-bit codes]
// A state of 8 bits is a small floating-point number relative to the largest magnitude of its block: three bits of
// mantissa, so steps of at most 1/8; for states that are never negative 31 binades below the largest, else a sign and
// 15. The idea of codes relative to a block's maximum is T. Dettmers et al., "8-bit optimizers via block-wise
// quantization", ICLR 2022; theirs come from a table, these from a float's own bits. Code 0 is 0. The value 1 is the
// largest code: 0xff, or 0x7f beside a sign in bit 7.
template <bool negatives>
struct Code {
  static constexpr uint32_t magnitudes = negatives ? 127 : 255;
  static constexpr uint32_t offset = (127 << 3) - magnitudes;  // of a code to the float's upper 12 bits, sign apart

  // x lies in [-1, 1], in [0, 1] without negatives, or is NaN, which becomes the largest: the scale keeps it a NaN.
  template <class V>
  static HD typename V::bits_type of(V x, typename V::bits_type random) {
    using B = typename V::bits_type;
    const V a = abs(x), least = from_bits<V>(B((offset + 1) << 20));
    const V rounded = from_bits<V>((bits(a) + (random >> 12)) & ~B(0xfffff));
    // Between 0 and the least: a random number in [0, least) against a. States that are never negative are divided by,
    // so they do not vanish.
    const V uniform = (from_bits<V>((random >> 9) | B(127u << 23)) - V(1)) * least;
    const V small = select((negatives ? uniform : V(0)) < a, least, V(0));
    const V y = select(a < least, small, select(rounded < V(1), rounded, V(1)));
    const B code = bits(y) >> 20;
    const B shifted = bits(select(y == V(0), from_bits<V>(B(0)), from_bits<V>(code - B(offset))));
    return negatives ? shifted | ((bits(x) >> 31) << 7) : shifted;
  }

  template <class V>
  static HD V value(typename V::bits_type code) {
    using B = typename V::bits_type;
    const B magnitude = code & B(magnitudes);
    const V normal = from_bits<V>((magnitude << 20) | B(0x40000000));  // compared as floats, which may flush subnormals
    const V y = select(normal == V(2), V(0), from_bits<V>((magnitude + B(offset)) << 20));
    return negatives ? from_bits<V>(bits(y) | ((code >> 7) << 31)) : y;
  }
};

}  // namespace innerloop::INNERLOOP_ISA
