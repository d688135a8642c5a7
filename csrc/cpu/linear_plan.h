// A matrix product, and the plan of it: what to pack, how to block, how to share the work. No choice made here changes
// a bit, see Note [one chain].
#pragma once

#include "cpu/linear_pack.h"
#include "cpu/linear_tile.h"

namespace innerloop::INNERLOOP_ISA {
namespace {

// A tile of finished sums, and where its activation goes.
struct Finish {
  const char* sum;  // rows of `vectors` vectors, sum_row bytes apart
  ptrdiff_t sum_row;
  int rows, vectors;
  const char* bias;  // at the tile's corner; one for each column, or for each row; or null
  bool bias_by_row;
  char* y;
  ptrdiff_t y_row;
  char* z;  // sum + bias; or null
  ptrdiff_t z_row;
  const double* parameters;
};
using Epilogue = void (*)(const Finish& finish);

// result (m x n) = epilogue(a (m x k) @ b (k x n))
struct Product {
  int64_t m, n, k;
  Factor a, b;
  const char* panels;  // b, packed as a whole; or null
  Matrix y, z;         // z.data may be null
  bool transposed;     // y and z hold the result transposed, and the bias is one for each row
  const char* bias;    // end to end, with room for a whole panel; or null
  Epilogue epilogue;   // null: the product itself is the result
  const double* parameters;
  char* column_sums;           // of b, n of them, 0 at first; or null
  bool accumulate;             // the chains go on from what y holds
  const DropoutWork* dropout;  // of the epilogue's result; or null
  bool keeps_output;           // z gets that result, before dropout
};

// A panel of b in a block of k fills the first-level cache at most, a block of a's rows takes about a third of a
// second-level cache of 512 KB, and the panels packed together 2 MB of the third. Half or twice of each costs up to 5%.
constexpr int64_t kDepthBytes = 4096;
constexpr int64_t kRowsInBlock = 72;
constexpr int64_t kPanelsInBlock = 64;
constexpr int64_t kSumsBytes = 4 << 20;   // of half precision's sums: they stay in a cache
constexpr int64_t kFewBytes = 256 << 10;  // b's panels stay in the second-level cache: run them against each tile of a
// Up to so many rows, packed panels that leave them room in the second-level cache (128 x 512 x 512 on two threads: 2%
// to 3% beside all of a thread's panels at once; more rows are slower).
constexpr int64_t kRowsBesidePanels = 256;
constexpr int64_t kBesideBytes = 192 << 10;
constexpr int64_t kNearBytes = 4 << 20;  // a weight of at most this size is taken to lie in a cache
// Rows up to which a row-major b is read where it lies: more from memory than from a cache, where packing is cheaper
// (8 x 1024 x 1024: 262 against 377 us in place).
constexpr int64_t kInPlaceRows = 8, kInPlaceRowsNear = 4;
// A row-major b read where it lies: from memory, few of its rows in long runs, as the hardware fetches them ahead by
// itself (8 rows of 1 x 4096 x 4096 on a Zen 3: 32 GB/s in runs of 8 KB, 22 in runs of 2 KB; fetching them ahead by
// instructions took off up to a third).
constexpr int64_t kInPlacePanels = 256;
constexpr int64_t in_place_depth(int64_t m, bool near) { return !near ? 8 : m <= 2 ? 256 : 16; }
// A row-major b that comes from memory, in slices: its blocks, and from which size on. 16 x 4096 x 4096 on a Zen 3: 71
// against 35 GFLOP/s; half the depth or twice the panels are slower.
constexpr int64_t kSliceDepth = 256, kSlicePanels = kPanelsAtOnce;
constexpr int64_t kSliceBytes = 1 << 20;

struct Plan {
  int row_tasks, column_tasks;
  bool a_direct, b_in_place;
  bool a_across;     // a_direct, and it is a's rows that lie end to end
  bool b_in_slices;  // see Block::run_in_slices
  int rows_in_tile;
  int64_t depth, blocks;  // of k
  int64_t panels;         // packed at a time
  int64_t row_tiles;      // of a, in a block
  size_t a_bytes, b_bytes, spare_bytes;
  size_t sums_bytes;  // of sums between blocks of k, where the result's storage cannot hold them

  template <class T>
  ptrdiff_t sums_row() const {
    return panels * kPanel<T> * (ptrdiff_t)sizeof(T) + 64;
  }
  size_t task_bytes() const { return a_bytes + b_bytes + spare_bytes + sums_bytes; }
};

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline size_t align64(size_t bytes) { return (bytes + 63) & ~(size_t)63; }

// The factor's rows have their columns end to end, a fixed step apart.
template <class T>
bool has_plain_rows(const Factor& f) {
  if (f.fused() || f.matrix.rows != nullptr || f.matrix.storage != Storage::full) return false;
  return (f.transposed ? f.matrix.row : f.matrix.column) == (ptrdiff_t)sizeof(T);
}

template <class T>
bool stores_rows(const Product& p, const Matrix& m) {
  return !p.transposed && m.rows == nullptr && m.storage == Storage::full && m.column == (ptrdiff_t)sizeof(T);
}

// A transposed factor of few steps of k is read where it lies, across its columns: the lines that a tile touches, one a
// step, then stay in the first-level cache beside a panel, unless they share few of its sets.
constexpr int64_t kAcrossDepth = 128;
template <class T>
bool reads_across(const Product& p) {
  const Matrix& m = p.a.matrix;
  return p.a.transposed && !p.a.fused() && m.rows == nullptr && m.storage == Storage::full &&
         m.column == (ptrdiff_t)sizeof(T) && m.row % 1024 != 0 && p.k <= kAcrossDepth;
}

// How many ways to split rows and columns: the cheapest for the task with the most work, in cycles, counting what
// every task packs for itself.
constexpr double kTaskCycles = 8000;  // less is not worth a task
// What a row of the result costs more where two tasks write halves of it: the hardware fetches ahead beyond a half, and
// so takes the other thread's lines from it (dw of 128 x 512 x 512 on a Zen 3: 792 us by columns, 553 by rows).
constexpr double kSplitRowCycles = 300;

// `split`: what a row unit costs more where columns are split.
inline void share(int threads, double compute, double pack_a, double pack_b, double split, int64_t row_units,
                  int64_t column_units, int& row_tasks, int& column_tasks) {
  row_tasks = column_tasks = 1;
  const double units = (double)row_units * (double)column_units;
  double best = units * compute + (double)row_units * pack_a + (double)column_units * pack_b;
  const double most = best / kTaskCycles;
  const int tasks = most < threads ? (int)most : threads;
  for (int r = 1; r <= tasks && r <= row_units; r++) {
    int64_t c = tasks / r;
    if (c > column_units) c = column_units;
    const double rows = (double)ceil_div(row_units, r), columns = (double)ceil_div(column_units, c);
    const double cost = rows * columns * compute + rows * (pack_a + (c > 1 ? split : 0)) + columns * pack_b;
    if (cost >= best) continue;
    best = cost;
    row_tasks = r;
    column_tasks = (int)c;
  }
}

template <class T>
Plan plan_product(const Product& p, int threads, size_t frugal) {
  constexpr int lanes = Native<T>::lanes;
  constexpr int64_t item = sizeof(T);
  Plan plan = {};
  const bool near = p.k * p.n * item <= kNearBytes;
  plan.b_in_place = p.panels == nullptr && p.m <= (near ? kInPlaceRowsNear : kInPlaceRows) && !p.b.fused() &&
                    !p.b.transposed && p.b.matrix.rows == nullptr && p.b.matrix.storage == Storage::full &&
                    p.b.matrix.column == item && p.column_sums == nullptr;
  plan.a_across = !has_plain_rows<T>(p.a) && !plan.b_in_place && reads_across<T>(p);
  plan.a_direct = plan.a_across || has_plain_rows<T>(p.a);
  plan.rows_in_tile = tallest(p.n < kPanel<T> ? (int)ceil_div(p.n, lanes) : kPanelVectors);
  // Rows whole pages apart share one set of the first-level cache: no more of them at once than it has room for.
  const ptrdiff_t a_row = p.a.transposed ? p.a.matrix.column : p.a.matrix.row;
  if (plan.a_direct && a_row % 4096 == 0 && plan.rows_in_tile > 8) plan.rows_in_tile = 8;
  const int64_t most = plan.b_in_place ? in_place_depth(p.m, near) : kDepthBytes / item;
  plan.blocks = p.k > most ? ceil_div(p.k, most) : 1;
  plan.depth = plan.b_in_place ? most : (ceil_div(p.k, plan.blocks) + lanes - 1) / lanes * lanes;

  const int64_t panels = ceil_div(p.n, kPanel<T>);
  const double k = (double)p.k, tile = plan.rows_in_tile;
  share(threads, tile * kPanel<T> * k / (2 * lanes),
        p.a.fused()     ? 4 * tile * k
        : plan.a_direct ? 0
                        : tile * k,
        p.b.fused()                   ? 4 * kPanel<T> * k
        : p.panels || plan.b_in_place ? 0
                                      : 0.5 * kPanel<T> * k,
        kSplitRowCycles * tile, ceil_div(p.m, plan.rows_in_tile), panels, plan.row_tasks, plan.column_tasks);

  plan.b_in_slices = !plan.b_in_place && plan.a_direct && !plan.a_across && p.panels == nullptr &&
                     has_rows_for_panels<T>(p.b) && p.column_sums == nullptr &&
                     ceil_div(p.m, plan.row_tasks) <= kRowsInBlock && p.y.storage == Storage::full &&
                     p.k * p.n * item > kSliceBytes;
  if (plan.b_in_slices) {
    plan.blocks = ceil_div(p.k, kSliceDepth);
    plan.depth = kSliceDepth;
  }
  const int64_t panel_bytes = plan.depth * kPanel<T> * item;
  const int64_t own_panels = ceil_div(panels, plan.column_tasks);
  const int64_t own_rows = ceil_div(p.m, plan.row_tasks);
  const int64_t most_panels = plan.b_in_slices ? kSlicePanels : plan.b_in_place ? kInPlacePanels : kPanelsInBlock;
  plan.panels = own_panels < most_panels ? own_panels : most_panels;
  plan.row_tiles = kRowsInBlock / plan.rows_in_tile;
  if (plan.a_direct && !plan.b_in_place && p.panels == nullptr && own_rows <= kRowsBesidePanels) {
    while (plan.panels > 1 && plan.panels * panel_bytes > kBesideBytes) plan.panels--;
  }
  if (plan.b_in_slices) {
    plan.row_tiles = kRowsInBlock;
  } else if (plan.panels * panel_bytes <= kFewBytes && !plan.b_in_place) {
    plan.row_tiles = 1;
  } else if (plan.a_direct && own_rows <= kRowsInBlock && !plan.b_in_place && p.panels == nullptr) {
    // One panel, packed and used at once; or those whose rows are packed together (row-major, 32 x 784 x 256: 97 us,
    // one by one 122; 8 x 1024 x 1024: no gain).
    const int64_t together = own_rows > kInPlaceRows && has_rows_for_panels<T>(p.b) && p.column_sums == nullptr
                                 ? kPanelsAtOnce
                                 : panels_at_once(own_rows < 3 ? (int)own_rows : 3);
    if (plan.panels > together) plan.panels = together;
  }
  // Rows are 64 bytes longer than their contents, lest a tile's rows fall into one set of the cache.
  const int64_t packed_row = plan.depth * item + 64;
  plan.a_bytes = plan.a_direct ? 0 : align64((size_t)(plan.row_tiles * plan.rows_in_tile * packed_row));
  const size_t share = frugal / (size_t)(plan.row_tasks * plan.column_tasks);
  const int64_t copies = plan.b_in_slices ? 2 : 1;  // of the panels: one is packed, one in use
  while (plan.panels > 1 && plan.a_bytes + (size_t)(copies * plan.panels * panel_bytes) > share) plan.panels /= 2;
  plan.sums_bytes = 0;
  if (plan.b_in_place) {
    // Rows of y whole pages apart would share one set of the first-level cache (8 x 4096 x 4096: 10.8 against 5.9 ms).
    plan.sums_bytes = align64((size_t)(p.m * plan.sums_row<T>()));
  } else if (p.y.storage != Storage::full && plan.blocks > 1) {
    const int64_t most_rows = ceil_div(ceil_div(p.m, plan.rows_in_tile), plan.row_tasks) * plan.rows_in_tile;
    const int64_t sums = most_rows * kPanel<T> * item;
    while (plan.panels > 1 && plan.panels * sums > kSumsBytes) plan.panels /= 2;
    plan.sums_bytes = align64((size_t)(most_rows * plan.sums_row<T>()));
  }
  const int64_t panels_held = plan.b_in_place ? 1 : copies * plan.panels;
  plan.b_bytes = p.panels ? 0 : align64((size_t)(panels_held * panel_bytes));
  const size_t spare_a = p.a.fused() ? (size_t)(plan.rows_in_tile * packed_row) : 0;
  const size_t spare_b = p.b.fused() ? (size_t)panel_bytes : 0;
  plan.spare_bytes = align64(spare_a > spare_b ? spare_a : spare_b);
  return plan;
}

}  // namespace
}  // namespace innerloop::INNERLOOP_ISA
