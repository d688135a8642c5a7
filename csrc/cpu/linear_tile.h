// The innermost loop of a matrix product: a tile of the result held in registers, one step of k after the other.
//
// Note [one chain]: every element of a product is one chain of fused multiply-adds over k in order, starting at 0 and
// continued from memory in the next block of k. So neither tiles, blocks, threads nor the batch can change a bit, and
// the textbook loop with fma is an exact oracle.
#pragma once

#include "simd/simd.h"

#ifdef __clang__
#define INNERLOOP_UNROLL _Pragma("unroll")
#define INNERLOOP_UNROLL_BY_4 _Pragma("unroll 4")
#else
#define INNERLOOP_UNROLL _Pragma("GCC unroll 32")
#define INNERLOOP_UNROLL_BY_4 _Pragma("GCC unroll 4")
#endif

namespace innerloop::INNERLOOP_ISA {
namespace {

// Accumulators fill three quarters of the registers: 6 rows x 4 vectors where there are 32, 6 x 2 where there are 16.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kPanelVectors = 4;
#else
constexpr int kPanelVectors = 2;
#endif
constexpr int kTileVectors = 6 * kPanelVectors;
constexpr int kMostRows = 12;

// Rows of the tallest tile that is `vectors` wide.
constexpr int tallest(int vectors) { return kTileVectors / vectors < kMostRows ? kTileVectors / vectors : kMostRows; }

// A tile of few rows is made wider, over neighbouring panels, until eight chains hide the latency of an fma.
constexpr int panels_at_once(int rows) {
  return rows * kPanelVectors >= 8 ? 1 : rows == 1 ? 8 / kPanelVectors : rows == 2 ? 4 / kPanelVectors : 1;
}

template <class T>
constexpr int kPanel = kPanelVectors * Native<T>::lanes;

// out = c + a b over k steps; c may be null for 0. Rows of a lie a_row bytes apart, its columns a_step; rows of b lie
// b_row bytes apart, its next panel b_panel bytes further on. Every pointer may be misaligned.
template <class T, int Rows, int Vectors, int Panels = 1>
void multiply_tile(int64_t k, const char* a, ptrdiff_t a_row, ptrdiff_t a_step, const char* b, ptrdiff_t b_row,
                   ptrdiff_t b_panel, const char* c, ptrdiff_t c_row, char* out, ptrdiff_t out_row) {
  using V = Native<T>;
  constexpr int width = Vectors * Panels;
  V sum[Rows][width];
  if (c != nullptr) {
    INNERLOOP_UNROLL
    for (int r = 0; r < Rows; r++) {
      INNERLOOP_UNROLL
      for (int v = 0; v < width; v++) sum[r][v] = V::load(c + r * c_row + v * sizeof(V));
    }
  } else {
    INNERLOOP_UNROLL
    for (int r = 0; r < Rows; r++) {
      INNERLOOP_UNROLL
      for (int v = 0; v < width; v++) sum[r][v] = V(T(0));
    }
  }
  auto load_a = [&](int r) {
    T value;
    memcpy(&value, a + r * a_row, sizeof value);
    return V(value);
  };
  auto load_b = [&](int v) { return V::load(b + v / Vectors * b_panel + v % Vectors * sizeof(V)); };
  INNERLOOP_UNROLL_BY_4
  for (int64_t p = 0; p < k; p++) {
    if constexpr (Rows <= 2) {
      V x[Rows];
      INNERLOOP_UNROLL
      for (int r = 0; r < Rows; r++) x[r] = load_a(r);
      INNERLOOP_UNROLL
      for (int v = 0; v < width; v++) {
        const V y = load_b(v);
        INNERLOOP_UNROLL
        for (int r = 0; r < Rows; r++) sum[r][v] = fma(x[r], y, sum[r][v]);
      }
    } else {
      V y[width];
      INNERLOOP_UNROLL
      for (int v = 0; v < width; v++) y[v] = load_b(v);
      INNERLOOP_UNROLL
      for (int r = 0; r < Rows; r++) {
        const V x = load_a(r);
        INNERLOOP_UNROLL
        for (int v = 0; v < width; v++) sum[r][v] = fma(x, y[v], sum[r][v]);
      }
    }
    a += a_step;
    b += b_row;
  }
  INNERLOOP_UNROLL
  for (int r = 0; r < Rows; r++) {
    INNERLOOP_UNROLL
    for (int v = 0; v < width; v++) sum[r][v].store(out + r * out_row + v * sizeof(V));
  }
}

using Tile = void (*)(int64_t k, const char* a, ptrdiff_t a_row, ptrdiff_t a_step, const char* b, ptrdiff_t b_row,
                      ptrdiff_t b_panel, const char* c, ptrdiff_t c_row, char* out, ptrdiff_t out_row);

// Every tile, by its vectors and rows; those that the registers cannot hold repeat the tallest and are never asked for.
template <class T, int Vectors>
struct TilesOf {
  static constexpr int most = tallest(Vectors);
  template <int Rows>
  static constexpr Tile tile = multiply_tile<T, (Rows < most ? Rows : most), Vectors>;
  static constexpr Tile by_rows[kMostRows] = {tile<1>, tile<2>, tile<3>, tile<4>,  tile<5>,  tile<6>,
                                              tile<7>, tile<8>, tile<9>, tile<10>, tile<11>, tile<12>};
};

template <class T>
Tile find_tile(int rows, int vectors) {
  if constexpr (kPanelVectors >= 4) {
    if (vectors == 4) return TilesOf<T, 4>::by_rows[rows - 1];
    if (vectors == 3) return TilesOf<T, 3>::by_rows[rows - 1];
  }
  return vectors == 2 ? TilesOf<T, 2>::by_rows[rows - 1] : TilesOf<T, 1>::by_rows[rows - 1];
}

// The tile of one or two rows over panels_at_once(rows) whole panels.
template <class T>
Tile find_wide_tile(int rows) {
  return rows == 1 ? multiply_tile<T, 1, kPanelVectors, panels_at_once(1)>
                   : multiply_tile<T, 2, kPanelVectors, panels_at_once(2)>;
}

}  // namespace
}  // namespace innerloop::INNERLOOP_ISA
