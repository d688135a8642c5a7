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

  // f(r, n) for n rows from r on. In the caches four at once take half the time of 16, which are 16 streams (inference
  // of 2048 x 512: 127 us, 250).
  static constexpr int few_rows = 4;
  template <class F>
  static HD void few_at_once(int count, const F& f) {
    int r = 0;
    for (; r + few_rows <= count; r += few_rows) f(r, std::integral_constant<int, few_rows>());
    for (; r < count; r++) f(r, std::integral_constant<int, 1>());
  }
  // Asks for what the next few rows read: hardware follows each stream anew, for one row at a time.
  template <int Operands>
  static HD void fetch_next(const Block<Operands>& block, int r, int64_t i) {
    for (int op = 0; op < Operands - 1; op++) {
      const char* next = block.row(op, r + few_rows) + i * (int64_t)sizeof(T);
      for (size_t line = 0; line < sizeof(L); line += 64) prefetch(next + line);
    }
  }

  // get_u and get_v: (block, r, i, n, base) of row r. The sums run down the rows in their order, whatever the block.
  template <int Operands, class U, class V>
  static HD void column_sums(const Rows<Operands>& rows, const void* base, void* memory, int64_t begin, int64_t end,
                             void* u, void* uv, const U& get_u, const V& get_v) {
    const Scratch<T> scratch(memory, rows.length);
    for_blocks<T>(rows, scratch.rows, begin, end, [&](const Block<Operands>& block, int count) {
      few_at_once(count, [&](int first, auto few) INNERLOOP_INLINE {
        for_lanes(0, rows.length, [&](int64_t i, int n) INNERLOOP_INLINE {
          const L from = At::load((const char*)base, i, n);
          L sum_u = At::load((const char*)u, i, n), sum_uv = At::load((const char*)uv, i, n);
          for (int r = first; r < first + few(); r++) {
            fetch_next(block, r, i);
            const L here = get_u(block, r, i, n, from);
            sum_u = sum_u + here;
            sum_uv = fma(here, get_v(block, r, i, n, from), sum_uv);
          }
          At::store(sum_u, (char*)u, i, n);
          At::store(sum_uv, (char*)uv, i, n);
        });
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
      few_at_once(count, [&](int first, auto few) INNERLOOP_INLINE {
        for_lanes(0, rows.length, [&](int64_t i, int n) INNERLOOP_INLINE {
          const L from = At::load((const char*)base, i, n);
          const L factor = At::load((const char*)scale, i, n), plus = At::load((const char*)shift, i, n);
          for (int r = first; r < first + few(); r++) {
            fetch_next(block, r, i);
            At::store(fma(At::load(block.row(0, r), i, n) - from, factor, plus), block.row(1, r), i, n);
          }
        });
      });
    });
  }

  static void column_backward(const Rows<3>& rows, const void* base, const void* scale, const void* slope,
                              const void* shift, void* memory, int64_t begin, int64_t end) {
    const Scratch<T> scratch(memory, rows.length);
    for_blocks<T>(rows, scratch.rows, begin, end, [&](const Block<3>& block, int count) {
      few_at_once(count, [&](int first, auto few) INNERLOOP_INLINE {
        for_lanes(0, rows.length, [&](int64_t i, int n) INNERLOOP_INLINE {
          const L from = At::load((const char*)base, i, n), factor = At::load((const char*)scale, i, n);
          const L tilt = At::load((const char*)slope, i, n), plus = At::load((const char*)shift, i, n);
          for (int r = first; r < first + few(); r++) {
            fetch_next(block, r, i);
            const L dy = At::load(block.row(0, r), i, n), x = At::load(block.row(1, r), i, n);
            At::store(fma(x - from, tilt, fma(dy, factor, plus)), block.row(2, r), i, n);
          }
        });
      });
    });
  }

  // --- channels: in double, so that neither their number of parts nor a large mean costs digits ---

  // Neighbours are done together: one by one, their parts, a row apart, would come from the second-level cache again
  // for each channel (512 channels of 64 parts: 0.4 ms of 1.6).
  using Wide = Lanes<Native<double>>;

  // The elements p[0], p[step] ...: `n` of them, and the last again.
  static HD Wide read_lanes(const void* p, int64_t step, int n) {
    double lane[Wide::count];
    if (step == 1 && n == Wide::count) {
      for (int k = 0; k < Wide::count; k++) lane[k] = (double)read(p, k);
    } else {
      for (int k = 0; k < Wide::count; k++) lane[k] = (double)read(p, (k < n ? k : n - 1) * step);
    }
    return Wide::load((const char*)lane);
  }

  // f(count, base, u, uv) for each part of channel c and the n - 1 after it.
  template <class F>
  static HD void for_parts(const ChannelParts& parts, int64_t c, int n, const F& f) {
    for (int64_t o = 0; o < parts.outer; o++) {
      const Wide count((double)(o + 1 < parts.outer ? parts.count : parts.last_count));
      for (int64_t i = c * parts.inner; i < (c + 1) * parts.inner; i++) {
        const auto at = [&](const void* p, int64_t stride)
                            INNERLOOP_INLINE { return read_lanes((const T*)p + o * stride + i, parts.inner, n); };
        f(count, at(parts.base, parts.base_stride), at(parts.u, parts.outer_stride), at(parts.uv, parts.outer_stride));
      }
    }
  }

  // f(c, n) for each n channels from c on.
  template <class F>
  static HD void for_channels(int64_t begin, int64_t end, const F& f) {
    for (int64_t c = begin; c < end; c += Wide::count) f(c, end - c < Wide::count ? (int)(end - c) : Wide::count);
  }

  static void moments(const ChannelParts& parts, double* mean, double* squares, int64_t begin, int64_t end) {
    for_channels(begin, end, [&](int64_t c, int channels) INNERLOOP_INLINE {
      Wide count(0), total(0), within(0), between(0);
      for_parts(parts, c, channels, [&](Wide n, Wide base, Wide u, Wide uv) INNERLOOP_INLINE {
        count = count + n;
        total = total + (base * n + u);
        for (int p = 0; p < Wide::parts; p++) {
          within.part[p] = within.part[p] + squared_deviations(u.part[p], uv.part[p], n.part[p]);
        }
      });
      const Wide middle = total / count;
      for_parts(parts, c, channels, [&](Wide n, Wide base, Wide u, Wide) INNERLOOP_INLINE {
        const Wide off = (base - middle) + u / n;
        between = between + off * off * n;
      });
      middle.store_first((char*)(mean + c), channels);
      (within + between).store_first((char*)(squares + c), channels);
    });
  }

  static void sums(const ChannelParts& parts, double* u, double* uv, int64_t begin, int64_t end) {
    for_channels(begin, end, [&](int64_t c, int channels) INNERLOOP_INLINE {
      Wide total(0), product(0);
      for_parts(parts, c, channels, [&](Wide, Wide, Wide part, Wide part_uv) INNERLOOP_INLINE {
        total = total + part;
        product = product + part_uv;
      });
      total.store_first((char*)(u + c), channels);
      product.store_first((char*)(uv + c), channels);
    });
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
