// The bodies of clipping: the sum of all squares, the norm, and gradients multiplied in place.
#pragma once

#include "cuda/batches.h"
#include "rules/clipping.h"
#include "simd/math.h"

namespace innerloop::INNERLOOP_ISA {

// A sum of squares in double, of float64 in three ranges, so that none overflows or vanishes (Blue, "A portable Fortran
// program to find the Euclidean norm of a vector", ACM TOMS 4, 1978): what lies above 2^480 is scaled by 2^-540, what
// lies below 2^-480 by 2^540. NaN and infinities come through.
struct Squares {
  double large, middle, small;

  template <class T>
  HD void add(T value) {
    const double x = value;
    if constexpr (sizeof(T) == sizeof(double)) {
      const double a = fabs(x);
      if (a > 0x1p480) {
        large = ::fma(x * 0x1p-540, x * 0x1p-540, large);
        return;
      }
      if (a < 0x1p-480) {
        small = ::fma(x * 0x1p540, x * 0x1p540, small);
        return;
      }
    }
    middle = ::fma(x, x, middle);
  }
  HD double norm() const {
    if (!(large == 0)) return ::sqrt(large + middle * 0x1p-1000 * 0x1p-80) * 0x1p540;
    if (!(middle == 0)) return ::sqrt(middle + small * 0x1p-1000 * 0x1p-80);
    return ::sqrt(small) * 0x1p-540;
  }
};

HD Squares reduce(const Block& block, const Squares& s) {
  const auto plus = [](double a, double b) { return a + b; };
  return {block.reduce(s.large, plus), block.reduce(s.middle, plus), block.reduce(s.small, plus)};
}

// One partial sum a tile: which thread adds what depends on the arrays alone.
template <class T, class Batch>
struct SumSquares {
  Batch batch;
  Squares* sums;  // of this batch's tiles
  HD void operator()(const Block& block) const {
    constexpr int N = 16 / sizeof(T);
    for_tiles<T>(block, batch, [&](const StepArray& array, uint32_t tile, int64_t begin) {
      Squares mine = {0, 0, 0};
      for_pieces<T>(block, array, begin, [&](int64_t first, int count, bool whole) {
        Vec<T, 1> g[N];
        load_stored<T, N>(array.data[1], first, array.grad, whole, count, g);
        INNERLOOP_UNROLL
        for (int i = 0; i < N; i++) {
          if (i < count) mine.add(g[i].v);
        }
      });
      mine = reduce(block, mine);
      if (block.lane == 0) sums[tile] = mine;
    });
  }
};

// By one block: the norm of all partial sums, and what gradients are multiplied by.
struct FinishNorm {
  const Squares* sums;
  int64_t count;
  Clipping clipping;
  double* coefficient;
  HD void operator()(const Block& block) const {
    Squares mine = {0, 0, 0};
    for (int64_t i = block.lane; i < count; i += block.lanes) {
      mine.large += sums[i].large;
      mine.middle += sums[i].middle;
      mine.small += sums[i].small;
    }
    mine = reduce(block, mine);
    if (block.lane != 0) return;
    const double norm = mine.norm() / clipping.grad_scale;
    *coefficient = clip_coefficient(norm, clipping.max_norm);
    if (clipping.float64) {
      *reinterpret_cast<double*>(clipping.norm) = norm;
    } else {
      *reinterpret_cast<float*>(clipping.norm) = (float)norm;
    }
  }
};

template <class T, class Batch>
struct MultiplyGradients {
  Batch batch;
  const double* coefficient;
  HD void operator()(const Block& block) const {
    constexpr int N = 16 / sizeof(T);
    if (*coefficient == 1) return;
    const Vec<T, 1> factor((T)*coefficient);
    for_tiles<T>(block, batch, [&](const StepArray& array, uint32_t, int64_t begin) {
      for_pieces<T>(block, array, begin, [&](int64_t first, int count, bool whole) {
        Vec<T, 1> g[N];
        load_stored<T, N>(array.data[1], first, array.grad, whole, count, g);
        INNERLOOP_UNROLL
        for (int i = 0; i < N; i++) g[i] = factor * g[i];
        store_stored<T, N>(g, array.data[1], first, array.grad, whole, count);
      });
    });
  }
};

}  // namespace innerloop::INNERLOOP_ISA
