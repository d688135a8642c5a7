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

  // The blocks of counters (low, high, offset), one a lane, four words each. V: lanes of uint64_t, of which only the
  // low half counts here, in what is given and in what comes out: what the products leave in the other is never read.
  template <class V>
  HD void block(V low, V high, V (&word)[4]) const {
    V c[4] = {low, high, V(offset), V(offset >> 32)};
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
      const V first = multiply_low(c[0], V(0xD2511F53u)), second = multiply_low(c[2], V(0xCD9E8D57u));
      c[0] = (second >> 32) ^ (c[1] ^ V(k0));
      c[1] = second;
      c[2] = (first >> 32) ^ (c[3] ^ V(k1));
      c[3] = first;
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    for (int i = 0; i < 4; i++) word[i] = c[i];
  }
  // The blocks first + number, one a lane.
  template <class V>
  HD void blocks(uint64_t first, V number, V (&word)[4]) const {
    const V counter = V(first) + number;
    block(counter, counter >> 32, word);
  }
};

}  // namespace innerloop::INNERLOOP_ISA
