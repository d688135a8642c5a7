// The bodies of the elementwise losses, value and gradient in one pass over memory, grown from rules/losses.h; and of
// the sums in double that they share.
#pragma once

#include "cuda/list.h"
#include "cuda/pieces.h"
#include "cuda/threads.h"
#include "rules/losses.h"

namespace innerloop::INNERLOOP_ISA {

constexpr int kLossThreads = 256;
constexpr int kLossPieces = 8;  // of a thread in a tile: its sum is of at most 64 elements, in what is computed in
template <class S>
constexpr int64_t kLossTile = (int64_t)kLossThreads * kLossPieces * kPiece<S>;
inline int64_t tiles_of(int64_t size, int64_t tile) { return (size + tile - 1) / tile; }

// f(first, count, total) for each of a thread's pieces of a tile after another; the sums of tiles, which depend on the
// size alone, if they are wanted.
template <class S, class F>
HD void for_tiles(const Block& block, int64_t size, double* sums, const F& f) {
  using V = typename ComputedAs<S>::type;
  constexpr int N = kPiece<S>;
  for (int64_t tile = block.index; tile * kLossTile<S> < size; tile += block.count) {
    V total(0);
    for (int k = 0; k < kLossPieces; k++) {
      const int64_t first = tile * kLossTile<S> + ((int64_t)k * kLossThreads + block.lane) * N;
      if (first < size) f(first, fewer(size - first, N), total);
    }
    if (sums == nullptr) continue;
    const double sum = block.reduce((double)total.v, [](double a, double b) { return a + b; });
    if (block.lane == 0) sums[tile] = sum;
  }
}

// The sums of an array's tiles.
template <class S>
struct SumTiles {
  const char* data;
  int64_t size;
  bool aligned;
  double* sums;
  HD void operator()(const Block& block) const {
    for_tiles<S>(block, size, sums, [&](int64_t first, int count, auto& total) {
      constexpr int N = kPiece<S>;
      typename ComputedAs<S>::type x[N];
      load_run<S, N>(data + first * (int64_t)sizeof(S), aligned, count, x);
      INNERLOOP_UNROLL
      for (int j = 0; j < N; j++) total = total + x[j];
    });
  }
};

// One block: the sum of the tiles' sums in their order, divided by *divisor, or by `number` where that is null. As a
// double, or a T where `as_float` says so.
struct AddTiles {
  const double* sums;
  int64_t tiles;
  const double* divisor;
  double number;
  void* to;
  bool as_float;
  HD void operator()(const Block& block) const {
    double total = 0;
    for (int64_t i = block.lane; i < tiles; i += block.lanes) total += sums[i];
    total = block.reduce(total, [](double a, double b) { return a + b; });
    if (block.lane != 0) return;
    total /= divisor != nullptr ? *divisor : number;
    if (as_float) {
      *static_cast<float*>(to) = (float)total;
    } else {
      *static_cast<double*>(to) = total;
    }
  }
};

template <class Rule, class = void>
struct TakesArray : std::false_type {};
template <class Rule>
struct TakesArray<Rule, std::void_t<decltype(Rule::array)>> : std::true_type {};
template <class Rule, class = void>
struct TakesRange : std::false_type {};
template <class Rule>
struct TakesRange<Rule, std::void_t<decltype(Rule::pred_range)>> : std::true_type {};

// The place of a rule in the list, as Fault has it.
template <class Rule, class... Rules>
constexpr uint64_t place_of(List<Rules...>) {
  uint64_t i = 0, place = 0;
  ((place = std::is_same_v<Rule, Rules> ? i : place, i++), ...);
  return place;
}

template <class Rule, class S>
struct LossElements {
  using V = typename ComputedAs<S>::type;
  using T = typename V::scalar;
  Rule rule;
  const char *pred, *target;
  Weights sample_weight, array;
  Cycle array_of;  // the third array's element
  bool weights_aligned, array_aligned;
  char *losses, *gradient;
  int64_t size;
  bool aligned;
  double grad_scale, divisor;
  const double* divisor_at;  // or null
  double* sums;
  Fault* fault;  // of a rule with a range

  template <class Stored>
  HD void load_array(int64_t first, V* to) const {
    array_of.load<Stored, kPiece<S>>(array.data, first, array_aligned, to);
  }
  HD LossAndSlope<V> both(V x, V t, V extra) const {
    if constexpr (TakesArray<Rule>::value) {
      return rule.both(x, t, extra);
    } else {
      return rule.both(x, t);
    }
  }

  // By one store, as several threads may find something.
  HD void report(double prediction) const {
    constexpr uint64_t found = 2 * (place_of<Rule>(ElementwiseLosses{}) + 1);
    Piece<uint64_t, 2> words = {{0, found}};
    memcpy(&words.lane[0], &prediction, sizeof prediction);
    *reinterpret_cast<Piece<uint64_t, 2>*>(fault) = words;
  }

  HD void operator()(const Block& block) const {
    constexpr int N = kPiece<S>;
    const V scale((T)(grad_scale / (divisor_at != nullptr ? *divisor_at : divisor)));
    for_tiles<S>(block, size, sums, [&](int64_t first, int count, V& total) {
      const int64_t at = first * (int64_t)sizeof(S), at_wide = first * (int64_t)sizeof(T);
      V x[N], t[N], weight[N], extra[N];
      load_run<S, N>(pred + at, aligned, count, x);
      load_run<S, N>(target + at, aligned, count, t);
      if (sample_weight.data != nullptr && sample_weight.storage == Storage::full) {
        load_run<T, N>(sample_weight.data + at_wide, weights_aligned, count, weight);
      } else if (sample_weight.data != nullptr) {
        load_run<S, N>(sample_weight.data + at, weights_aligned, count, weight);
      }
      INNERLOOP_UNROLL
      for (int j = 0; j < N; j++) extra[j] = V(1);
      if constexpr (TakesArray<Rule>::value) {
        if (array.data != nullptr)
          array.storage == Storage::full ? load_array<T>(first, extra) : load_array<S>(first, extra);
      }
      INNERLOOP_UNROLL
      for (int j = 0; j < N; j++) {
        auto [loss, slope] = both(x[j], t[j], extra[j]);
        if constexpr (TakesRange<Rule>::value) {
          const auto inside = (x[j] >= V((T)Rule::pred_range[0])) & (x[j] <= V((T)Rule::pred_range[1]));
          loss = select(inside, loss, V((T)NAN));
          slope = select(inside, slope, V((T)NAN));
          if (j < count && !inside.m) report((double)x[j].v);
        }
        const bool weighted = sample_weight.data != nullptr;
        t[j] = weighted ? weight[j] * loss : loss;
        x[j] = slope * (weighted ? weight[j] * scale : scale);
        if (j < count) total = total + t[j];
      }
      if (losses != nullptr) store_run<T, N>(t, losses + at_wide, aligned, count);
      if (gradient != nullptr) store_run<S, N>(x, gradient + at, aligned, count);
    });
  }
};

}  // namespace innerloop::INNERLOOP_ISA
