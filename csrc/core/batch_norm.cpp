// batch_norm: which elements of a channel are summed together, and in which order. See Note [parts of a channel].
#include "core/activations.h"
#include "core/norms.h"
#include "core/norms_memory.h"

namespace innerloop {
namespace {

// Note [parts of a channel]
// Of an array (N, C, L), the trailing axes taken together, a channel's elements are summed in parts, and the parts in
// double. Where L >= 16, a part is the L elements of one sample, read as a row; below, rows would be mostly overhead:
// then a sample is a row of K = C L columns, and a part is what a block of samples has in one column. Which, and how
// large a block is, depends on the shape alone, so the bits do not depend on layout or threads.
constexpr int64_t kLeastRow = 16;

constexpr int64_t kGrain = 1024;  // channels, or parts of them, that one thread does in about 10 us

// t with its axes from `first` on as one. False if no stride walks over them.
bool merge_axes(const TensorView& t, int first, TensorView& merged) {
  merged = t;
  merged.ndim = first + 1;
  merged.shape[first] = 1;
  merged.strides[first] = (ptrdiff_t)dtype_size(t.dtype);
  for (int d = t.ndim - 1; d >= first; d--) {
    if (t.shape[d] == 1) continue;
    if (merged.shape[first] == 1) {
      merged.strides[first] = t.strides[d];
    } else if (t.strides[d] != merged.strides[first] * (ptrdiff_t)merged.shape[first]) {
      return false;
    }
    merged.shape[first] *= t.shape[d];
  }
  return true;
}

// One batch_norm: its layout, and the memory that it needs.
class Batch {
 public:
  Batch(const TensorView& x)
      : dtype(compute_dtype(x.dtype)),
        item((ptrdiff_t)dtype_size(dtype)),
        half(is_half(x.dtype)),
        kernel(typed(*kernels().batch_norm, x.dtype)),
        samples(x.shape[0]),
        channels(x.shape[1]) {
    for (int d = 2; d < x.ndim; d++) length *= x.shape[d];
    by_rows = length >= kLeastRow;
    columns = channels * length;
    unit = by_rows ? 1 : rows_of_block(samples, columns);
    parts = {};
    parts.inner = by_rows ? 1 : length;
    parts.outer = (samples + unit - 1) / unit;
    parts.outer_stride = by_rows ? channels : columns;
    parts.count = by_rows ? length : unit;
    parts.last_count = by_rows ? length : samples - (parts.outer - 1) * unit;
  }

  // The view with its merged axes. A view whose axes do not merge, such as x[:, :, ::2, ::2], is copied.
  TensorView flat(const TensorView& t, bool read) {
    TensorView merged;
    const int first = by_rows ? 2 : 1;
    if (merge_axes(t, first, merged)) return merged;
    const TensorView copy = contiguous_view(take_items(call, t.size(), dtype), t.dtype, t);
    if (read) activation_forward(find_activation("identity"), nullptr, t, copy);
    merge_axes(copy, first, merged);
    return merged;
  }
  // Back into a view that `flat` could not merge.
  static void unflatten(const TensorView& flat, const TensorView& t) {
    if (flat.data == t.data) return;
    activation_forward(find_activation("identity"), nullptr, contiguous_view(flat.data, t.dtype, t), t);
  }

  char* of_channels() { return take_items(call, channels, dtype); }
  char* zeros() { return contiguous_items(call, nullptr, channels, dtype, 0); }
  char* of_columns() { return take_items(call, columns, dtype); }
  char* of_parts() { return take_items(call, checked_product(parts.outer, parts.outer_stride), dtype); }

  // One T a channel as an operand of every row. The half-precision driver takes only what lies side by side.
  TensorView per_row(const void* of_channel) {
    if (!half) return row_operand(of_channel, 0);
    char* all = take_items(call, checked_product(samples, channels), dtype);
    for (int64_t n = 0; n < samples; n++) memcpy(all + n * channels * item, of_channel, (size_t)(channels * item));
    return per_part(all);
  }
  TensorView per_part(const void* of_part) const { return row_operand(of_part, (ptrdiff_t)channels * item); }
  // An element for each of the channel's columns.
  const char* expand(const void* of_channel) {
    if (length == 1) return static_cast<const char*>(of_channel);
    char* of_column = of_columns();
    for (int64_t k = 0; k < columns; k++) {
      memcpy(of_column + k * item, static_cast<const char*>(of_channel) + k / length * item, (size_t)item);
    }
    return of_column;
  }
  // u and uv of each block of rows.
  template <int Operands, class Kernel>
  void sum_columns(const RowOperand (&operands)[Operands], const char* base, char* u, char* uv, bool from_last,
                   const Kernel& sum) {
    run_over_rows<Operands>(
        call, operands, 1, columns,
        [&](const Rows<Operands>& rows, void* scratch, int64_t begin, int64_t end, int64_t first) {
          sum_blocks(unit, columns, dtype, u, uv, begin, end, first, from_last,
                     [&](int64_t from, int64_t to, char* to_u, char* to_uv) {
                       sum(rows, base, scratch, from, to, to_u, to_uv);
                     });
        },
        Order::c, unit);
  }
  template <class Piece>
  void each_channel(int64_t parts_of_it, const Piece& piece) {
    call.split(channels, kGrain / (parts_of_it > 0 ? parts_of_it : 1), piece);
  }

  void find_moments(const Channels& to) {
    each_channel(parts.outer * parts.inner,
                 [&](int64_t begin, int64_t end) { kernel.moments(parts, to.sum_0, to.sum_1, begin, end); });
  }
  void find_sums(const Channels& to) {
    each_channel(parts.outer * parts.inner,
                 [&](int64_t begin, int64_t end) { kernel.sums(parts, to.sum_0, to.sum_1, begin, end); });
  }

  Call call;
  const Dtype dtype;  // that is computed in
  const ptrdiff_t item;
  const bool half;
  const BatchNormKernels& kernel;
  const int64_t samples, channels;
  int64_t length = 1, columns, unit;
  bool by_rows;
  ChannelParts parts;

 private:
  TensorView row_operand(const void* data, ptrdiff_t sample) const {
    TensorView t;
    t.data = static_cast<char*>(const_cast<void*>(data));
    t.dtype = dtype;
    t.ndim = 2;
    t.shape[0] = samples;
    t.shape[1] = channels;
    t.strides[0] = sample;
    t.strides[1] = item;
    return t;
  }
};

void prepare_forward(Batch& batch, const Channels& channels) {
  batch.each_channel(1, [&](int64_t begin, int64_t end) { batch.kernel.prepare_forward(channels, begin, end); });
}
void prepare_backward(Batch& batch, const Channels& channels) {
  batch.each_channel(1, [&](int64_t begin, int64_t end) { batch.kernel.prepare_backward(channels, begin, end); });
}

// y = (x - base) scale + shift, each of one T a channel.
void apply_by_rows(Batch& batch, const TensorView& x, const void* base_, const void* scale_, const void* shift_,
                   const TensorView& y) {
  const TensorView base = batch.per_row(base_), scale = batch.per_row(scale_), shift = batch.per_row(shift_);
  run_over_rows<5>(batch.call, {{&x, true}, {&base, false}, {&scale, false}, {&shift, false}, {&y, true}}, 2,
                   batch.length, batch.kernel.row_forward);
}
void apply_by_columns(Batch& batch, const TensorView& x, const void* base_, const void* scale_, const void* shift_,
                      const TensorView& y) {
  const char *base = batch.expand(base_), *scale = batch.expand(scale_), *shift = batch.expand(shift_);
  run_over_rows<2>(batch.call, {{&x, true}, {&y, true}}, 1, batch.columns,
                   [&](const Rows<2>& rows, void* scratch, int64_t begin, int64_t end) {
                     batch.kernel.column_forward(rows, base, scale, shift, scratch, begin, end);
                   });
}

void forward_by_rows(Batch& batch, const Channels& channels, const TensorView& x, const TensorView& y) {
  if (channels.training) {
    char *base = batch.of_parts(), *u = batch.of_parts(), *uv = batch.of_parts();
    const TensorView vbase = batch.per_part(base), vu = batch.per_part(u), vuv = batch.per_part(uv);
    run_over_rows<4>(batch.call, {{&x, true}, {&vbase, false}, {&vu, false}, {&vuv, false}}, 2, batch.length,
                     batch.kernel.row_moments);
    batch.parts.base = base;
    batch.parts.base_stride = batch.parts.outer_stride;
    batch.parts.u = u;
    batch.parts.uv = uv;
    batch.find_moments(channels);
  }
  prepare_forward(batch, channels);
  apply_by_rows(batch, x, channels.mean, channels.scale, channels.shift, y);
}

void forward_by_columns(Batch& batch, const Channels& channels, const TensorView& x, const TensorView& y) {
  if (channels.training) {
    char *base = batch.of_columns(), *u = batch.of_parts(), *uv = batch.of_parts();
    const TensorView unused = without_axis(x, 1);
    batch.parts.base = base;
    batch.parts.u = u;
    batch.parts.uv = uv;
    // Twice through the array: its columns do not fit a cache, and their mean must be known before their variance. And
    // back, as the end of it is what the caches still hold.
    const ptrdiff_t channel = batch.length * batch.item;
    for (const bool again : {false, true}) {
      for (int64_t c = 0; c < batch.channels; c++) {
        fill_items(base + c * channel, batch.item, batch.length, batch.dtype, again ? channels.sum_0[c] : 0);
      }
      batch.sum_columns<2>({{&x, true}, {&unused, false}}, base, u, uv, again, batch.kernel.column_moments);
      batch.find_moments(channels);
    }
  }
  prepare_forward(batch, channels);
  apply_by_columns(batch, x, channels.mean, channels.scale, channels.shift, y);
}

void backward_by_rows(Batch& batch, const Channels& channels, const TensorView& dy, const TensorView& x,
                      const TensorView& dx) {
  const TensorView base = batch.per_row(channels.mean);
  if (channels.training || channels.dweight || channels.dbias) {
    char *u = batch.of_parts(), *uv = batch.of_parts();
    const TensorView vu = batch.per_part(u), vuv = batch.per_part(uv);
    run_over_rows<5>(batch.call, {{&dy, true}, {&x, true}, {&base, false}, {&vu, false}, {&vuv, false}}, 2,
                     batch.length, batch.kernel.row_gradients);
    batch.parts.base = channels.mean;
    batch.parts.u = u;
    batch.parts.uv = uv;
    batch.find_sums(channels);
  }
  prepare_backward(batch, channels);
  if (!channels.training) return apply_by_rows(batch, dy, batch.zeros(), channels.scale, batch.zeros(), dx);
  const TensorView scale = batch.per_row(channels.scale), slope = batch.per_row(channels.slope);
  const TensorView shift = batch.per_row(channels.shift);
  run_over_rows<7>(
      batch.call,
      {{&dy, true}, {&x, true}, {&base, false}, {&scale, false}, {&slope, false}, {&shift, false}, {&dx, true}}, 2,
      batch.length, batch.kernel.row_backward);
}

void backward_by_columns(Batch& batch, const Channels& channels, const TensorView& dy, const TensorView& x,
                         const TensorView& dx) {
  const char* base = batch.expand(channels.mean);
  if (channels.training || channels.dweight || channels.dbias) {
    char *u = batch.of_parts(), *uv = batch.of_parts();
    const TensorView unused = without_axis(x, 1);
    batch.sum_columns<3>({{&dy, true}, {&x, true}, {&unused, false}}, base, u, uv, true, batch.kernel.column_gradients);
    batch.parts.base = base;
    batch.parts.u = u;
    batch.parts.uv = uv;
    batch.find_sums(channels);
  }
  prepare_backward(batch, channels);
  if (!channels.training) return apply_by_columns(batch, dy, batch.zeros(), channels.scale, batch.zeros(), dx);
  const char *scale = batch.expand(channels.scale), *slope = batch.expand(channels.slope);
  const char* shift = batch.expand(channels.shift);
  run_over_rows<3>(batch.call, {{&dy, true}, {&x, true}, {&dx, true}}, 1, batch.columns,
                   [&](const Rows<3>& rows, void* scratch, int64_t begin, int64_t end) {
                     batch.kernel.column_backward(rows, base, scale, slope, shift, scratch, begin, end);
                   });
}

}  // namespace

void batch_norm_forward(const BatchNormOptions& options, const TensorView& x, const TensorView* running_mean,
                        const TensorView* running_var, const TensorView* weight, const TensorView* bias,
                        const TensorView& y, const TensorView* saved) {
  Batch batch(x);
  const auto& kernel = batch.kernel;
  const int64_t n = batch.channels;
  const bool empty = x.size() == 0;
  if (empty && options.training) {  // as in PyTorch, the running statistics stay
    if (saved) fill_items(saved->data, batch.item, saved->size(), batch.dtype, NAN);
    return;
  }

  // All memory is had before anything is written.
  Channels channels = {};
  channels.training = options.training;
  channels.count = batch.samples * batch.length;
  channels.eps = options.eps;
  channels.momentum = options.momentum;
  channels.weight = contiguous_items(batch.call, weight, n, batch.dtype, 1);
  channels.bias = contiguous_items(batch.call, bias, n, batch.dtype, 0);
  channels.sum_0 = batch.call.array<double>(n);
  channels.sum_1 = batch.call.array<double>(n);
  channels.mean = saved ? saved->data : batch.of_channels();
  channels.rstd = saved ? saved->data + n * batch.item : batch.of_channels();
  channels.scale = batch.of_channels();
  channels.shift = batch.of_channels();
  if (running_mean) {
    channels.running_mean = running_mean->data;
    channels.running_mean_stride = running_mean->strides[0];
  }
  if (running_var) {
    channels.running_var = running_var->data;
    channels.running_var_stride = running_var->strides[0];
  }
  if (empty) return prepare_forward(batch, channels);

  const TensorView fx = batch.flat(x, true), fy = batch.flat(y, false);
  if (batch.by_rows) {
    forward_by_rows(batch, channels, fx, fy);
  } else {
    forward_by_columns(batch, channels, fx, fy);
  }
  if (options.training) {
    batch.each_channel(1, [&](int64_t begin, int64_t end) { kernel.update_running(channels, begin, end); });
  }
  Batch::unflatten(fy, y);
}

void batch_norm_backward(bool training, const TensorView& dy, const TensorView& x, const TensorView& saved,
                         const TensorView* weight, const TensorView& dx, const TensorView* dweight,
                         const TensorView* dbias) {
  Batch batch(x);
  const auto& kernel = batch.kernel;
  const int64_t n = batch.channels;
  WrittenItems written_dweight(batch.call, dweight), written_dbias(batch.call, dbias);
  if (x.size() == 0) {
    for (WrittenItems* sum : {&written_dweight, &written_dbias}) {
      sum->fill(0);
      sum->finish();
    }
    return;
  }
  TensorView mean = without_axis(saved, 0), rstd = mean;
  rstd.data += saved.strides[0];
  Channels channels = {};
  channels.training = training;
  channels.count = batch.samples * batch.length;
  channels.weight = contiguous_items(batch.call, weight, n, batch.dtype, 1);
  channels.sum_0 = batch.call.array<double>(n);
  channels.sum_1 = batch.call.array<double>(n);
  channels.mean = contiguous_items(batch.call, &mean, n, batch.dtype, 0);
  channels.rstd = contiguous_items(batch.call, &rstd, n, batch.dtype, 0);
  channels.scale = batch.of_channels();
  channels.slope = batch.of_channels();
  channels.shift = batch.of_channels();
  channels.dweight = written_dweight.data;
  channels.dweight_stride = written_dweight.stride;
  channels.dbias = written_dbias.data;
  channels.dbias_stride = written_dbias.stride;

  const TensorView fdy = batch.flat(dy, true), fx = batch.flat(x, true), fdx = batch.flat(dx, false);
  if (batch.by_rows) {
    backward_by_rows(batch, channels, fdy, fx, fdx);
  } else {
    backward_by_columns(batch, channels, fdy, fx, fdx);
  }
  batch.each_channel(1, [&](int64_t begin, int64_t end) { kernel.write_gradients(channels, begin, end); });
  written_dweight.finish();
  written_dbias.finish();
  Batch::unflatten(fdx, dx);
}

}  // namespace innerloop
