// The elementwise body: some inputs and one output of one dtype, whose elements lie in the same order without gaps.
#pragma once

#include "cuda/list.h"
#include "cuda/storage.h"
#include "cuda/threads.h"

namespace innerloop::INNERLOOP_ISA {

// Each thread takes pieces of 16 bytes, a grid apart. f(inputs) is a rule's arithmetic. The output may be an input: a
// piece is read before it is written.
template <class S, int Inputs, class F>
HD void map_elements(Thread thread, const Elements<Inputs + 1>& e, const F& f) {
  using V = typename ComputedAs<S>::type;
  constexpr int N = 16 / sizeof(S);
  for (int64_t first = thread.index * N; first < e.size; first += thread.count * N) {
    const int count = e.size - first < N ? (int)(e.size - first) : N;
    const bool whole = e.aligned && count == N;
    V in[Inputs][N], out[N];
    INNERLOOP_UNROLL
    for (int i = 0; i < Inputs; i++) load_piece<S, N>(e.data[i] + first * (int64_t)sizeof(S), whole, count, in[i]);
    INNERLOOP_UNROLL
    for (int j = 0; j < N; j++) {
      if constexpr (Inputs == 1) {
        out[j] = f(in[0][j]);
      } else {
        out[j] = f(in[0][j], in[1][j]);
      }
    }
    store_piece<S, N>(out, e.data[Inputs] + first * (int64_t)sizeof(S), whole, count);
  }
}

}  // namespace innerloop::INNERLOOP_ISA
