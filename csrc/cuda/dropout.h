// The body of dropout, forward and backward alike, grown from rules/dropout.h and rules/philox.h.
#pragma once

#include "cuda/list.h"
#include "cuda/pieces.h"
#include "cuda/threads.h"
#include "rules/dropout.h"
#include "rules/philox.h"

namespace innerloop::INNERLOOP_ISA {

// A thread takes whole blocks of four random words.
template <class S>
struct DropElements {
  static constexpr int elements = kPiece<S> < 4 ? 4 : kPiece<S>;
  Dropout rule;
  Philox philox;
  Elements<2> e;

  HD void operator()(const Block& block) const {
    using V = typename ComputedAs<S>::type;
    using Bits = typename V::bits_type;
    constexpr int N = elements;
    const Thread thread = block.thread();
    for (int64_t first = thread.index * N; first < e.size; first += thread.count * N) {
      const int count = fewer(e.size - first, N);
      const int64_t at = first * (int64_t)sizeof(S);
      V x[N];
      load_run<S, N>(e.data[0] + at, e.aligned, count, x);
      INNERLOOP_UNROLL
      for (int i = 0; i < N; i += 4) {
        Vec<uint64_t, 1> word[1][4];
        philox.blocks((uint64_t)(first + i) / 4, Vec<uint64_t, 1>(0), word);
        INNERLOOP_UNROLL
        for (int j = 0; j < 4; j++) x[i + j] = rule.forward(x[i + j], Bits((uint32_t)word[0][j].v));
      }
      store_run<S, N>(x, e.data[1] + at, e.aligned, count);
    }
  }
};

}  // namespace innerloop::INNERLOOP_ISA
