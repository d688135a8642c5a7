// Copies blocks of strided matrices to where the tiles read them end to end, transposing in registers on the way.
#pragma once

#include <utility>

#include "cpu/linear_tile.h"
#include "kernels.h"
#include "simd/storage.h"

namespace innerloop::INNERLOOP_ISA {
namespace {

// Lanes of a, and of b from V::lanes on, by the index that Pick::at gives each lane.
template <class Pick, class V, int... I>
HD V pick_lanes(V a, V b, std::integer_sequence<int, I...>) {
#ifdef __clang__
  return __builtin_shufflevector(a.v, b.v, Pick::at(I, V::lanes)...);
#else
  using Index = typename Raw<typename BitsOf<typename V::scalar>::signed_type, V::lanes>::type;
  return __builtin_shuffle(a.v, b.v, Index{Pick::at(I, V::lanes)...});
#endif
}
template <class Pick, class V>
HD V pick(V a, V b) {
  return pick_lanes<Pick>(a, b, std::make_integer_sequence<int, V::lanes>());
}

// Within each group of 16 bytes (Group lanes): pieces of Width lanes, from a and b in turn, of the group's lower or
// upper half. One instruction on every machine.
template <int Group, int Width, bool Upper>
struct Interleave {
  static constexpr int at(int i, int lanes) {
    const int group = i / Group * Group, piece = i % Group / Width;
    return (piece % 2) * lanes + group + (Upper ? Group / 2 : 0) + piece / 2 * Width + i % Width;
  }
};
// Pieces of Width lanes: the even ones of a and b in turn, or the odd ones.
template <int Width, bool Odd>
struct Exchange {
  static constexpr int at(int i, int lanes) {
    const int piece = i / Width;
    return (piece % 2) * lanes + (piece / 2 * 2 + (Odd ? 1 : 0)) * Width + i % Width;
  }
};

template <int Width, class V>
HD void exchange(V (&r)[V::lanes]) {
  if constexpr (Width < V::lanes) {
    for (int i = 0; i < V::lanes; i++) {
      if (i & Width) continue;
      const V a = r[i], b = r[i + Width];
      r[i] = pick<Exchange<Width, false>>(a, b);
      r[i + Width] = pick<Exchange<Width, true>>(a, b);
    }
    exchange<2 * Width>(r);
  }
}

// A square of V::lanes rows, transposed: first within groups of 16 bytes, then groups against groups.
template <class V>
HD void transpose(V (&r)[V::lanes]) {
  constexpr int group = 16 / (int)sizeof(typename V::scalar);
  for (int i = 0; i < V::lanes; i += group) {
    if constexpr (group == 4) {
      const V a = pick<Interleave<4, 1, false>>(r[i], r[i + 1]), b = pick<Interleave<4, 1, true>>(r[i], r[i + 1]);
      const V c = pick<Interleave<4, 1, false>>(r[i + 2], r[i + 3]),
              d = pick<Interleave<4, 1, true>>(r[i + 2], r[i + 3]);
      r[i] = pick<Interleave<4, 2, false>>(a, c);
      r[i + 1] = pick<Interleave<4, 2, true>>(a, c);
      r[i + 2] = pick<Interleave<4, 2, false>>(b, d);
      r[i + 3] = pick<Interleave<4, 2, true>>(b, d);
    } else {
      const V a = r[i], b = r[i + 1];
      r[i] = pick<Interleave<2, 1, false>>(a, b);
      r[i + 1] = pick<Interleave<2, 1, true>>(a, b);
    }
  }
  exchange<group>(r);
}

constexpr int kAhead = 512;  // bytes that a packing loop prefetches ahead of itself

// What memory holds, as vectors that kernels compute on.
template <class T>
struct Full {
  using V = Native<T>;
  static constexpr ptrdiff_t item = sizeof(T);
  static HD V load(const char* p) { return V::load(p); }
  static HD V load(const char* p, int n) { return load_partial<V>(p, n); }
  static void gather(const char* from, ptrdiff_t stride, int64_t n, char* to) {
    for (int64_t i = 0; i < n; i++) memcpy(to + i * item, from + i * stride, item);
  }
  static void scatter(const char* from, int64_t n, char* to, ptrdiff_t stride) {
    for (int64_t i = 0; i < n; i++) memcpy(to + i * stride, from + i * item, item);
  }
};
template <class S>
struct Half {
  using V = Native<float>;
  static constexpr ptrdiff_t item = 2;
  static HD V load(const char* p) { return load_as<S>(p); }
  static HD V load(const char* p, int n) { return load_as<S>(p, n); }
  static void gather(const char* from, ptrdiff_t stride, int64_t n, char* to) {
    for (int64_t i = 0; i < n; i += V::lanes) {
      const int count = n - i < V::lanes ? (int)(n - i) : V::lanes;
      const bool whole = stride == item && count == V::lanes;
      const V v = whole ? load_as<S>(from + i * item) : load_as<S>(from + i * stride, count, stride);
      store_partial(v, to + i * sizeof(float), count);
    }
  }
  static void scatter(const char* from, int64_t n, char* to, ptrdiff_t stride) {
    for (int64_t i = 0; i < n; i += V::lanes) {
      const int count = n - i < V::lanes ? (int)(n - i) : V::lanes;
      const V v = load_partial<V>(from + i * sizeof(float), count);
      stride == item&& count == V::lanes ? store_as<S>(v, to + i * item)
                                         : store_as<S>(v, to + i * stride, count, stride);
    }
  }
};

// f(Full or Half), by what the memory is.
template <class T, class F>
void with_storage(Storage storage, const F& f) {
  if constexpr (sizeof(T) == sizeof(float)) {
    if (storage == Storage::bfloat16) return f(Half<Bfloat16>());
    if (storage == Storage::float16) return f(Half<Float16>());
  }
  f(Full<T>());
}

template <class T>
constexpr ptrdiff_t item_size(Storage storage) {
  return storage == Storage::full ? (ptrdiff_t)sizeof(T) : 2;
}

// to[i][j] = from[i][j]; rows of `to` lie to_row bytes apart, its columns end to end.
template <class Source>
void copy_block(const char* from, ptrdiff_t row, ptrdiff_t column, int64_t rows, int64_t columns, char* to,
                ptrdiff_t to_row) {
  using V = typename Source::V;
  using T = typename V::scalar;
  constexpr int lanes = V::lanes;
  constexpr ptrdiff_t item = Source::item, to_item = sizeof(T), step = lanes * item;
  if (column == item || row != item) {
    for (int64_t i = 0; i < rows; i++, from += row, to += to_row) {
      int64_t j = 0;
      if (column == item) {
        for (; j + lanes <= columns; j += lanes) Source::load(from + j * item).store(to + j * to_item);
        const int rest = (int)(columns - j);
        if (rest > 0) store_partial(Source::load(from + j * item, rest), to + j * to_item, rest);
      } else {
        Source::gather(from, column, columns, to);
      }
    }
    return;
  }
  for (int64_t j = 0; j < columns; j += lanes) {
    const int width = columns - j < lanes ? (int)(columns - j) : lanes;
    const char* source = from + j * column;
    char* target = to + j * to_item;
    int64_t i = 0;
    if (width == lanes) {
      for (; i + lanes <= rows; i += lanes, source += step) {
        V square[lanes];
        for (int q = 0; q < lanes; q++) {
          square[q] = Source::load(source + q * column);
          prefetch(source + q * column + kAhead);
        }
        transpose(square);
        for (int q = 0; q < lanes; q++, target += to_row) square[q].store(target);
      }
    }
    for (; i < rows; i += lanes, source += step) {
      const int height = rows - i < lanes ? (int)(rows - i) : lanes;
      V square[lanes];
      for (int q = 0; q < lanes; q++) {
        square[q] = q < width ? Source::load(source + q * column, height) : V(T(0));
      }
      transpose(square);
      for (int q = 0; q < height; q++, target += to_row) store_partial(square[q], target, width);
    }
  }
}

inline char* address(const Matrix& m, int64_t i, int64_t j) {
  return m.data + (m.rows != nullptr ? m.rows[i] : i * m.row) + j * m.column;
}

// From row `first` on: how many of `most` rows lie `step` bytes apart.
inline int64_t run_of_rows(const Matrix& m, int64_t first, int64_t most, ptrdiff_t& step) {
  step = m.row;
  if (m.rows == nullptr || most <= 1) return most;
  step = m.rows[first + 1] - m.rows[first];
  int64_t n = 2;
  while (n < most && m.rows[first + n] - m.rows[first + n - 1] == step) n++;
  return n;
}

// dy *= act'(saved) in place, over n elements.
using Derive = void (*)(const double* parameters, char* dy, const char* saved, int64_t n);

// A matrix as a factor of a product: maybe transposed, maybe times an activation's derivative.
struct Factor {
  Matrix matrix;
  bool transposed;
  Matrix saved;  // data is null without a derivative
  Derive derive;
  const double* parameters;

  bool fused() const { return saved.data != nullptr; }
};

template <class T>
void pack_matrix(const Matrix& m, bool transposed, int64_t i, int64_t j, int64_t rows, int64_t columns, char* to,
                 ptrdiff_t to_row) {
  const int64_t first = transposed ? j : i, n = transposed ? columns : rows, across = transposed ? i : j;
  for (int64_t r = 0; r < n;) {
    ptrdiff_t step;
    const int64_t run = run_of_rows(m, first + r, n - r, step);
    const char* from = address(m, first + r, across);
    with_storage<T>(m.storage, [&](auto source) {
      if (transposed) {
        copy_block<decltype(source)>(from, m.column, step, rows, run, to + r * sizeof(T), to_row);
      } else {
        copy_block<decltype(source)>(from, step, m.column, run, columns, to + r * to_row, to_row);
      }
    });
    r += run;
  }
}

// The block of the factor at (i, j), rows to_row bytes apart. `spare` holds as much as `to`; only a fused factor uses
// it.
template <class T>
void pack_factor(const Factor& f, int64_t i, int64_t j, int64_t rows, int64_t columns, char* to, ptrdiff_t to_row,
                 char* spare) {
  pack_matrix<T>(f.matrix, f.transposed, i, j, rows, columns, to, to_row);
  if (!f.fused()) return;
  pack_matrix<T>(f.saved, f.transposed, i, j, rows, columns, spare, to_row);
  for (int64_t r = 0; r < rows; r++) f.derive(f.parameters, to + r * to_row, spare + r * to_row, columns);
}

// Whether the rows of a right-hand factor's panels lie end to end in memory.
template <class T>
bool has_rows_for_panels(const Factor& f) {
  const ptrdiff_t item = item_size<T>(f.matrix.storage);
  if (f.fused()) return false;
  return f.transposed ? f.matrix.row == item && f.matrix.rows == nullptr : f.matrix.column == item;
}

constexpr int kPanelsAtOnce = 8;
constexpr int kRowsAhead = 4;

// Whole panels of such a factor, `to_panel` bytes apart: some of them row by row together, as rows may lie pages apart,
// each of which costs a look-up. Rows are fetched `ahead` of their turn, up to `known` of them.
template <class Source>
void pack_panels(const Factor& f, int64_t i, int64_t j, int64_t rows, int64_t panels, char* to, ptrdiff_t to_panel,
                 int64_t ahead, int64_t known) {
  using V = typename Source::V;
  constexpr int at_once = kPanelsAtOnce;
  constexpr ptrdiff_t to_row = kPanelVectors * sizeof(V), from_row = kPanelVectors * V::lanes * Source::item;
  for (int64_t p = 0; p < panels; p += at_once) {
    const int count = (int)(panels - p < at_once ? panels - p : at_once);
    for (int64_t r = 0; r < rows; r++) {
      auto row = [&](int64_t k) { return f.transposed ? address(f.matrix, j, k) : address(f.matrix, k, j); };
      const char* from = row(i + r) + p * from_row;
      const char* next = r + ahead < known ? row(i + r + ahead) + p * from_row : from;
      char* target = to + p * to_panel + r * to_row;
      for (int q = 0; q < count; q++, from += from_row, next += from_row, target += to_panel) {
        for (int at = 0; at < (int)from_row; at += 64) prefetch(next + at);
        INNERLOOP_UNROLL
        for (int v = 0; v < kPanelVectors; v++) {
          Source::load(from + v * V::lanes * Source::item).store(target + v * sizeof(V));
        }
      }
    }
  }
}
template <class T>
void pack_panels_of(const Factor& f, int64_t i, int64_t j, int64_t rows, int64_t panels, char* to, ptrdiff_t to_panel,
                    int64_t ahead = kRowsAhead, int64_t known = 0) {
  with_storage<T>(f.matrix.storage, [&](auto source) {
    pack_panels<decltype(source)>(f, i, j, rows, panels, to, to_panel, ahead, known > rows ? known : rows);
  });
}

// One panel of a right-hand factor, `columns` of at most kPanel: rows end to end, the lanes beyond `columns` zero.
template <class T>
void pack_panel(const Factor& f, int64_t i, int64_t j, int64_t rows, int columns, char* to, char* spare) {
  constexpr ptrdiff_t to_row = kPanel<T> * sizeof(T);
  if (columns < kPanel<T>) {
    for (int64_t r = 0; r < rows; r++) {
      memset(to + r * to_row + columns * sizeof(T), 0, (kPanel<T> - columns) * sizeof(T));
    }
  }
  pack_factor<T>(f, i, j, rows, columns, to, to_row, spare);
}

}  // namespace
}  // namespace innerloop::INNERLOOP_ISA
