// Half precision: bfloat16 and float16 are how arrays lie in memory; kernels compute in float32. Here a float32 kernel
// serves any mix of storage: operands are widened into scratch a chunk at a time, which stays in the nearest cache, and
// what was written is rounded once, to the nearest.
#pragma once

#include <type_traits>

#include "core/dispatch.h"
#include "core/rows.h"

namespace innerloop {

inline const StorageKernels& storage_of(Dtype d) {
  const Storages& all = *kernels().storages;
  return d == Dtype::bf16 ? all.bf16 : d == Dtype::f16 ? all.f16 : all.f32;
}

// One operand of a walk as a walk of its own.
template <int Operands>
Walk<1> operand_of(const Walk<Operands>& walk, int op) {
  Walk<1> one;
  one.ndim = walk.ndim;
  one.data[0] = walk.data[op];
  one.stream = false;
  for (int d = 0; d < walk.ndim; d++) {
    one.shape[d] = walk.shape[d];
    one.stride[0][d] = walk.stride[op][d];
  }
  return one;
}

// A walk over contiguous memory: what a kernel sees of a chunk.
template <int Operands>
Walk<Operands> flat_walk() {
  Walk<Operands> walk;
  walk.ndim = 1;
  walk.stream = false;
  for (int op = 0; op < Operands; op++) walk.stride[op][0] = sizeof(float);
  return walk;
}

template <int Operands>
bool any_half(const TensorView* const (&views)[Operands]) {
  bool half = false;
  for (const TensorView* view : views) half |= is_half(view->dtype);
  return half;
}

// Runs loop(walk, begin, end) over arrays of one shape, split over threads in pieces of at least `grain` elements. The
// last `Outputs` are written. A loop that takes one number more is told which element of the arrays, in this order, the
// walk begins with.
template <int Operands, int Outputs = 1, class Loop>
void run_elementwise(Call& call, const TensorView* const (&views)[Operands], int64_t grain, const Loop& each,
                     Order order = Order::memory, int64_t stream = stream_bytes()) {
  auto loop = [&](const Walk<Operands>& part, int64_t begin, int64_t end, int64_t first) {
    if constexpr (std::is_invocable_v<const Loop&, const Walk<Operands>&, int64_t, int64_t, int64_t>) {
      each(part, begin, end, first);
    } else {
      each(part, begin, end);
    }
  };
  const auto walk = plan_walk<Operands>(views, stream, order);
  const int64_t size = views[Operands - 1]->size();
  if (!any_half(views)) {
    call.split(size, grain, [&](int64_t begin, int64_t end) { loop(walk, begin, end, 0); });
    return;
  }
  constexpr int64_t chunk = 1024;
  struct Operand {
    Walk<1> walk;
    const StorageKernels* storage;
  } operands[Operands];
  for (int op = 0; op < Operands; op++) operands[op] = {operand_of(walk, op), &storage_of(views[op]->dtype)};
  call.split(size, grain, [&](int64_t begin, int64_t end) {
    alignas(64) float scratch[Operands][chunk + 16];  // not a power of two apart
    auto flat = flat_walk<Operands>();
    for (int op = 0; op < Operands; op++) flat.data[op] = reinterpret_cast<char*>(scratch[op]);
    for (; begin < end; begin += chunk) {
      const int64_t stop = end - begin < chunk ? end : begin + chunk;
      for (int op = 0; op < Operands - Outputs; op++) {
        operands[op].storage->widen(operands[op].walk, begin, stop, scratch[op]);
      }
      flat.shape[0] = stop - begin;
      loop(flat, 0, stop - begin, begin);
      for (int op = Operands - Outputs; op < Operands; op++) {
        operands[op].storage->narrow(scratch[op], operands[op].walk, begin, stop);
      }
    }
  });
}

// A contiguous array in what it is computed in: of half precision, a widened copy in scratch.
inline TensorView widened(Call& call, const TensorView& t) {
  if (!is_half(t.dtype)) return t;
  float* wide = call.array<float>(t.size());
  const Walk<1> walk = walk_elements(t);
  call.split(t.size(), 65536,
             [&](int64_t begin, int64_t end) { storage_of(t.dtype).widen(walk, begin, end, wide + begin); });
  return contiguous_view(wide, Dtype::f32, t);
}
// Where a kernel is to write what `narrow_into` then rounds.
inline TensorView widened_output(Call& call, const TensorView& t) {
  return is_half(t.dtype) ? contiguous_view(call.array<float>(t.size()), Dtype::f32, t) : t;
}
inline void narrow_into(Call& call, const TensorView& wide, const TensorView& t) {
  if (!is_half(t.dtype)) return;
  const Walk<1> walk = walk_elements(t);
  const auto* from = reinterpret_cast<const float*>(wide.data);
  call.split(t.size(), 65536,
             [&](int64_t begin, int64_t end) { storage_of(t.dtype).narrow(from + begin, walk, begin, end); });
}

// Runs loop(rows, scratch, begin, end) over the rows along an axis, split over threads. Where an operand is of half
// precision, all that have the axis are widened a few rows at a time; those of one element a row must be contiguous.
// The last operand is the output. A loop that takes one number more is told which row `rows` begins with; tasks begin
// with a multiple of `unit` rows.
template <int Operands, class Loop>
void run_over_rows(Call& call, const RowOperand (&operands)[Operands], int axis, int64_t length, const Loop& each,
                   Order order = Order::memory, int64_t unit = 1) {
  auto loop = [&](const Rows<Operands>& rows, void* scratch, int64_t begin, int64_t end, int64_t first) {
    if constexpr (std::is_invocable_v<const Loop&, const Rows<Operands>&, void*, int64_t, int64_t, int64_t>) {
      each(rows, scratch, begin, end, first);
    } else {
      each(rows, scratch, begin, end);
    }
  };
  constexpr int out = Operands - 1;
  bool half = false;
  for (const RowOperand& operand : operands) half |= is_half(operand.view->dtype);
  if (!half) {
    const auto rows = plan_rows<Operands>(operands, axis, length, order);
    run_rows(call, rows, [&](void* scratch, int64_t begin, int64_t end) { loop(rows, scratch, begin, end, 0); }, unit);
    return;
  }
  if (length > kLongestRow) throw std::bad_alloc();
  constexpr int64_t chunk = 16384;  // elements of an operand: 64 KiB, so that a few fit the second-level cache
  const int64_t fitting = length < chunk ? chunk / length : 1, at_once = (fitting + unit - 1) / unit * unit;
  const size_t pitch = ((size_t)(at_once * length) * sizeof(float) + 63) / 64 * 64 + 64;
  Walk<1> walks[Operands];
  size_t bytes = tops_bytes(length);
  for (int op = 0; op < Operands; op++) {
    if (!operands[op].whole) continue;
    walks[op] = walk_rows(*operands[op].view, axis);
    bytes += pitch;
  }
  int64_t count = 1;
  for (int d = 0; d < operands[0].view->ndim; d++) count *= d == axis ? 1 : operands[0].view->shape[d];
  split_rows(
      call, count, length, bytes,
      [&](char* scratch, int64_t begin, int64_t end) {
        for (; begin < end; begin += at_once) {
          const int64_t stop = end - begin < at_once ? end : begin + at_once;
          Rows<Operands> rows = {};
          rows.walk.ndim = 1;
          rows.walk.shape[0] = stop - begin;
          rows.length = length;
          rows.block = kRowsAtOnce;
          char* free = scratch + tops_bytes(length);
          for (int op = 0; op < Operands; op++) {
            const TensorView& view = *operands[op].view;
            rows.step[op] = operands[op].whole ? (ptrdiff_t)sizeof(float) : (ptrdiff_t)dtype_size(view.dtype);
            rows.walk.stride[op][0] = operands[op].whole ? rows.step[op] * (ptrdiff_t)length : rows.step[op];
            if (!operands[op].whole) {
              rows.walk.data[op] = view.data + begin * rows.step[op];
              continue;
            }
            rows.walk.data[op] = free;
            if (op != out) {
              storage_of(view.dtype).widen(walks[op], begin * length, stop * length, reinterpret_cast<float*>(free));
            }
            free += pitch;
          }
          loop(rows, scratch, 0, stop - begin, begin);
          if (!operands[out].whole) continue;
          storage_of(operands[out].view->dtype)
              .narrow(reinterpret_cast<float*>(rows.walk.data[out]), walks[out], begin * length, stop * length);
        }
      },
      unit);
}

}  // namespace innerloop
