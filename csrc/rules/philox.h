// Random numbers from a counter: Philox4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1,
// 2, 3", SC 2011; the constants are those of its section 4.3 and of the authors' Random123 1.14, philox.h).
//
// A block of four words is a function of a counter of four words and a key of two, so any element's number is had
// without those before it. The library's convention, the same on every backend:
//
//   key = seed (low word, high word)        counter = block (low, high), offset (low, high)
//   element i, in C order of its array's shape, uses word i % 4 of block i / 4
#pragma once

#include "simd/scalar.h"

namespace innerloop::INNERLOOP_ISA {

struct Philox {
  uint64_t seed, offset;

  // The four words of each block of counters (low, high, offset): one block a lane of a V, `many` V together. V: lanes
  // of uint64_t, of which only the low half counts here, in what is given and in what comes out: what the products
  // leave in the other is never read.
  template <int many, class V>
  HD void block(const V (&low)[many], const V (&high)[many], V (&word)[many][4]) const {
    for (int j = 0; j < many; j++) {
      word[j][0] = low[j];
      word[j][1] = high[j];
      word[j][2] = V(offset);
      word[j][3] = V(offset >> 32);
    }
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
      const V key0(k0), key1(k1);
      for (int j = 0; j < many; j++) {
        V(&c)[4] = word[j];
        const V first = multiply_low(c[0], V(0xD2511F53u)), second = multiply_low(c[2], V(0xCD9E8D57u));
        c[0] = (second >> 32) ^ (c[1] ^ key0);
        c[1] = second;
        c[2] = (first >> 32) ^ (c[3] ^ key1);
        c[3] = first;
      }
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
  }
  // The blocks first + number, first + V::lanes + number ...
  template <int many, class V>
  HD void blocks(uint64_t first, V number, V (&word)[many][4]) const {
    V low[many], high[many];
    for (int j = 0; j < many; j++) {
      low[j] = V(first + (uint64_t)(j * V::lanes)) + number;
      high[j] = low[j] >> 32;
    }
    block(low, high, word);
  }
};

}  // namespace innerloop::INNERLOOP_ISA
