// The blocked matrix product, as planned: hands each finished tile to the epilogue while it lies in the first-level
// cache.
#pragma once

#include "cpu/linear_dropout.h"
#include "cpu/linear_plan.h"

namespace innerloop::INNERLOOP_ISA {
namespace {

// Rows up to which b's columns are transposed in registers; beyond, enough lanes are busy with the roles swapped.
template <class T>
constexpr int kFewRows = Native<T>::lanes / 2;

// The rows [row, row_end) and columns [column, column_end) of a product, on one thread.
template <class T>
class Block {
  using V = Native<T>;
  static constexpr int64_t item = sizeof(T);
  static constexpr ptrdiff_t panel_row = kPanel<T> * item;

 public:
  Block(const Product& product, const Plan& plan, char* scratch)
      : p(product),
        plan(plan),
        a_buffer(scratch),
        b_buffer(scratch + plan.a_bytes),
        spare(scratch + plan.a_bytes + plan.b_bytes),
        sums(spare + plan.spare_bytes),
        y_has_rows(stores_rows<T>(product, product.y)),
        z_has_rows(product.z.data != nullptr && stores_rows<T>(product, product.z)),
        apart_row(plan.sums_bytes > 0 ? plan.template sums_row<T>() : 0) {}

  void run(int64_t row, int64_t row_end, int64_t column, int64_t column_end) {
    rows_begin = row;
    rows_end = row_end;
    tiles = ceil_div(row_end - row, plan.rows_in_tile);
    rows_in_tile = tiles > 0 ? (row_end - row) / tiles : 0;
    taller_tiles = row_end - row - tiles * rows_in_tile;
    const int64_t block_columns = plan.panels * kPanel<T>;
    if (plan.b_in_slices) return run_in_slices(column, column_end, block_columns);
    for (int64_t j = column; j < column_end; j += block_columns) {
      columns_begin = j;
      const int64_t j_end = j + block_columns < column_end ? j + block_columns : column_end;
      if (plan.b_in_place && p.accumulate) {
        for_in_place(j, j_end, [&](char* sum, int64_t at, int rows, int64_t c, int columns, bool) {
          load_result(sum, plan.sums_row<T>(), at, rows, c, columns);
        });
      }
      for (int64_t block = 0; block < plan.blocks; block++) {
        k_begin = block * plan.depth;
        depth = p.k - k_begin < plan.depth ? p.k - k_begin : plan.depth;
        if (depth < 0) depth = 0;
        first = block == 0 && !p.accumulate;
        last = block == plan.blocks - 1;
        plan.b_in_place ? block_in_place(j, j_end) : block_of_k(j, j_end);
      }
      if (plan.b_in_place) {
        for_in_place(j, j_end, [&](char* sum, int64_t at, int rows, int64_t c, int columns, bool) {
          finish(sum, plan.sums_row<T>(), at, rows, c, columns);
        });
      }
    }
  }

  // The same for few rows of plain columns, and a right-hand factor whose columns lie end to end: squares of it are
  // transposed in registers, so that it is read once and never packed.
  template <class Source, int Rows = kFewRows<T>>
  void few_rows(int64_t column, int64_t column_end) {
    if constexpr (Rows > 1) {
      if (p.m < Rows) return few_rows<Source, Rows - 1>(column, column_end);
    }
    // Chains side by side hide the latency of an fma (1 x 784 x 256: 18 against 12 GFLOP/s), but read as many columns
    // at once: a weight from memory is better read by fewer (1 x 4000 x 4000: 7 against 11), and columns that lie 2 KB
    // apart would share few sets of the first-level cache.
    constexpr int most = Rows == 1 ? 4 : Rows == 2 ? 2 : 1;
    const bool near = p.k * p.n * Source::item <= kNearBytes && p.b.matrix.column % 2048 != 0;
    const int groups = near ? most : 1;
    for (int64_t j = column; j < column_end; j += groups * V::lanes) {
      if (groups == most && j + most * V::lanes <= column_end) {
        few_rows_by<Source, Rows, most, true>(j, most * V::lanes);
      } else {
        for (int64_t c = j; c < column_end && c < j + groups * V::lanes; c += V::lanes) {
          const int64_t rest = column_end - c;
          if (rest >= V::lanes) {
            few_rows_by<Source, Rows, 1, true>(c, V::lanes);
          } else {
            few_rows_by<Source, Rows, 1, false>(c, (int)rest);
          }
        }
      }
    }
  }

 private:
  const Product& p;
  const Plan& plan;
  char *a_buffer, *b_buffer, *spare, *sums;
  const bool y_has_rows, z_has_rows;  // for whole vectors of a tile
  const ptrdiff_t apart_row;          // of sums that are kept apart between blocks of k; or 0
  int64_t columns_begin = 0;          // of the panels at hand
  int64_t rows_begin = 0, rows_end = 0;
  // Rows are dealt out evenly, so that no tile is left with one row: the first tiles have one more than the others.
  int64_t tiles = 0, rows_in_tile = 0, taller_tiles = 0;
  int64_t k_begin = 0, depth = 0;  // this block of k
  bool first = true, last = true;

  template <class Source, int Rows, int Groups, bool Whole>
  void few_rows_by(int64_t column, int columns) const {
    static_assert(Rows * Groups <= kTileVectors);
    constexpr int lanes = V::lanes, at_once = 64 / (lanes * Source::item);  // vectors of a column: a line of the cache
    const char* a = address(p.a.matrix, 0, 0);
    const char* b = address(p.b.matrix, 0, column);
    V sums[Rows][Groups];
    for (int r = 0; r < Rows; r++) {
      for (int g = 0; g < Groups; g++) sums[r][g] = V(T(0));
    }
    auto step = [&](int64_t k, int g, int n) {
      V square[lanes];
      INNERLOOP_UNROLL
      for (int q = 0; q < lanes; q++) {
        const int c = g * lanes + q;  // a column beyond the last repeats the last
        const char* from = b + (Whole || c < columns ? c : columns - 1) * p.b.matrix.column + k * Source::item;
        square[q] = n == lanes ? Source::load(from) : Source::load(from, n);
      }
      transpose(square);
      for (int r = 0; r < Rows; r++) {
        INNERLOOP_UNROLL
        for (int q = 0; q < lanes; q++) {
          if (q >= n) break;
          T x;
          memcpy(&x, a + r * p.a.matrix.row + (k + q) * item, item);
          sums[r][g] = fma(V(x), square[q], sums[r][g]);
        }
      }
    };
    int64_t k = 0;
    for (; k + at_once * lanes <= p.k; k += at_once * lanes) {
      if (Groups == 1) {
        for (int q = 0; q < lanes; q++) prefetch(b + q * p.b.matrix.column + k * Source::item + kAhead);
      }
      INNERLOOP_UNROLL
      for (int i = 0; i < at_once; i++) {
        INNERLOOP_UNROLL
        for (int g = 0; g < Groups; g++) step(k + i * lanes, g, lanes);
      }
    }
    for (; k < p.k; k += lanes) {
      const int n = (int)(p.k - k < lanes ? p.k - k : lanes);
      INNERLOOP_UNROLL
      for (int g = 0; g < Groups; g++) step(k, g, n);
    }
    alignas(64) char sum[kTileVectors * sizeof(V)];
    constexpr ptrdiff_t sum_row = Groups * sizeof(V);
    for (int r = 0; r < Rows; r++) {
      for (int g = 0; g < Groups; g++) sums[r][g].store(sum + r * sum_row + g * sizeof(V));
    }
    finish(sum, sum_row, 0, Rows, column, columns);
  }

  // Few rows and a b from memory: while one block of b is multiplied, the next is packed into a second buffer, some
  // rows after each tile, so that memory and arithmetic keep each other company.
  void run_in_slices(int64_t column, int64_t column_end, int64_t block_columns) {
    char* buffers[2] = {b_buffer, b_buffer + plan.b_bytes / 2};
    auto columns_of = [&](int64_t j) { return column_end - j < block_columns ? column_end - j : block_columns; };
    auto depth_of = [&](int64_t block) {
      return p.k - block * plan.depth < plan.depth ? p.k - block * plan.depth : plan.depth;
    };
    const ptrdiff_t a_row = p.a.transposed ? p.a.matrix.column : p.a.matrix.row;
    pack_slice(column, columns_of(column), 0, 0, depth_of(0), depth_of(0), kRowsAhead, buffers[0]);
    for (int64_t j = column, block = 0, turn = 0; j < column_end; turn ^= 1) {
      const bool down = block + 1 < plan.blocks;
      const int64_t next_block = down ? block + 1 : 0, next_j = down ? j : j + block_columns;
      const int64_t next_depth = next_j < column_end ? depth_of(next_block) : 0;
      columns_begin = j;
      k_begin = block * plan.depth;
      depth = depth_of(block);
      first = block == 0 && !p.accumulate;
      last = !down;
      b_buffer = buffers[turn];
      const int64_t columns = columns_of(j), steps = tiles * ceil_div(columns, kPanel<T>);
      const int64_t slice = ceil_div(next_depth, steps);
      int64_t packed = 0;
      for (int64_t c = j; c < j + columns; c += kPanel<T>) {
        const int width = (int)(j + columns - c < kPanel<T> ? j + columns - c : kPanel<T>);
        const char* b = b_buffer + (c - j) / kPanel<T> * plan.depth * panel_row;
        for (int64_t i = 0; i < tiles; i++) {
          const int64_t at = tile_begin(i);
          const char* a = p.a.transposed ? address(p.a.matrix, k_begin, at) : address(p.a.matrix, at, k_begin);
          one_tile(a, a_row, item, b, plan.depth * panel_row, at, (int)(tile_begin(i + 1) - at), c, width, false);
          const int64_t end = packed + slice < next_depth ? packed + slice : next_depth;
          if (packed < end) {
            pack_slice(next_j, columns_of(next_j), next_block, packed, end, next_depth,
                       slice > kRowsAhead ? slice : kRowsAhead, buffers[turn ^ 1]);
          }
          packed = end;
        }
      }
      j = next_j;
      block = next_block;
    }
  }

  // Rows [begin, end) of a block of b.
  void pack_slice(int64_t j, int64_t columns, int64_t block, int64_t begin, int64_t end, int64_t block_depth,
                  int64_t ahead, char* to) const {
    const int64_t whole = columns / kPanel<T>, rest = columns % kPanel<T>, i = block * plan.depth + begin;
    to += begin * panel_row;
    pack_panels_of<T>(p.b, i, j, end - begin, whole, to, plan.depth * panel_row, ahead, block_depth - begin);
    if (rest == 0) return;
    pack_panel<T>(p.b, i, j + whole * kPanel<T>, end - begin, (int)rest, to + whole * plan.depth * panel_row, nullptr);
  }

  // f of every tile of columns [j, j_end), whose sums are kept apart; wide: over neighbouring panels.
  template <class F>
  void for_in_place(int64_t j, int64_t j_end, const F& f) const {
    const int wide = rows_end - rows_begin <= 2 ? panels_at_once((int)(rows_end - rows_begin)) : 1;
    const ptrdiff_t sums_row = plan.sums_row<T>();
    for (int64_t c = j; c < j_end;) {
      const bool group = wide > 1 && j_end - c >= wide * kPanel<T>;
      const int64_t most = group ? wide * kPanel<T> : kPanel<T>;
      const int columns = (int)(j_end - c < most ? j_end - c : most);
      for (int64_t i = 0; i < tiles; i++) {
        const int64_t at = tile_begin(i);
        f(sums + (at - rows_begin) * sums_row + (c - j) * item, at, (int)(tile_begin(i + 1) - at), c, columns, group);
      }
      c += columns;
    }
  }

  // Few rows, and b read where it lies. A tile is few steps of k, so little else is done for each.
  void block_in_place(int64_t j, int64_t j_end) const {
    const char* a = a_buffer;
    ptrdiff_t a_row = plan.depth * item + 64;
    if (plan.a_direct) {
      a = p.a.transposed ? address(p.a.matrix, k_begin, rows_begin) : address(p.a.matrix, rows_begin, k_begin);
      a_row = p.a.transposed ? p.a.matrix.column : p.a.matrix.row;
    } else {
      for (int64_t i = 0; i < tiles; i++) {
        const int64_t at = tile_begin(i);
        pack_factor<T>(p.a, at, k_begin, tile_begin(i + 1) - at, depth, a_buffer + (at - rows_begin) * a_row, a_row,
                       spare);
      }
    }
    const char* in_place = address(p.b.matrix, k_begin, 0);
    const ptrdiff_t sums_row = plan.sums_row<T>();
    int64_t packed = -1;
    for_in_place(j, j_end, [&](char* sum, int64_t at, int rows, int64_t c, int columns, bool wide) {
      const char* b = in_place + c * item;
      ptrdiff_t b_row = p.b.matrix.row;
      if (columns % kPanel<T> != 0) {  // whole vectors would reach past the end of the array
        if (packed != c) pack_panel<T>(p.b, k_begin, c, depth, columns, b_buffer, spare);
        packed = c;
        b = b_buffer;
        b_row = panel_row;
      }
      const Tile multiply = wide ? find_wide_tile<T>(rows) : find_tile<T>(rows, (columns + V::lanes - 1) / V::lanes);
      multiply(depth, a + (at - rows_begin) * a_row, a_row, item, b, b_row, panel_row, first ? nullptr : sum, sums_row,
               sum, sums_row);
    });
  }

  int64_t tile_begin(int64_t tile) const {
    return rows_begin + tile * rows_in_tile + (tile < taller_tiles ? tile : taller_tiles);
  }

  void block_of_k(int64_t j, int64_t j_end) {
    if (p.panels == nullptr) pack_b(j, j_end);
    for (int64_t t = 0; t < tiles; t += plan.row_tiles) {
      const int64_t t_end = t + plan.row_tiles < tiles ? t + plan.row_tiles : tiles;
      const char* a;
      ptrdiff_t a_row, a_step = item;
      const int64_t row = tile_begin(t);
      if (plan.a_direct) {
        a = p.a.transposed ? address(p.a.matrix, k_begin, row) : address(p.a.matrix, row, k_begin);
        a_row = p.a.transposed ? p.a.matrix.column : p.a.matrix.row;
        if (plan.a_across) a_step = p.a.matrix.row;
      } else {
        a = a_buffer;
        a_row = plan.depth * item + 64;
        for (int64_t i = t; i < t_end; i++) {
          const int64_t at = tile_begin(i);
          pack_factor<T>(p.a, at, k_begin, tile_begin(i + 1) - at, depth, a_buffer + (at - row) * a_row, a_row, spare);
        }
      }
      const int wide = rows_end - rows_begin <= 2 ? panels_at_once((int)(rows_end - rows_begin)) : 1;
      for (int64_t c = j; c < j_end;) {
        const bool group = wide > 1 && j_end - c >= wide * kPanel<T>;
        const int64_t most = group ? wide * kPanel<T> : kPanel<T>;
        const int columns = (int)(j_end - c < most ? j_end - c : most);
        const ptrdiff_t b_panel = (p.panels != nullptr ? p.k : plan.depth) * panel_row;
        const char* b = p.panels != nullptr ? p.panels + c / kPanel<T> * b_panel + k_begin * panel_row
                                            : b_buffer + (c - j) / kPanel<T> * b_panel;
        for (int64_t i = t; i < t_end; i++) {
          const int64_t at = tile_begin(i);
          one_tile(a + (at - row) * a_row, a_row, a_step, b, b_panel, at, (int)(tile_begin(i + 1) - at), c, columns,
                   group);
        }
        c += columns;
      }
    }
  }

  void pack_b(int64_t j, int64_t j_end) {
    char* to = b_buffer;
    int64_t c = j;
    if (has_rows_for_panels<T>(p.b) && p.column_sums == nullptr) {
      const int64_t whole = (j_end - j) / kPanel<T>;
      pack_panels_of<T>(p.b, k_begin, c, depth, whole, to, plan.depth * panel_row);
      c += whole * kPanel<T>;
      to += whole * plan.depth * panel_row;
    }
    for (; c < j_end; c += kPanel<T>, to += plan.depth * panel_row) {
      const int columns = (int)(j_end - c < kPanel<T> ? j_end - c : kPanel<T>);
      pack_panel<T>(p.b, k_begin, c, depth, columns, to, spare);
      if (p.column_sums != nullptr && rows_begin == 0) add_rows(to, p.column_sums + c * item, columns);
    }
  }

  // sums += the rows of a panel, in order
  void add_rows(const char* panel, char* sums, int columns) const {
    for (int v = 0; v < columns; v += V::lanes) {
      const int n = columns - v < V::lanes ? columns - v : V::lanes;
      V sum = load_partial<V>(sums + v * item, n);
      for (int64_t r = 0; r < depth; r++) sum = sum + V::load(panel + r * panel_row + v * item);
      store_partial(sum, sums + v * item, n);
    }
  }

  void one_tile(const char* a, ptrdiff_t a_row, ptrdiff_t a_step, const char* b, ptrdiff_t b_panel, int64_t row,
                int rows, int64_t column, int columns, bool wide) const {
    alignas(64) char sum[kTileVectors * sizeof(V)];
    const int vectors = (columns + V::lanes - 1) / V::lanes;
    const ptrdiff_t sum_row = vectors * (ptrdiff_t)sizeof(V);
    const bool y_direct = y_has_rows && columns % V::lanes == 0;
    char* y = y_direct        ? p.y.data + row * p.y.row + column * item
              : apart_row > 0 ? sums + (row - rows_begin) * apart_row + (column - columns_begin) * item
                              : sum;
    const ptrdiff_t y_row = y_direct ? p.y.row : apart_row > 0 ? apart_row : sum_row;
    if (y_direct) {
      for (int r = 0; r < rows; r++) {  // there when the last step of k is done
        prefetch(y + r * y_row);
        prefetch(y + r * y_row + sum_row - 1);
      }
    }
    if (!first && y == sum) load_result(sum, sum_row, row, rows, column, columns);

    const bool finishing = last && (p.epilogue != nullptr || apart_row > 0);
    const Tile multiply = wide ? find_wide_tile<T>(rows) : find_tile<T>(rows, vectors);
    multiply(depth, a, a_row, a_step, b, panel_row, b_panel, first ? nullptr : y, y_row, finishing ? sum : y,
             finishing ? sum_row : y_row);
    if (finishing) {
      finish(sum, sum_row, row, rows, column, columns);
    } else if (y == sum) {
      store_result(p.y, sum, sum_row, row, rows, column, columns);
    }
  }

  // A tile of finished sums, through the epilogue, to y and z.
  void finish(char* sum, ptrdiff_t sum_row, int64_t row, int rows, int64_t column, int columns) const {
    const bool whole = columns % V::lanes == 0, y_direct = whole && y_has_rows;
    if (p.epilogue != nullptr) {
      alignas(64) char kept[kTileVectors * sizeof(V)];
      const bool z_direct = whole && z_has_rows;
      Finish f;
      f.sum = sum;
      f.sum_row = sum_row;
      f.rows = rows;
      f.vectors = (columns + V::lanes - 1) / V::lanes;
      const ptrdiff_t kept_row = f.vectors * (ptrdiff_t)sizeof(V);
      f.bias = p.bias == nullptr ? nullptr : p.bias + (p.transposed ? row : column) * item;
      f.bias_by_row = p.transposed;
      f.y = y_direct ? p.y.data + row * p.y.row + column * item : sum;
      f.y_row = y_direct ? p.y.row : sum_row;
      f.z = p.z.data == nullptr || p.keeps_output ? nullptr
            : z_direct                            ? p.z.data + row * p.z.row + column * item
                                                  : kept;
      f.z_row = z_direct ? p.z.row : kept_row;
      f.parameters = p.parameters;
      p.epilogue(f);
      if (f.z == kept) store_result(p.z, kept, kept_row, row, rows, column, columns);
      if (p.dropout != nullptr) {
        if (p.keeps_output) store_result(p.z, f.y, f.y_row, row, rows, column, columns);
        drop(f.y, f.y_row, row, rows, column, columns);
      }
      if (y_direct) return;
    }
    store_result(p.y, sum, sum_row, row, rows, column, columns);
  }

  // Dropout of what the result holds: half precision is rounded before it, too.
  void drop(char* tile, ptrdiff_t tile_row, int64_t row, int rows, int64_t column, int columns) const {
    if (p.y.storage != Storage::full) {
      alignas(64) char narrow[kTileVectors * sizeof(V)];
      with_storage<T>(p.y.storage, [&](auto storage) {
        for (int r = 0; r < rows; r++) {
          storage.scatter(tile + r * tile_row, columns, narrow, storage.item);
          storage.gather(narrow, storage.item, columns, tile + r * tile_row);
        }
      });
    }
    const int64_t width = p.transposed ? p.m : p.n;
    const int64_t row_step = p.transposed ? 1 : width, column_step = p.transposed ? width : 1;
    drop_tile<T>(*p.dropout, tile, tile_row, rows, columns, row * row_step + column * column_step, row_step,
                 column_step);
  }

  // A tile to a result that has no whole rows for it: another layout, or the last columns.
  void store_result(const Matrix& m, const char* tile, ptrdiff_t tile_row, int64_t row, int rows, int64_t column,
                    int columns) const {
    if (m.storage != Storage::full) {
      with_storage<T>(m.storage, [&](auto target) {
        narrow_result<decltype(target)>(m, tile, tile_row, row, rows, column, columns);
      });
      return;
    }
    if (p.transposed) {
      for (int c = 0; c < columns; c++) {
        char* to = address(m, column + c, row);
        for (int r = 0; r < rows; r++) memcpy(to + r * m.column, tile + r * tile_row + c * item, item);
      }
      return;
    }
    for (int r = 0; r < rows; r++) {
      char* to = address(m, row + r, column);
      for (int c = 0; c < columns; c += V::lanes) {
        const int n = columns - c < V::lanes ? columns - c : V::lanes;
        const V v = V::load(tile + r * tile_row + c * item);
        if (m.column == item) {
          store_partial(v, to + c * item, n);
        } else {
          scatter(v, to + c * m.column, m.column, n);
        }
      }
    }
  }
  template <class Target>
  void narrow_result(const Matrix& m, const char* tile, ptrdiff_t tile_row, int64_t row, int rows, int64_t column,
                     int columns) const {
    if (!p.transposed) {
      for (int r = 0; r < rows; r++) {
        Target::scatter(tile + r * tile_row, columns, address(m, row + r, column), m.column);
      }
      return;
    }
    alignas(64) T values[kMostRows];
    for (int c = 0; c < columns; c++) {
      for (int r = 0; r < rows; r++) memcpy(&values[r], tile + r * tile_row + c * item, item);
      Target::scatter((const char*)values, rows, address(m, column + c, row), m.column);
    }
  }
  void load_result(char* tile, ptrdiff_t tile_row, int64_t row, int rows, int64_t column, int columns) const {
    for (int r = 0; r < rows; r++) {
      for (int c = 0; c < columns; c++) {
        const char* from = p.transposed ? address(p.y, column + c, row + r) : address(p.y, row + r, column + c);
        memcpy(tile + r * tile_row + c * item, from, item);
      }
    }
  }
};

template <class T>
void multiply_few_rows(Team& team, const Product& p) {
  constexpr int unit = 4 * Native<T>::lanes;
  int row_tasks, tasks;
  share(team.threads, 0.3 * unit * (double)p.k, 0, 0, 0, 1, ceil_div(p.n, unit), row_tasks, tasks);
  const int64_t units = ceil_div(p.n, unit);
  team.run(tasks, [&](int task) {
    Plan plan = {};
    Block<T> block(p, plan, nullptr);
    const int64_t begin = units * task / tasks * unit, end = units * (task + 1) / tasks * unit;
    with_storage<T>(p.b.matrix.storage,
                    [&](auto source) { block.template few_rows<decltype(source)>(begin, end < p.n ? end : p.n); });
  });
}

// Takes its scratch before it writes a byte.
template <class T>
void multiply(Team& team, const Product& p) {
  const Plan plan = plan_product<T>(p, team.threads, team.frugal);
  const int tasks = plan.row_tasks * plan.column_tasks;
  char* scratch = plan.task_bytes() ? (char*)team.scratch(plan.task_bytes() * (size_t)tasks) : nullptr;
  const int64_t row_units = ceil_div(p.m, plan.rows_in_tile), column_units = ceil_div(p.n, kPanel<T>);
  auto bound = [](int64_t units, int64_t i, int64_t of, int64_t unit, int64_t end) {
    const int64_t at = units * i / of * unit;
    return at < end ? at : end;
  };
  team.run(tasks, [&](int task) {
    const int r = task / plan.column_tasks, c = task % plan.column_tasks;
    Block<T>(p, plan, scratch + plan.task_bytes() * (size_t)task)
        .run(bound(row_units, r, plan.row_tasks, plan.rows_in_tile, p.m),
             bound(row_units, r + 1, plan.row_tasks, plan.rows_in_tile, p.m),
             bound(column_units, c, plan.column_tasks, kPanel<T>, p.n),
             bound(column_units, c + 1, plan.column_tasks, kPanel<T>, p.n));
  });
}

}  // namespace
}  // namespace innerloop::INNERLOOP_ISA
