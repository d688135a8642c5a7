// batch_norm: sums over parts of a channel, their reduction, and the loops that apply what came of it.
#include "cpu/moments.h"
#include "cpu/tables.h"
#include "rules/norms.h"

namespace innerloop::INNERLOOP_ISA {
namespace {

template <class T>
struct Loops {
  using L = Lanes<Native<T>>;
  using At = Row<T>;

  static HD T read(const void* p, int64_t i = 0) {
    T value;
    memcpy(&value, (const char*)p + i * (int64_t)sizeof(T), sizeof value);
    return value;
  }
  static HD void write(void* p, T value, ptrdiff_t offset = 0) { memcpy((char*)p + offset, &value, sizeof value); }

  // --- a row is elements of one channel ---

  static void row_moments(const Rows<4>& rows, void* memory, int64_t begin, int64_t end) {
    const Scratch<T> scratch(memory, rows.length);
    for_blocks<T>(rows, scratch.rows, begin, end, [&](const Block<4>& block, int count) {
      for (int r = 0; r < count; r++) {
        const char* x = block.row(0, r);
        const T base = sum_of_row<T>(x, rows.length) / (T)rows.length;
        const Sums<T> sums = moments_of_row(x, base, rows.length);
        write(block.row(1, r), base);
        write(block.row(2, r), sums.u);
        write(block.row(3, r), sums.uv);
      }
    });
  }

  static void row_gradients(const Rows<5>& rows, void* memory, int64_t begin, int64_t end) {
    const Scratch<T> scratch(memory, rows.length);
    for_blocks<T>(rows, scratch.rows, begin, end, [&](const Block<5>& block, int count) {
      for (int r = 0; r < count; r++) {
        const char *dy = block.row(0, r), *x = block.row(1, r);
        const L base(read(block.row(2, r)));
        const Sums<T> sums = sums_of_row<T>(
            rows.length, [&](int64_t i, int n) INNERLOOP_INLINE { return At::load(dy, i, n); },
            [&](int64_t i, int n) INNERLOOP_INLINE { return At::load(x, i, n) - base; });
        write(block.row(3, r), sums.u);
        write(block.row(4, r), sums.uv);
      }
    });
  }

  static void row_forward(const Rows<5>& rows, void* memory, int64_t begin, int64_t end) {
    const Scratch<T> scratch(memory, rows.length);
    for_blocks<T>(rows, scratch.rows, begin, end, [&](const Block<5>& block, int count) {
      for (int r = 0; r < count; r++) {
        const char* x = block.row(0, r);
        char* y = block.row(4, r);
        const L base(read(block.row(1, r))), scale(read(block.row(2, r))), shift(read(block.row(3, r)));
        for_lanes(0, rows.length, [&](int64_t i, int n) INNERLOOP_INLINE {
          At::store(fma(At::load(x, i, n) - base, scale, shift), y, i, n);
        });
      }
    });
  }

  static void row_backward(const Rows<7>& rows, void* memory, int64_t begin, int64_t end) {
    const Scratch<T> scratch(memory, rows.length);
    for_blocks<T>(rows, scratch.rows, begin, end, [&](const Block<7>& block, int count) {
      for (int r = 0; r < count; r++) {
        const char *dy = block.row(0, r), *x = block.row(1, r);
        char* dx = block.row(6, r);
        const L base(read(block.row(2, r))), scale(read(block.row(3, r)));
        const L slope(read(block.row(4, r))), shift(read(block.row(5, r)));
        for_lanes(0, rows.length, [&](int64_t i, int n) INNERLOOP_INLINE {
          At::store(fma(At::load(x, i, n) - base, slope, fma(At::load(dy, i, n), scale, shift)), dx, i, n);
        });
      }
    });
  }

  // --- a row is one element, or a few, of every channel ---

  // get_u and get_v: (block, r, i, n, base) of row r. The sums run down the rows in their order, whatever the block.
  template <int Operands, class U, class V>
  static HD void column_sums(const Rows<Operands>& rows, const void* base, void* memory, int64_t begin, int64_t end,
                             void* u, void* uv, const U& get_u, const V& get_v) {
    const Scratch<T> scratch(memory, rows.length);
    for_blocks<T>(rows, scratch.rows, begin, end, [&](const Block<Operands>& block, int count) {
      for_lanes(0, rows.length, [&](int64_t i, int n) INNERLOOP_INLINE {
        const L from = At::load((const char*)base, i, n);
        L sum_u = At::load((const char*)u, i, n), sum_uv = At::load((const char*)uv, i, n);
        for (int r = 0; r < count; r++) {
          const L here = get_u(block, r, i, n, from);
          sum_u = sum_u + here;
          sum_uv = fma(here, get_v(block, r, i, n, from), sum_uv);
        }
        At::store(sum_u, (char*)u, i, n);
        At::store(sum_uv, (char*)uv, i, n);
      });
    });
  }

  static void column_moments(const Rows<2>& rows, const void* base, void* memory, int64_t begin, int64_t end, void* u,
                             void* uv) {
    auto d = [](const Block<2>& block, int r, int64_t i, int n, const L& from)
                 INNERLOOP_INLINE { return At::load(block.row(0, r), i, n) - from; };
    column_sums(rows, base, memory, begin, end, u, uv, d, d);
  }

  static void column_gradients(const Rows<3>& rows, const void* base, void* memory, int64_t begin, int64_t end, void* u,
                               void* uv) {
    column_sums(
        rows, base, memory, begin, end, u, uv,
        [](const Block<3>& block, int r, int64_t i, int n, const L&)
            INNERLOOP_INLINE { return At::load(block.row(0, r), i, n); },
        [](const Block<3>& block, int r, int64_t i, int n, const L& from)
            INNERLOOP_INLINE { return At::load(block.row(1, r), i, n) - from; });
  }

  static void column_forward(const Rows<2>& rows, const void* base, const void* scale, const void* shift, void* memory,
                             int64_t begin, int64_t end) {
    const Scratch<T> scratch(memory, rows.length);
    for_blocks<T>(rows, scratch.rows, begin, end, [&](const Block<2>& block, int count) {
      for_lanes(0, rows.length, [&](int64_t i, int n) INNERLOOP_INLINE {
        const L from = At::load((const char*)base, i, n);
        const L factor = At::load((const char*)scale, i, n), plus = At::load((const char*)shift, i, n);
        for (int r = 0; r < count; r++) {
          At::store(fma(At::load(block.row(0, r), i, n) - from, factor, plus), block.row(1, r), i, n);
        }
      });
    });
  }

  static void column_backward(const Rows<3>& rows, const void* base, const void* scale, const void* slope,
                              const void* shift, void* memory, int64_t begin, int64_t end) {
    const Scratch<T> scratch(memory, rows.length);
    for_blocks<T>(rows, scratch.rows, begin, end, [&](const Block<3>& block, int count) {
      for_lanes(0, rows.length, [&](int64_t i, int n) INNERLOOP_INLINE {
        const L from = At::load((const char*)base, i, n), factor = At::load((const char*)scale, i, n);
        const L tilt = At::load((const char*)slope, i, n), plus = At::load((const char*)shift, i, n);
        for (int r = 0; r < count; r++) {
          const L dy = At::load(block.row(0, r), i, n), x = At::load(block.row(1, r), i, n);
          At::store(fma(x - from, tilt, fma(dy, factor, plus)), block.row(2, r), i, n);
        }
      });
    });
  }

  // --- channels: in double, so that neither their number of parts nor a large mean costs digits ---

  // f(o, i, count, element) for every part of channel c.
  template <class F>
  static HD void for_parts(const ChannelParts& parts, int64_t c, const F& f) {
    for (int64_t o = 0; o < parts.outer; o++) {
      const double count = (double)(o + 1 < parts.outer ? parts.count : parts.last_count);
      for (int64_t i = c * parts.inner; i < (c + 1) * parts.inner; i++) {
        f(count, (double)read(parts.base, o * parts.base_stride + i), (double)read(parts.u, o * parts.outer_stride + i),
          (double)read(parts.uv, o * parts.outer_stride + i));
      }
    }
  }

  static void moments(const ChannelParts& parts, double* mean, double* squares, int64_t begin, int64_t end) {
    using V = Native<double>;
    for (int64_t c = begin; c < end; c++) {
      double count = 0, total = 0, within = 0, between = 0;
      for_parts(parts, c, [&](double n, double base, double u, double uv) INNERLOOP_INLINE {
        count += n;
        total += base * n + u;
        within += squared_deviations(V(u), V(uv), V(n))[0];
      });
      mean[c] = total / count;
      for_parts(parts, c, [&](double n, double base, double u, double) INNERLOOP_INLINE {
        const double off = (base - mean[c]) + u / n;
        between += off * off * n;
      });
      squares[c] = within + between;
    }
  }

  static void sums(const ChannelParts& parts, double* u, double* uv, int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; c++) {
      double total = 0, product = 0;
      for_parts(parts, c, [&](double, double, double part, double part_uv) INNERLOOP_INLINE {
        total += part;
        product += part_uv;
      });
      u[c] = total;
      uv[c] = product;
    }
  }

  static void prepare_forward(const Channels& channels, int64_t begin, int64_t end) {
    using V = Native<double>;
    const ptrdiff_t size = sizeof(T);
    for (int64_t c = begin; c < end; c++) {
      double mean, variance;
      if (channels.training) {
        mean = channels.sum_0[c];
        variance = channels.sum_1[c] / (double)channels.count;
      } else {
        mean = read(channels.running_mean + c * channels.running_mean_stride);
        variance = read(channels.running_var + c * channels.running_var_stride);
      }
      const T base = (T)mean;
      const double rstd = reciprocal_deviation(V(variance), V(channels.eps))[0];
      const auto f = BatchNorm::forward(mean, base, rstd, read(channels.weight, c), read(channels.bias, c));
      write(channels.mean, base, c * size);
      write(channels.rstd, (T)rstd, c * size);
      write(channels.scale, (T)f.scale, c * size);
      write(channels.shift, (T)f.shift, c * size);
    }
  }

  static void update_running(const Channels& channels, int64_t begin, int64_t end) {
    auto update = [&](char* p, double now) {
      if (p) write(p, (T)BatchNorm::running(read(p), now, channels.momentum));
    };
    for (int64_t c = begin; c < end; c++) {
      update(channels.running_mean + c * channels.running_mean_stride, channels.sum_0[c]);
      update(channels.running_var + c * channels.running_var_stride, channels.sum_1[c] / (double)(channels.count - 1));
    }
  }

  static void prepare_backward(const Channels& channels, int64_t begin, int64_t end) {
    const ptrdiff_t size = sizeof(T);
    for (int64_t c = begin; c < end; c++) {
      const auto b = BatchNorm::backward(channels.sum_0[c], channels.sum_1[c], (double)channels.count,
                                         read(channels.rstd, c), read(channels.weight, c));
      write(channels.scale, (T)b.scale, c * size);
      write(channels.slope, (T)b.slope, c * size);
      write(channels.shift, (T)b.shift, c * size);
    }
  }

  static void write_gradients(const Channels& channels, int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; c++) {
      const double dweight = BatchNorm::dweight(channels.sum_1[c], read(channels.rstd, c));
      if (channels.dweight) write(channels.dweight, (T)dweight, c * channels.dweight_stride);
      if (channels.dbias) write(channels.dbias, (T)channels.sum_0[c], c * channels.dbias_stride);
    }
  }

  static constexpr BatchNormKernels kernels = {
      row_moments,     row_gradients, row_forward, row_backward,    column_moments, column_gradients, column_forward,
      column_backward, moments,       sums,        prepare_forward, update_running, prepare_backward, write_gradients};
};

}  // namespace

const ByDtype<BatchNormKernels> batch_norm = {Loops<float>::kernels, Loops<double>::kernels};

}  // namespace innerloop::INNERLOOP_ISA
