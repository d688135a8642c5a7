// A matrix product by a GPU's ordinary cores: any shape, any address, any order of each operand. Note [one chain] of
// cpu/linear_tile.h holds here, too: float32 and float64 are the CPU's bits.
#pragma once

#include "cuda/linear_product.h"
#include "cuda/threads.h"

namespace innerloop::INNERLOOP_ISA {

// Tiles of Side x Side results, of which each of 256 threads has Each x Each: groups of neighbours that fill 16 bytes,
// a sixteenth of the tile apart, so that a warp's accesses lie side by side.
template <class S, int Each>
class SimtProduct {
  using V = typename ComputedAs<S>::type;
  using T = typename V::scalar;
  static constexpr int kAcross = 16, kThreads = kAcross * kAcross, kDepth = 16;
  static constexpr int kSide = kAcross * Each;
  static constexpr int kGroup = 16 / sizeof(T), kGroups = Each / kGroup;
  static constexpr int kPitch = kSide + kGroup;  // columns of a tile in shared memory start in different banks
  static constexpr int kHeld = kSide * kDepth / kThreads, kPieces = kHeld / kGroup;
  static constexpr int kTile = kDepth * kPitch;
  using Out = Lanes<T, kGroup>;

 public:
  static constexpr int threads = kThreads;
  static constexpr size_t shared_bytes = 4 * kTile * sizeof(T);  // two factors, two tiles of each

  explicit SimtProduct(const Product& product) : p(product) {
    constexpr size_t bytes = kGroup * sizeof(S);
    a = {p.a.data, p.a.row, p.a.column, p.m, p.a.column == (ptrdiff_t)sizeof(S), false};
    b = {p.b.data, p.b.column, p.b.row, p.n, p.b.row == (ptrdiff_t)sizeof(S), false};
    for (Factor* f : {&a, &b}) {
      f->pieces = in_pieces(f->data, f->along_k ? f->step : f->line, f->along_k ? f->line : f->step, sizeof(S), bytes);
    }
    y_pieces = in_pieces(p.y.data, p.y.column, p.y.row, sizeof(S), bytes);
    z_pieces = in_pieces(p.z.data, p.z.column, p.z.row, sizeof(S), bytes);
    bias_pieces = in_pieces(p.bias.data, p.bias.column, p.bias.row, sizeof(S), bytes);
  }
  int64_t tiles() const { return tiles_of(p.m) * tiles_of(p.n); }

  HD void operator()(const Block& block) const {
    const int64_t down = tiles_of(p.m), across = tiles_of(p.n);
    for (int64_t i = block.index; i < down * across; i += block.count) {
      // Blocks that run together read few rows and few columns: bands of eight tiles are walked down, then along.
      const int64_t band = i / (kBand * across), within = i - band * kBand * across;
      const int64_t high = down - band * kBand < kBand ? down - band * kBand : kBand;
      tile(block, (band * kBand + within % high) * kSide, within / high * kSide);
    }
  }

 private:
  static constexpr int64_t kBand = 8;
  // One factor, its rows (of a) or columns (of b) being lines.
  struct Factor {
    const char* data;
    ptrdiff_t line, step;  // from one line to the next, and from one k to the next
    int64_t lines;
    bool along_k, pieces;  // what lies side by side; whether in whole pieces
  };
  Product p;
  Factor a, b;
  bool y_pieces, z_pieces, bias_pieces;

  static HD int64_t tiles_of(int64_t n) { return (n + kSide - 1) / kSide; }

  // The thread's share of a tile: pieces along what lies side by side, each warp's together.
  struct Held {
    V value[kPieces][kGroup];
  };
  static HD void place(const Factor& f, int lane, int piece, int& line, int& k) {
    const int q = lane + piece * kThreads;
    if (f.along_k) {
      line = q / (kDepth / kGroup);
      k = q % (kDepth / kGroup) * kGroup;
    } else {
      k = q / (kSide / kGroup);
      line = q % (kSide / kGroup) * kGroup;
    }
  }
  HD void fetch(const Factor& f, int lane, int64_t first, int64_t k0, Held& held) const {
    INNERLOOP_UNROLL
    for (int i = 0; i < kPieces; i++) {
      int line, k;
      place(f, lane, i, line, k);
      const char* at = f.data + (first + line) * f.line + (k0 + k) * f.step;
      const int64_t lines = f.lines - first - line, steps = p.k - k0 - k;
      const int64_t other = f.along_k ? lines : steps, rest = f.along_k ? steps : lines;
      const int count = other <= 0 || rest <= 0 ? 0 : rest < kGroup ? (int)rest : kGroup;
      if (f.pieces || count == 0) {
        load_piece<S, kGroup>(at, count == kGroup, count, held.value[i]);
        continue;
      }
      const ptrdiff_t apart = f.along_k ? f.step : f.line;
      INNERLOOP_UNROLL
      for (int e = 0; e < kGroup; e++) {
        held.value[i][e] = V(T(0));
        if (e < count) load_piece<S, 1>(at + e * apart, true, 1, &held.value[i][e]);
      }
    }
  }
  HD void put(const Factor& f, int lane, const Held& held, T* to) const {
    INNERLOOP_UNROLL
    for (int i = 0; i < kPieces; i++) {
      int line, k;
      place(f, lane, i, line, k);
      if (!f.along_k) {
        store_piece<T, kGroup>(held.value[i], reinterpret_cast<char*>(to + k * kPitch + line), true, kGroup);
        continue;
      }
      INNERLOOP_UNROLL
      for (int e = 0; e < kGroup; e++) to[(k + e) * kPitch + line] = held.value[i][e].v;
    }
  }

  static HD void take(const T* from, V (&to)[Each]) {
    INNERLOOP_UNROLL
    for (int g = 0; g < kGroups; g++) {
      V piece[kGroup];
      load_piece<T, kGroup>(reinterpret_cast<const char*>(from + g * kAcross * kGroup), true, kGroup, piece);
      INNERLOOP_UNROLL
      for (int e = 0; e < kGroup; e++) to[g * kGroup + e] = piece[e];
    }
  }
  static HD void multiply(const T* x, const T* y, V (&sum)[Each][Each]) {
    V left[Each], right[Each];
    take(x, left);
    take(y, right);
    INNERLOOP_UNROLL
    for (int r = 0; r < Each; r++) {
      INNERLOOP_UNROLL
      for (int c = 0; c < Each; c++) sum[r][c] = fma(left[r], right[c], sum[r][c]);
    }
  }

  static HD int offset(int thread, int of) { return (of / kGroup * kAcross + thread) * kGroup + of % kGroup; }

  HD void tile(const Block& block, int64_t row, int64_t column) const {
    const int down = block.lane / kAcross, across = block.lane % kAcross;
    T* shared = reinterpret_cast<T*>(block.shared);
    V sum[Each][Each];
    INNERLOOP_UNROLL
    for (int r = 0; r < Each; r++) {
      INNERLOOP_UNROLL
      for (int g = 0; g < kGroups; g++) {
        Out start = {};
        if (p.accumulate) {
          const int64_t i = row + offset(down, r), j = column + offset(across, g * kGroup);
          load_lanes<S>(p.y, y_pieces, i, j, within(i, j), start);
        }
        INNERLOOP_UNROLL
        for (int e = 0; e < kGroup; e++) sum[r][g * kGroup + e] = start.lane[e];
      }
    }
    Held of_a, of_b;
    if (p.k > 0) {
      fetch(a, block.lane, row, 0, of_a);
      fetch(b, block.lane, column, 0, of_b);
      put(a, block.lane, of_a, shared);
      put(b, block.lane, of_b, shared + kTile);
    }
    block.sync();
    for (int64_t k = 0, i = 0; k < p.k; k += kDepth, i ^= 1) {
      const bool more = k + kDepth < p.k;
      if (more) {  // on their way while this tile is worked on
        fetch(a, block.lane, row, k + kDepth, of_a);
        fetch(b, block.lane, column, k + kDepth, of_b);
      }
      const T* x = shared + i * 2 * kTile + down * kGroup;
      const T* y = shared + i * 2 * kTile + kTile + across * kGroup;
      if (p.k - k >= kDepth) {
        INNERLOOP_UNROLL
        for (int s = 0; s < kDepth; s++) multiply(x + s * kPitch, y + s * kPitch, sum);
      } else {  // not over zeros: 0 x 0 would make a +0 of a sum of -0
        for (int s = 0; s < (int)(p.k - k); s++) multiply(x + s * kPitch, y + s * kPitch, sum);
      }
      if (more) {
        T* next = shared + (i ^ 1) * 2 * kTile;
        put(a, block.lane, of_a, next);
        put(b, block.lane, of_b, next + kTile);
      }
      block.sync();
    }
    INNERLOOP_UNROLL
    for (int r = 0; r < Each; r++) {
      INNERLOOP_UNROLL
      for (int g = 0; g < kGroups; g++) {
        Out out;
        INNERLOOP_UNROLL
        for (int e = 0; e < kGroup; e++) out.lane[e] = sum[r][g * kGroup + e];
        finish(out, row + offset(down, r), column + offset(across, g * kGroup));
      }
    }
  }

  HD void finish(Out out, int64_t i, int64_t j) const {
    const int count = within(i, j);
    if (count == 0) return;
    if (p.bias.data != nullptr) {
      Out bias;
      load_lanes<S>(p.bias, bias_pieces, i, j, count, bias);
      INNERLOOP_UNROLL
      for (int e = 0; e < kGroup; e++) out.lane[e] = out.lane[e] + bias.lane[e];
    }
    if (p.z.data != nullptr && !p.keeps_output) store_lanes<S>(out, p.z, z_pieces, i, j, count);
    out = activate(p.act, out);
    if (p.z.data != nullptr && p.keeps_output) store_lanes<S>(out, p.z, z_pieces, i, j, count);
    if (p.drop.wanted) out = innerloop::INNERLOOP_ISA::drop(p.drop, i, j, out);
    store_lanes<S>(out, p.y, y_pieces, i, j, count);
  }

  HD int within(int64_t i, int64_t j) const {
    return i >= p.m || j >= p.n ? 0 : p.n - j < kGroup ? (int)(p.n - j) : kGroup;
  }
};

}  // namespace innerloop::INNERLOOP_ISA
