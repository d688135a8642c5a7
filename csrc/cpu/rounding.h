// Rows of random bits, and float32 rounded to bfloat16 by them.
#pragma once

#include "rules/rounding.h"
#include "simd/lanes.h"
#include "simd/storage.h"

namespace innerloop::INNERLOOP_ISA {

// The random bits of the block that begins with element `at` of an array.
HD RandomBits<Words> random_block(uint64_t key, int64_t at) {
  return RandomBits<Words>(block_key(key, (uint64_t)at / kRoundingBlock), lane_numbers<Words>());
}

// A block of at most kRoundingBlock elements, two vectors at a time.
HD void round_block(const float* x, int count, RandomBits<Words> random, char* y) {
  using V = Native<float>;
  constexpr int step = 2 * V::lanes;
  auto two = [&](const float* from, void* to) {
    Words half[2];
    split_halves(random.next(), half);
    for (int i = 0; i < 2; i++) half[i] = to_bfloat16(V::load(from + i * V::lanes), half[i]);
    store_narrow(half, to);
  };
  int i = 0;
  for (; i + step <= count; i += step) two(x + i, y + i * 2);
  if (i == count) return;
  float rest[step] = {};
  uint16_t rounded[step];
  memcpy(rest, x + i, (size_t)(count - i) * sizeof(float));
  two(rest, rounded);
  memcpy(y + i * 2, rounded, (size_t)(count - i) * 2);
}

}  // namespace innerloop::INNERLOOP_ISA
