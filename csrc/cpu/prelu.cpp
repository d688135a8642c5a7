// prelu: the slope is one more operand, and its gradient a sum along each channel.
#include "rules/prelu.h"

#include "cpu/rows.h"
#include "cpu/tables.h"

namespace innerloop::INNERLOOP_ISA {
namespace {

template <class T>
struct Loops {
  using V = Native<T>;
  using L = Lanes<V>;

  static void forward(const Walk<3>& x_slope_y, int64_t begin, int64_t end) {
    map<T, 1>(x_slope_y, begin, end, [](V x, V slope) { return Prelu::forward(x, slope); });
  }
  static void backward(const Walk<4>& dy_x_slope_dx, int64_t begin, int64_t end) {
    map<T, 2>(dy_x_slope_dx, begin, end, [](V dy, V x, V slope) { return Prelu::backward(x, slope, dy); });
  }

  static T sum_block(const char* dy, const char* x, int64_t n) {
    L total(0);
    for_lanes(0, n, [&](int64_t i, int count) INNERLOOP_INLINE {
      const L a = Row<T>::load(dy, i, count), b = Row<T>::load(x, i, count);
      for (int part = 0; part < L::parts; part++) {
        total.part[part] = total.part[part] + Prelu::slope_term(b.part[part], a.part[part]);
      }
    });
    return sum(total);
  }

  // Piece number u is block u / groups of the elements of each channel in group u % groups.
  static void slope_sums(const SlopeSums& work, void* memory, int64_t begin, int64_t end) {
    constexpr ptrdiff_t item = sizeof(T), row = kSlopePitch * item;
    const int64_t groups = (work.channels + kRowsAtOnce - 1) / kRowsAtOnce;
    const int last = work.dy_x.ndim - 1;
    char* const scratch[2] = {(char*)memory, (char*)memory + kRowsAtOnce * row};
    for (int64_t piece = begin; piece < end; piece++) {
      const int64_t block = piece / groups, first = piece % groups * kRowsAtOnce;
      const int64_t from = block * kSlopeBlock;
      const int64_t length = work.length - from < kSlopeBlock ? work.length - from : kSlopeBlock;
      const int channels = (int)(work.channels - first < kRowsAtOnce ? work.channels - first : kRowsAtOnce);
      const char* base[2] = {scratch[0], scratch[1]};
      ptrdiff_t pitch[2] = {row, row};
      int64_t done = 0;
      for_rows(work.dy_x, from, from + length, [&](char* const* p, int64_t n) {
        for (int op = 0; op < 2; op++) {
          const ptrdiff_t step = work.dy_x.stride[op][last], channel = work.channel[op];
          const char* source = p[op] + first * channel;
          char* target = scratch[op] + done * item;
          if (n == length && step == item) {  // the whole block lies as it should
            base[op] = source;
            pitch[op] = channel;
          } else if (step == item) {
            for (int c = 0; c < channels; c++) memcpy(target + c * row, source + c * channel, (size_t)(n * item));
          } else {
            copy_rows<T>(source, channel, step, target, row, item, channels, n, across(channel, step));
          }
        }
        done += n;
      });
      for (int c = 0; c < channels; c++) {
        static_cast<T*>(work.sums)[block * work.channels + first + c] =
            sum_block(base[0] + c * pitch[0], base[1] + c * pitch[1], length);
      }
    }
  }

  static constexpr PreluKernels kernels = {forward, backward, slope_sums};
};

}  // namespace

const ByDtype<PreluKernels> prelu = {Loops<float>::kernels, Loops<double>::kernels};

}  // namespace innerloop::INNERLOOP_ISA
