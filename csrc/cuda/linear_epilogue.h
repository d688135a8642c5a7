// What follows a product, and what comes before its gradient's: the activation by its number, so that one kernel serves
// all of them. The functions are called, not inlined: a tile's many elements share one copy of every rule.
#pragma once

#include "cuda/storage.h"
#include "rules/activations.h"
#include "rules/dropout.h"
#include "rules/philox.h"

#ifdef __CUDACC__
#define INNERLOOP_CALLED __host__ __device__ __attribute__((noinline))
#else
#define INNERLOOP_CALLED __attribute__((noinline)) inline
#endif

namespace innerloop::INNERLOOP_ISA {

// Neighbours, handed over in registers.
template <class T, int N>
struct Lanes {
  Vec<T, 1> lane[N];
};

// Whether pieces of so many bytes, a multiple of it apart, lie along an axis of this step.
inline bool in_pieces(const char* data, ptrdiff_t along, ptrdiff_t across, size_t item, size_t bytes) {
  return along == (ptrdiff_t)item && across % (ptrdiff_t)bytes == 0 && (uintptr_t)data % bytes == 0;
}

// `count` elements of a matrix from (i, j) on along its row, 0 beyond; `pieces` as in_pieces says of N elements.
template <class S, class T, int N>
HD void load_lanes(const Matrix& m, bool pieces, int64_t i, int64_t j, int count, Lanes<T, N>& to) {
  const char* at = m.data + i * m.row + j * m.column;
  if (pieces) return load_piece<S, N>(at, count == N, count, to.lane);
  INNERLOOP_UNROLL
  for (int e = 0; e < N; e++) {
    to.lane[e] = T(0);
    if (e < count) load_piece<S, 1>(at + e * m.column, true, 1, &to.lane[e]);
  }
}
template <class S, class T, int N>
HD void store_lanes(const Lanes<T, N>& from, const Matrix& m, bool pieces, int64_t i, int64_t j, int count) {
  char* at = m.data + i * m.row + j * m.column;
  if (pieces) return store_piece<S, N>(from.lane, at, count == N, count);
  INNERLOOP_UNROLL
  for (int e = 0; e < N; e++) {
    if (e < count) store_piece<S, 1>(&from.lane[e], at + e * m.column, true, 1);
  }
}

// What the list says of each activation's number.
template <class List>
struct ByNumber;
template <class... Rules>
struct ByNumber<List<Rules...>> {
  static constexpr int parameters[sizeof...(Rules)] = {ParametersOf<Rules>::count...};
  static constexpr int most() {
    int most = 1;
    for (int count : parameters) most = count > most ? count : most;
    return most;
  }
  template <class Rule>
  static constexpr int of() {
    int number = 0;
    (void)((std::is_same<Rule, Rules>::value || (number++, false)) || ...);
    return number;
  }
  // Calls f(rule): a chain of comparisons with constants, which compilers make a switch.
  template <class F>
  static HD void call(int number, const double* parameters, F& f) {
    int i = 0;
    (void)((number == i++ && (f(make_rule<Rules>(parameters)), true)) || ...);
  }
};

// An activation as a kernel is given it.
struct Act {
  int number;
  double parameters[ByNumber<Activations>::most()];
};
inline Act make_act(int number, const double* parameters) {
  Act act = {number, {}};
  for (int i = 0; i < ByNumber<Activations>::parameters[number]; i++) act.parameters[i] = parameters[i];
  return act;
}
inline Act identity() { return {ByNumber<Activations>::of<Identity>(), {}}; }
inline bool is_identity(const Act& act) { return act.number == identity().number; }

template <class T, int N>
struct Activate {
  Lanes<T, N> x;
  template <class Rule>
  HD void operator()(const Rule& rule) {
    INNERLOOP_UNROLL
    for (int i = 0; i < N; i++) x.lane[i] = rule.forward(x.lane[i]);
  }
};
template <class T, int N>
INNERLOOP_CALLED Lanes<T, N> activate(Act act, Lanes<T, N> x) {
  Activate<T, N> f = {x};
  ByNumber<Activations>::call(act.number, act.parameters, f);
  return f.x;
}

template <class T, int N>
struct Derive {
  Lanes<T, N> saved, dy;
  template <class Rule>
  HD void operator()(const Rule& rule) {
    INNERLOOP_UNROLL
    for (int i = 0; i < N; i++) dy.lane[i] = rule.backward(saved.lane[i], dy.lane[i]);
  }
};
template <class T, int N>
INNERLOOP_CALLED Lanes<T, N> derive(Act act, Lanes<T, N> saved, Lanes<T, N> dy) {
  Derive<T, N> f = {saved, dy};
  ByNumber<Activations>::call(act.number, act.parameters, f);
  return f.dy;
}

// Dropout of a layer's result, element (i, j) of which has the random word i * row + j * column.
struct Drop {
  bool wanted;
  Dropout rule;
  Philox philox;
  int64_t row, column;
};
inline Drop make_drop(const DropoutWork* work, int64_t row, int64_t column) {
  if (work == nullptr) return {};
  return {true, Dropout(work->p), {work->seed, work->offset}, row, column};
}

// Neighbours of a row, from (i, j) on.
template <class T, int N>
INNERLOOP_CALLED Lanes<T, N> drop(Drop d, int64_t i, int64_t j, Lanes<T, N> x) {
  using V = Vec<T, 1>;
  using Word = Vec<uint64_t, 1>;
  Word words[1][4];
  uint64_t at = (uint64_t)(i * d.row + j * d.column), made = 0;
  INNERLOOP_UNROLL
  for (int e = 0; e < N; e++, at += (uint64_t)d.column) {
    if (e == 0 || at / 4 != made) {
      made = at / 4;
      d.philox.blocks(made, Word(0), words);
    }
    const int w = (int)(at % 4);
    const uint64_t word = w == 0 ? words[0][0].v : w == 1 ? words[0][1].v : w == 2 ? words[0][2].v : words[0][3].v;
    x.lane[e] = d.rule.forward(x.lane[e], typename V::bits_type((uint32_t)word));
  }
  return x;
}

}  // namespace innerloop::INNERLOOP_ISA
