// How a body over rows is launched: by which of rows.h's ways, and with how many threads a row.
#pragma once

#include "cuda/launch.h"
#include "cuda/rows.h"

namespace innerloop::cuda {

// Whether all addresses, null or not, are as far from a multiple of 16 as the first.
inline bool in_step(std::initializer_list<const char*> arrays) {
  const uintptr_t first = reinterpret_cast<uintptr_t>(*arrays.begin()) % 16;
  for (const char* array : arrays) {
    if (array != nullptr && reinterpret_cast<uintptr_t>(array) % 16 != first) return false;
  }
  return true;
}

// make(plan, tag) -> the body for S and one of the ways of rows.h; there is a row. Without inputs the body only writes.
template <class S, int Inputs, class Make>
int launch_rows(const Queue& queue, const RowShape& shape, bool in_step, const Make& make) {
  RowPlan plan = {shape, shape.outer * shape.inner, 0, in_step, 0};
  const int64_t most = (int64_t)queue.processors * 16;
  auto blocks = [&](int64_t at_once) {
    const int64_t wanted = (plan.rows + at_once - 1) / at_once;
    return wanted < most ? wanted : most;
  };
  if (shape.inner > 1) {
    // Eight threads a row where there are too few rows to keep every processor busy, or a thread would be at it long.
    if (shape.length > 256 || (shape.length > 32 && plan.rows < (int64_t)queue.processors * 1024)) plan.shift = 3;
    return launch<AcrossRows::threads>(queue, blocks(AcrossRows::threads >> plan.shift), make(plan, AcrossRows()),
                                       kAcrossBytes);
  }
  constexpr int N = 16 / sizeof(S), at_a_time = Inputs > 0 ? kPiecesAtOnce / Inputs : kPiecesAtOnce;
  const int64_t pieces = (shape.length + 2 * N - 2) / N;  // at most, wherever the row begins
  if (pieces <= kWarp * at_a_time) {
    while (plan.shift < 5 && pieces > 2 << plan.shift) plan.shift++;
    return launch<LanesARow::threads>(queue, blocks(LanesARow::threads >> plan.shift), make(plan, LanesARow()));
  }
  static_assert(BlockARow::threads == 512);
  plan.shift = 9;
  const size_t room = (size_t)queue.shared_memory < kMostKept ? (size_t)queue.shared_memory : kMostKept;
  if constexpr (Inputs > 0) plan.kept = (int64_t)(room / 16 / Inputs);
  if (pieces < plan.kept) plan.kept = pieces;
  // What is read again should still be in the L2: one row for each processor is 34 MB of 128k float16.
  int64_t rows_at_once = blocks(1);
  if (Inputs > 0 && pieces > plan.kept && rows_at_once > queue.processors) rows_at_once = queue.processors;
  const auto body = make(plan, BlockARow());
  return launch<BlockARow::threads, decltype(body)::together>(queue, rows_at_once, body,
                                                              (size_t)plan.kept * Inputs * 16);
}

}  // namespace innerloop::cuda
