#include "core/norms.h"

#include "core/dispatch.h"
#include "core/errors.h"
#include "core/norms_memory.h"

namespace innerloop {
namespace {

constexpr int64_t kGrain = 16384;  // elements that one thread does in about 10 us

const RowNormKernels& typed(const RowNormFunction& norm, Dtype dtype) {
  return dtype == Dtype::f64 ? norm.f64 : norm.f32;
}

// mean and 1 / deviation of each row. rms_norm has no mean: it gets an operand that is not read.
struct RowStatistics {
  TensorView mean, rstd;
};
RowStatistics statistics_of(const RowNormFunction& norm, char* data, ptrdiff_t row, ptrdiff_t step,
                            const TensorView& rows_shape, Dtype dtype) {
  return {row_items(data, step, rows_shape, dtype),
          row_items(data + (norm.has_mean ? row : 0), step, rows_shape, dtype)};
}

}  // namespace

const RowNormFunction& find_row_norm(const std::string& name) {
  for (const RowNormFunction& f : *kernels().row_norms) {
    if (name == f.name) return f;
  }
  throw ValueError("there is no norm called '" + name + "'");
}

int64_t row_count(const TensorView& x) {
  int64_t rows = 1;
  for (int d = 0; d < x.ndim - 1; d++) rows *= x.shape[d];
  return rows;
}

void row_norm_forward(const RowNormFunction& norm, const TensorView& x, const TensorView* weight,
                      const TensorView* bias, double eps, const TensorView& y, const TensorView* saved) {
  const int axis = x.ndim - 1;
  const int64_t rows = row_count(x), length = x.shape[axis];
  const ptrdiff_t item = (ptrdiff_t)dtype_size(x.dtype);
  if (y.size() == 0) {
    if (saved) fill_items(saved->data, item, saved->size(), x.dtype, NAN);  // of no elements
    return;
  }
  Call call;
  char* kept = saved ? saved->data : take_items(call, checked_product(norm.has_mean ? 2 : 1, rows), x.dtype);
  const auto [mean, rstd] = statistics_of(norm, kept, rows * item, item, without_axis(x, axis), x.dtype);
  RowNorm work;
  // Without a mean, what the kernel says of it goes where 1 / deviation follows.
  work.rows = plan_rows<4>({{&x, true}, {&mean, false}, {&rstd, false}, {&y, true}}, axis, length);
  work.weight = contiguous_items(call, weight, length, x.dtype, 1);
  work.bias = contiguous_items(call, bias, length, x.dtype, 0);
  work.eps = eps;
  const auto loop = typed(norm, x.dtype).forward;
  run_rows(call, work.rows, [&](void* scratch, int64_t begin, int64_t end) { loop(work, scratch, begin, end); });
}

void row_norm_backward(const RowNormFunction& norm, const TensorView& dy, const TensorView& x, const TensorView& saved,
                       const TensorView* weight, const TensorView& dx, const TensorView* dweight,
                       const TensorView* dbias) {
  const int axis = x.ndim - 1;
  const int64_t rows = row_count(x), length = x.shape[axis];
  if (dx.size() == 0) {
    for (const TensorView* sum : {dweight, dbias}) {
      if (sum) fill_items(sum->data, sum->strides[0], length, x.dtype, 0);
    }
    return;
  }
  Call call;
  const auto [mean, rstd] =
      statistics_of(norm, saved.data, saved.strides[0], saved.strides[saved.ndim - 1], without_axis(x, axis), x.dtype);
  RowNormBackward work;
  work.rows =
      plan_rows<5>({{&dy, true}, {&x, true}, {&mean, false}, {&rstd, false}, {&dx, true}}, axis, length, Order::c);
  work.weight = contiguous_items(call, weight, length, x.dtype, 1);
  const RowNormKernels& kernel = typed(norm, x.dtype);
  if (dweight == nullptr && dbias == nullptr) {
    return run_rows(call, work.rows, [&](void* scratch, int64_t begin, int64_t end) {
      kernel.backward(work, scratch, begin, end, nullptr, nullptr);
    });
  }
  const int64_t unit = rows_of_block(rows, length), blocks = (rows + unit - 1) / unit;
  const ptrdiff_t pitch = (ptrdiff_t)length * (ptrdiff_t)dtype_size(x.dtype);
  char* dweights = take_items(call, checked_product(blocks, length), x.dtype);
  char* dbiases = take_items(call, checked_product(blocks, length), x.dtype);
  run_rows(
      call, work.rows,
      [&](void* scratch, int64_t begin, int64_t end) {
        for (int64_t at = begin; at < end; at += unit) {
          const ptrdiff_t place = (ptrdiff_t)(at / unit) * pitch;
          kernel.backward(work, scratch, at, at + unit < end ? at + unit : end, dweights + place, dbiases + place);
        }
      },
      unit);
  call.split(length, kGrain / blocks, [&](int64_t begin, int64_t end) {
    if (dweight) kernel.add_blocks(dweights, blocks, length, dweight->data, dweight->strides[0], begin, end);
    if (dbias) kernel.add_blocks(dbiases, blocks, length, dbias->data, dbias->strides[0], begin, end);
  });
}

}  // namespace innerloop
