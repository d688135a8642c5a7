// The loop over rows: any strides, and scratch for rows that do not lie contiguous.
#pragma once

#include "cpu/elementwise.h"
#include "kernels.h"
#include "simd/lanes.h"

namespace innerloop::INNERLOOP_ISA {

// Copies rows of n elements, one side of which is scratch. Where the other side's rows lie side by side (a class axis
// in the middle) it is walked across the rows: along them, strides of a power of two would throw its lines out of the
// cache before they are used up.
template <class T>
void copy_rows(const char* from, ptrdiff_t from_row, ptrdiff_t from_step, char* to, ptrdiff_t to_row, ptrdiff_t to_step,
               int rows, int64_t n, bool across) {
  if (across) {
    for (int64_t i = 0; i < n; i++) {
      const char* source = from + i * from_step;
      char* target = to + i * to_step;
      for (int r = 0; r < rows; r++) memcpy(target + r * to_row, source + r * from_row, sizeof(T));
    }
  } else {
    for (int r = 0; r < rows; r++) {
      const char* source = from + r * from_row;
      char* target = to + r * to_row;
      for (int64_t i = 0; i < n; i++) memcpy(target + i * to_step, source + i * from_step, sizeof(T));
    }
  }
}

// Where the rows of a block lie: contiguous each, operand `op` of row r at at[op] + r * stride[op].
template <int Operands>
struct Block {
  char* at[Operands];
  ptrdiff_t stride[Operands];
  HD char* row(int op, int r) const { return at[op] + r * stride[op]; }
};

HD bool across(ptrdiff_t row, ptrdiff_t step) { return (row < 0 ? -row : row) < (step < 0 ? -step : step); }

// Calls work(block, count) for each block of rows in [begin, end). The last operand is the output.
template <class T, int Operands, class Work>
void for_blocks(const Rows<Operands>& rows, char* scratch, int64_t begin, int64_t end, const Work& work) {
  constexpr int out = Operands - 1;
  const int last = rows.walk.ndim - 1;
  for_rows(rows.walk, begin, end, [&](char* const* p, int64_t n) {
    for (int64_t i = 0; i < n; i += rows.block) {
      const int count = n - i < rows.block ? (int)(n - i) : rows.block;
      Block<Operands> block;
      char* free = scratch;
      for (int op = 0; op < Operands; op++) {
        const ptrdiff_t stride = rows.walk.stride[op][last];
        block.at[op] = p[op] + i * stride;
        block.stride[op] = stride;
        if (!rows.gathered[op]) continue;
        if (op != out) {
          copy_rows<T>(block.at[op], stride, rows.step[op], free, rows.pitch, sizeof(T), count, rows.length,
                       across(stride, rows.step[op]));
        }
        block.at[op] = free;
        block.stride[op] = rows.pitch;
        free += rows.block * rows.pitch;
      }
      work(block, count);
      if (rows.gathered[out]) {
        const ptrdiff_t stride = rows.walk.stride[out][last];
        copy_rows<T>(block.at[out], rows.pitch, sizeof(T), p[out] + i * stride, stride, rows.step[out], count,
                     rows.length, across(stride, rows.step[out]));
      }
    }
  });
}

// The task's scratch, in parts.
template <class T>
struct Scratch {
  T* tops;     // one a block of kRowBlock elements
  char* rows;  // 64-byte aligned
  Scratch(void* p, int64_t length) : tops((T*)p), rows((char*)p + row_tops_bytes(length)) {}

  static size_t row_tops_bytes(int64_t length) {
    const int64_t blocks = (length + kRowBlock - 1) / kRowBlock;
    return ((size_t)blocks * sizeof(T) + 63) & ~size_t(63);
  }
};

// On a lambda that must see its captures in registers and n as a constant.
#define INNERLOOP_INLINE __attribute__((always_inline))

// f(i, n) for each 16 lanes of [begin, end), n of them in use.
template <class F>
HD void for_lanes(int64_t begin, int64_t end, const F& f) {
  int64_t i = begin;
  for (; i + 16 <= end; i += 16) f(i, 16);
  if (i < end) f(i, (int)(end - i));
}

// Lanes of a contiguous row. n is 16 wherever the compiler can see it.
template <class T>
struct Row {
  using L = Lanes<Native<T>>;
  static HD L load(const char* p, int64_t i, int n) {
    return n == 16 ? L::load(p + i * sizeof(T)) : L::load_first(p + i * sizeof(T), n);
  }
  static HD L load(const char* p, int64_t i, int n, T fill) {
    return n == 16 ? L::load(p + i * sizeof(T)) : L::load_first(p + i * sizeof(T), n).first(n, fill);
  }
  static HD void store(L x, char* p, int64_t i, int n) {
    n == 16 ? x.store(p + i * sizeof(T)) : x.store_first(p + i * sizeof(T), n);
  }
};

// A sum over a row in two levels, so that its error grows with the square root of its length: elements within a block
// of kRowBlock, then blocks.
template <class L>
struct RowTotal {
  L block = L(0), total = L(0);
  HD void end_block() {
    total = total + block;
    block = L(0);
  }
};

}  // namespace innerloop::INNERLOOP_ISA
