// What losses over rows share: labels, weights, and sums of doubles by a tree that depends on their number alone.
#pragma once

#include "cuda/launch.h"
#include "cuda/storage.h"

namespace innerloop::INNERLOOP_ISA {

template <class T>
HD Vec<T, 1> weight_at(const Weights& weights, int64_t i) {
  if constexpr (sizeof(T) == sizeof(float)) {
    if (weights.storage == Storage::bfloat16)
      return widen(reinterpret_cast<const Piece<Bfloat16, 1>*>(weights.data)[i].lane[0]);
    if (weights.storage == Storage::float16)
      return widen(reinterpret_cast<const Piece<Float16, 1>*>(weights.data)[i].lane[0]);
  }
  return widen(reinterpret_cast<const Piece<T, 1>*>(weights.data)[i].lane[0]);
}

constexpr int64_t kIgnored = -1;

struct Labels {
  const char* data;  // or null: none is ignored, none has a weight
  Dtype dtype;
  int64_t classes, ignore_index;

  template <class Integer>
  HD int64_t as(int64_t row) const {
    return (int64_t)reinterpret_cast<const Piece<Integer, 1>*>(data)[row].lane[0];
  }
  HD int64_t stored(int64_t row) const {
    switch (dtype) {
      case Dtype::i8:
        return as<int8_t>(row);
      case Dtype::u8:
        return as<uint8_t>(row);
      case Dtype::i16:
        return as<int16_t>(row);
      case Dtype::u16:
        return as<uint16_t>(row);
      case Dtype::i32:
        return as<int32_t>(row);
      case Dtype::u32:
        return as<uint32_t>(row);
      default:
        return as<int64_t>(row);
    }
  }
  // The class, or kIgnored. What is neither is reported where `fault` is not null.
  HD int64_t at(int64_t row, Fault* fault) const {
    const int64_t label = stored(row);
    const bool is_unsigned = dtype == Dtype::u64;
    if (label == ignore_index && !(is_unsigned && label < 0)) return kIgnored;
    if (label >= 0 && label < classes) return label;
    if (fault != nullptr) {
      // Both halves by one store, as several threads may find something.
      Piece<uint64_t, 2> words = {{(uint64_t)label, (uint64_t)classes << 1 | 1}};
      if (is_unsigned) words.lane[1] |= (uint64_t)1 << 63;
      *reinterpret_cast<Piece<uint64_t, 2>*>(fault) = words;
    }
    return kIgnored;
  }
};

// Sums that a block each makes of kSumChunk values; where there are several, one block sums them up.
constexpr int64_t kSumChunk = 16384;
HD int64_t sum_chunks(int64_t n) { return n > 0 ? (n + kSumChunk - 1) / kSumChunk : 1; }

struct SumOfLosses {
  const char* losses;
  bool wide;
  HD double operator()(int64_t i) const {
    return wide ? reinterpret_cast<const double*>(losses)[i] : (double)reinterpret_cast<const float*>(losses)[i];
  }
};
struct SumOfWeights {
  Labels labels;
  Weights weight, sample_weight;
  bool wide;
  HD double of(const Weights& weights, int64_t i) const {
    if (weights.data == nullptr) return 1;
    return wide ? weight_at<double>(weights, i).v : (double)weight_at<float>(weights, i).v;
  }
  HD double operator()(int64_t row) const {
    if (labels.data == nullptr) return of(sample_weight, row);
    const int64_t label = labels.at(row, nullptr);
    return label == kIgnored ? 0 : of(weight, label) * of(sample_weight, row);
  }
};

// What every row of a mean needs, in the device's memory.
struct Divisor {
  double divisor, scale;  // of the losses' sum; of the gradient
};

// What becomes of a sum: a divisor, or a loss.
struct SumResult {
  Divisor* divisor;
  double grad_scale;
  char* loss;
  bool wide;
  const Divisor* of_loss;  // or null: `otherwise`
  double otherwise;

  HD void operator()(double sum) const {
    if (divisor != nullptr) {
      *divisor = {sum, grad_scale / sum};
      return;
    }
    const double value = sum / (of_loss != nullptr ? of_loss->divisor : otherwise);
    if (wide) {
      *reinterpret_cast<double*>(loss) = value;
    } else {
      *reinterpret_cast<float*>(loss) = (float)value;
    }
  }
};

// A block sums the values of one chunk after another; a single one makes the result.
template <class Values>
struct SumChunks {
  Values values;
  int64_t n, chunk;
  double* sums;  // one a chunk
  SumResult result;

  HD void operator()(const Block& block) const {
    const int64_t chunks = n > chunk ? (n + chunk - 1) / chunk : 1;
    for (int64_t c = block.index; c < chunks; c += block.count) {
      const int64_t end = n - c * chunk < chunk ? n : (c + 1) * chunk;
      double sum[4] = {};
      for (int64_t first = c * chunk + block.lane; first < end; first += 4 * block.lanes) {
        INNERLOOP_UNROLL
        for (int k = 0; k < 4; k++) {
          if (first + k * block.lanes < end) sum[k] += values(first + k * block.lanes);
        }
      }
      const double all = block.reduce((sum[0] + sum[1]) + (sum[2] + sum[3]), [](double a, double b) { return a + b; });
      if (block.lane != 0) continue;
      if (chunks > 1) {
        sums[c] = all;
      } else {
        result(all);
      }
    }
  }
};

}  // namespace innerloop::INNERLOOP_ISA

namespace innerloop::cuda {

// The memory of a call: its divisor, sums of chunks and, where the caller wants none, the losses of the rows.
struct LossScratch {
  LossScratch(const Queue& queue, const RowLoss& call, int64_t rows)
      : memory(queue, bytes(call, rows)),
        divisor((Divisor*)memory.data),
        sums((double*)(divisor + 1)),
        losses(call.losses != nullptr ? call.losses : (char*)(sums + sum_chunks(rows))) {}

  Scratch memory;
  Divisor* divisor;
  double* sums;
  char* losses;

 private:
  static size_t bytes(const RowLoss& call, int64_t rows) {
    if (call.losses != nullptr && call.loss == nullptr && !call.mean) return 0;
    const size_t item = call.dtype == Dtype::f64 ? sizeof(double) : sizeof(float);
    return sizeof(Divisor) + (size_t)sum_chunks(rows) * sizeof(double) + (call.losses ? 0 : (size_t)rows * item);
  }
};

// Queues the sum of n values, and what becomes of it.
template <class Values>
int launch_sum(const Queue& queue, const Values& values, int64_t n, double* sums, const SumResult& result) {
  const int64_t chunks = sum_chunks(n), most = (int64_t)queue.processors * 8;
  const int error =
      launch<kBlock>(queue, chunks < most ? chunks : most, SumChunks<Values>{values, n, kSumChunk, sums, result});
  if (error != cudaSuccess || chunks == 1) return error;
  const SumOfLosses of_chunks = {(const char*)sums, true};
  return launch<kBlock>(queue, 1, SumChunks<SumOfLosses>{of_chunks, chunks, INT64_MAX, nullptr, result});
}

inline Labels labels_of(const RowLoss& call) {
  return {is_integer(call.target_dtype) ? call.target : nullptr, call.target_dtype, call.shape.length,
          call.ignore_index};
}

// What the rows of a loss are divided by, known on the host or, after a launch, on the device.
struct RowScale {
  const Divisor* known;  // or null
  double divisor, scale;
};

// A loss over rows: work(scale, losses) queues what writes the losses and the gradient.
template <class Work>
int launch_loss(const Queue& queue, const RowLoss& call, int64_t rows, const Work& work) {
  const LossScratch scratch(queue, call, rows);
  if (scratch.memory.error != cudaSuccess) return scratch.memory.error;
  const bool wide = call.dtype == Dtype::f64;
  const Labels labels = labels_of(call);
  RowScale scale = {nullptr, 1, call.grad_scale};
  int error = cudaSuccess;
  const bool empty = call.shape.length == 0 && labels.data == nullptr;
  if (call.mean && !empty && (labels.data != nullptr || call.sample_weight.data != nullptr)) {
    scale.known = scratch.divisor;
    const SumOfWeights weights = {labels, call.weight, call.sample_weight, wide};
    error =
        launch_sum(queue, weights, rows, scratch.sums, {scratch.divisor, call.grad_scale, nullptr, wide, nullptr, 1});
  } else if (call.mean) {
    scale.divisor = empty ? 0 : (double)rows;  // as in PyTorch, the mean over no logits is NaN
    scale.scale = call.grad_scale / scale.divisor;
  }
  if (error == cudaSuccess && rows > 0) error = work(scale, scratch.losses);
  if (error != cudaSuccess || call.loss == nullptr) return error;
  const SumResult result = {nullptr, 0, call.loss, wide, scale.known, scale.divisor};
  return launch_sum(queue, SumOfLosses{scratch.losses, wide}, rows, scratch.sums, result);
}

}  // namespace innerloop::cuda
