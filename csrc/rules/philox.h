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

  // The blocks of counters (low, high, offset), one a lane. V: lanes of uint32_t; needs multiply_words for it.
  template <class V>
  HD void block(V low, V high, V (&word)[4]) const {
    V c[4] = {low, high, V((uint32_t)offset), V((uint32_t)(offset >> 32))};
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
      const auto first = multiply_words(c[0], V(0xD2511F53u)), second = multiply_words(c[2], V(0xCD9E8D57u));
      c[0] = second.high ^ c[1] ^ V(k0);
      c[1] = second.low;
      c[2] = first.high ^ c[3] ^ V(k1);
      c[3] = first.low;
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    for (int i = 0; i < 4; i++) word[i] = c[i];
  }
  // The blocks first + number, one a lane.
  template <class V>
  HD void blocks(uint64_t first, V number, V (&word)[4]) const {
    const V start((uint32_t)first), low = start + number, high((uint32_t)(first >> 32));
    block(low, select(low < start, high + V(1u), high), word);
  }
};

}  // namespace innerloop::INNERLOOP_ISA
