// Random words in the order of elements, as the loops read them.
#pragma once

#include "rules/philox.h"
#include "simd/integers.h"

namespace innerloop::INNERLOOP_ISA {

// `blocks` blocks of four words from block `first` on; a multiple of kBlocksAtOnce of them is written.
constexpr int kTogether = 2;  // share the keys, and fill each other's waiting times
constexpr int kBlocksAtOnce = kTogether * Native<uint64_t>::lanes;
inline void random_blocks(const Philox& philox, uint64_t first, int blocks, uint32_t* words) {
  using V = Native<uint64_t>;
  const V number = order_of_fours<V>();
  for (int i = 0; i < blocks; i += kBlocksAtOnce) {
    V word[kTogether][4];
    philox.blocks(first + (uint64_t)i, number, word);
    for (int j = 0; j < kTogether; j++) store_fours(word[j], words + 4 * (i + j * V::lanes));
  }
}

// The words of consecutive elements, each as wide as a T: made a chunk at a time, and kept from one run to the next.
template <class T>
class RandomWords {
  using Word = typename BitsOf<T>::type;
  static constexpr int kChunk = 1024;  // a multiple of the blocks that are made at once

 public:
  explicit RandomWords(const Philox& p) : philox(p) {}

  // The words of elements [i, i + n), n >= 1 being cut to those at hand; `wanted` >= n says how many will follow.
  HD const char* at(int64_t i, int64_t wanted, int64_t& n) {
    if (i < begin || i >= end) fill(i, wanted);
    if (n > end - i) n = end - i;
    return (const char*)(words + (i - begin));
  }

 private:
  Philox philox;
  int64_t begin = 0, end = 0;
  alignas(64) Word words[kChunk];

  __attribute__((noinline)) void fill(int64_t i, int64_t wanted) {
    begin = i & ~int64_t(3);
    const int64_t blocks = (i - begin + (wanted < kChunk ? wanted : kChunk) + 3) / 4;
    const int made = blocks > kChunk / 4 ? kChunk / 4 : (int)blocks;
    end = begin + 4 * made;
    if constexpr (sizeof(Word) == sizeof(uint32_t)) {
      random_blocks(philox, (uint64_t)begin / 4, made, words);
    } else {
      alignas(64) uint32_t narrow[kChunk];
      random_blocks(philox, (uint64_t)begin / 4, made, narrow);
      for (int w = 0; w < 4 * made; w++) words[w] = narrow[w];
    }
  }
};

}  // namespace innerloop::INNERLOOP_ISA
