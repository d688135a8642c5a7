// Dropout of a tile of a layer's result, while it lies in the first-level cache.
#pragma once

#include "cpu/linear_tile.h"
#include "cpu/random.h"
#include "kernels.h"
#include "rules/dropout.h"

namespace innerloop::INNERLOOP_ISA {
namespace {

// Element (r, c) of the tile is element first + r * row_step + c * column_step of the result, one of the steps being 1.
template <class T>
void drop_tile(const DropoutWork& work, char* y, ptrdiff_t y_row, int rows, int columns, int64_t first,
               int64_t row_step, int64_t column_step) {
  using V = Native<T>;
  using Word = typename BitsOf<T>::type;
  const Dropout rule(work.p);
  RandomWords<T> words({work.seed, work.offset});
  alignas(64) Word tile[kTileVectors * V::lanes];
  const int vectors = (columns + V::lanes - 1) / V::lanes, pitch = vectors * V::lanes;
  const bool along_rows = column_step == 1;
  const int lines = along_rows ? rows : columns, length = along_rows ? columns : rows;
  for (int line = 0; line < lines; line++) {
    const int64_t begin = first + line * (along_rows ? row_step : column_step);
    for (int64_t i = 0, n; i < length; i += n) {
      n = length - i;
      const char* from = words.at(begin + i, length - i, n);
      for (int64_t j = 0; j < n; j++) {
        memcpy(&tile[along_rows ? line * pitch + i + j : (i + j) * pitch + line], from + j * sizeof(Word),
               sizeof(Word));
      }
    }
  }
  for (int r = 0; r < rows; r++) {
    for (int v = 0; v < vectors; v++) {
      char* at = y + r * y_row + v * sizeof(V);
      rule.forward(V::load(at), V::bits_type::load(tile + r * pitch + v * V::lanes)).store(at);
    }
  }
}

}  // namespace
}  // namespace innerloop::INNERLOOP_ISA
