// Dropout, forward and backward alike, and the random words that it is made of.
#include "rules/dropout.h"

#include "cpu/elementwise.h"
#include "cpu/random.h"
#include "cpu/tables.h"

namespace innerloop::INNERLOOP_ISA {
namespace {

template <class T>
void run(const DropoutWork& work, const Walk<2>& walk, int64_t first, int64_t begin, int64_t end) {
  const Dropout rule(work.p);
  const int last = walk.ndim - 1;
  RandomWords<T> words({work.seed, work.offset});
  Walk<3> piece;  // a run along the innermost axis, beside its words
  piece.ndim = 1;
  piece.stride[0][0] = walk.stride[0][last];
  piece.stride[1][0] = sizeof(T);
  piece.stride[2][0] = walk.stride[1][last];
  piece.stream = walk.stream;
  int64_t at = begin;
  for_rows(walk, begin, end, [&](char* const* p, int64_t n) {
    for (int64_t i = 0; i < n;) {
      int64_t count = n - i;
      piece.data[1] = const_cast<char*>(words.at(first + at, end - at, count));
      piece.data[0] = p[0] + i * piece.stride[0][0];
      piece.data[2] = p[1] + i * piece.stride[2][0];
      piece.shape[0] = count;
      map<T>(piece, 0, count, [&](Native<T> x, Native<T> word) { return rule.forward(x, bits(word)); });
      i += count;
      at += count;
    }
  });
}

void philox(uint64_t seed, uint64_t offset, uint64_t block, int64_t n, uint32_t* words) {
  alignas(64) uint32_t some[4 * kBlocksAtOnce];
  for (int64_t i = 0; i < n; i += 4 * kBlocksAtOnce) {
    random_blocks({seed, offset}, block + (uint64_t)i / 4, kBlocksAtOnce, some);
    memcpy(words + i, some, (size_t)(n - i < 4 * kBlocksAtOnce ? n - i : 4 * kBlocksAtOnce) * sizeof some[0]);
  }
}

}  // namespace

const Random random = {philox, {{run<float>}, {run<double>}}};

}  // namespace innerloop::INNERLOOP_ISA
