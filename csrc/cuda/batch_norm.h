// The bodies of batch_norm over (samples, channels, inner), grown from rules/norms.h: sums over each channel, in double
// what is known of a channel, and elementwise what comes of it.
#pragma once

#include "cuda/channels.h"
#include "cuda/list.h"
#include "rules/norms.h"

namespace innerloop::INNERLOOP_ISA {

// What the elementwise part reads: one number a channel each, y = (x - base) scale + shift; dx = (x - base) slope + dy
// scale + shift in training, dx = dy scale without.
template <class T>
struct ChannelNumbers {
  T *base, *scale, *shift, *slope;
};

// Of the forward pass: a channel's moments in training; without, the running statistics take their place.
template <class S>
struct BatchMoments {
  using V = typename ComputedAs<S>::type;
  using T = typename V::scalar;
  static constexpr int inputs = 1, outputs = 0, quantities = 2;
  static constexpr bool moments = true;
  BatchNormArrays a;
  ChannelShape shape;
  ChannelNumbers<T> to;

  HD int number(int64_t) const { return 0; }
  HD double elements() const { return (double)(shape.samples * shape.inner); }
  HD double count_of(int64_t part) const { return shape.template count<S>(part); }

  HD void operator()(int64_t c, const double* mean_squares) const {
    const T* const of_channel[2] = {reinterpret_cast<T*>(a.running_mean), reinterpret_cast<T*>(a.running_var)};
    const double n = elements(), squares = mean_squares[1];
    const double mean = a.training ? mean_squares[0] : (double)of_channel[0][c];
    const double variance = a.training ? squares / n : (double)of_channel[1][c];
    const T base = (T)mean;
    const double rstd = reciprocal_deviation(Vec<double, 1>(variance), Vec<double, 1>(a.eps)).v;
    const double w = a.weight ? (double)load_one<S>(a.weight, c).v : 1,
                 b = a.bias ? (double)load_one<S>(a.bias, c).v : 0;
    const auto f = BatchNorm::forward(mean, base, rstd, w, b);
    to.base[c] = base;
    to.scale[c] = (T)f.scale;
    to.shift[c] = (T)f.shift;
    if (a.saved != nullptr) {
      T* const saved = reinterpret_cast<T*>(a.saved);
      saved[c] = base;
      saved[shape.channels + c] = (T)rstd;
    }
    if (!a.training) return;
    const double now[2] = {mean, squares / (n - 1)};
    for (int i = 0; i < 2; i++) {
      T* const running = reinterpret_cast<T*>(i == 0 ? a.running_mean : a.running_var);
      if (running != nullptr) running[c] = (T)BatchNorm::running((double)running[c], now[i], a.momentum);
    }
  }
};

// Of the backward pass: a channel's sums of dy and of dy (x - mean).
template <class S>
struct BatchGradients {
  using V = typename ComputedAs<S>::type;
  using T = typename V::scalar;
  static constexpr int inputs = 2, outputs = 0, quantities = 2;
  static constexpr bool moments = false;
  BatchNormArrays a;
  ChannelShape shape;
  ChannelNumbers<T> to;

  HD V number(int64_t c) const { return V(reinterpret_cast<const T*>(a.saved)[c]); }
  HD void term(const V* dy_x, V mean, V* sum, V*) const {
    sum[0] = sum[0] + dy_x[0];
    sum[1] = fma(dy_x[0], dy_x[1] - mean, sum[1]);
  }
  HD void operator()(int64_t c, const double* sums) const {
    const T* const saved = reinterpret_cast<const T*>(a.saved);
    const double rstd = (double)saved[shape.channels + c], w = a.weight ? (double)load_one<S>(a.weight, c).v : 1;
    const auto b = BatchNorm::backward(sums[0], sums[1], (double)(shape.samples * shape.inner), rstd, w);
    to.base[c] = saved[c];
    to.scale[c] = (T)b.scale;
    to.slope[c] = (T)b.slope;
    to.shift[c] = (T)b.shift;
    if (a.dweight != nullptr) store_one<S>(V((T)BatchNorm::dweight(sums[1], rstd)), a.dweight, c);
    if (a.dbias != nullptr) store_one<S>(V((T)sums[0]), a.dbias, c);
  }
};

// finish(c) for each channel, where nothing is summed.
template <class Finish>
struct EachChannel {
  Finish finish;
  HD void operator()(const Block& block) const {
    const Thread thread = block.thread();
    const double none[2] = {0, 0};
    for (int64_t c = thread.index; c < finish.shape.channels; c += thread.count) finish(c, none);
  }
};

// The elementwise part. The output may be any input.
template <class S, bool backward>
struct BatchApply {
  using V = typename ComputedAs<S>::type;
  using T = typename V::scalar;
  const char *dy, *x;  // x is null in the backward pass without training
  char* out;
  int64_t size;
  bool aligned;
  Cycle channel_of;
  ChannelNumbers<T> numbers;

  HD void operator()(const Block& block) const {
    constexpr int N = kPiece<S>;
    const Thread thread = block.thread();
    const auto of_channel = [&](const T* p, int64_t first, V* number) {
      channel_of.load<T, N>(reinterpret_cast<const char*>(p), first, true, number);
    };
    for (int64_t first = thread.index * N; first < size; first += thread.count * N) {
      const int count = fewer(size - first, N);
      const int64_t at = first * (int64_t)sizeof(S);
      V v[N], base[N], scale[N], shift[N], of_y[N], slope[N];
      if (!backward || x != nullptr) {
        load_run<S, N>(x + at, aligned, count, v);
        of_channel(numbers.base, first, base);
        of_channel(numbers.shift, first, shift);
      }
      of_channel(numbers.scale, first, scale);
      if constexpr (backward) {
        load_run<S, N>(dy + at, aligned, count, of_y);
        if (x != nullptr) of_channel(numbers.slope, first, slope);
      }
      INNERLOOP_UNROLL
      for (int j = 0; j < N; j++) {
        if constexpr (!backward) {
          v[j] = fma(v[j] - base[j], scale[j], shift[j]);
        } else if (x != nullptr) {
          v[j] = fma(v[j] - base[j], slope[j], fma(of_y[j], scale[j], shift[j]));
        } else {
          v[j] = fma(of_y[j], scale[j], V(0));
        }
      }
      store_run<S, N>(v, out + at, aligned, count);
    }
  }
};

}  // namespace innerloop::INNERLOOP_ISA
