#include "core/gradients.h"

#include <math.h>

#include <algorithm>

#include "core/dispatch.h"
#include "core/half.h"

namespace innerloop {
namespace {

constexpr int64_t kGrain = 65536;  // elements that one thread reads in about 10 us

struct Block {
  uint32_t gradient;
  int64_t begin, end;
};

template <class Gradients>
std::vector<Block> blocks_of(const Gradients& gradients) {
  size_t count = 0;
  for (const auto& g : gradients) count += (size_t)((g.size + kNormBlock - 1) / kNormBlock);
  std::vector<Block> blocks;
  blocks.reserve(count);
  for (size_t i = 0; i < gradients.size(); i++) {
    for (int64_t begin = 0; begin < gradients[i].size; begin += kNormBlock) {
      blocks.push_back({(uint32_t)i, begin, std::min(gradients[i].size, begin + kNormBlock)});
    }
  }
  return blocks;
}

// work(block's number, block) for all, on as many threads as they are worth.
template <class Work>
void run_blocks(Call& call, const std::vector<Block>& blocks, const Work& work) {
  int64_t total = 0;
  for (const Block& b : blocks) total += b.end - b.begin;
  int64_t tasks = std::min<int64_t>({total / kGrain, 4 * (int64_t)call.threads, (int64_t)blocks.size()});
  tasks = std::max<int64_t>(tasks, 1);
  const size_t step = (blocks.size() + (size_t)tasks - 1) / (size_t)tasks;
  call.run((int)tasks, [&](int task) {
    const size_t end = std::min(blocks.size(), ((size_t)task + 1) * step);
    for (size_t i = (size_t)task * step; i < end; i++) work(i, blocks[i]);
  });
}

}  // namespace

const Parameter kMaxNorm = {"max_norm", HUGE_VAL, 0};

void GradientNorm::add(const TensorView& t) {
  if (t.size() == 0) return;
  Gradient g = {t.data,
                t.size(),
                (int64_t)dtype_size(t.dtype),
                &typed(*kernels().gradients, t.dtype),
                nullptr,
                is_half(t.dtype) ? &storage_of(t.dtype) : nullptr};
  if (!is_contiguous(t)) {
    g.walks = std::make_unique<Walks>(Walks{walk_elements(t), plan_walk<1>({&t}, 0)});
  }
  wide |= t.dtype == Dtype::f64;
  gradients.push_back(std::move(g));
}

template <class F>
void GradientNorm::Gradient::with_walk(bool in_order, const F& f) const {
  if (walks) return f(in_order ? walks->in_order : walks->in_memory);
  f(walk_contiguous(data, (size_t)item, size));
}

double GradientNorm::sum_squares(Call& call, double scale) const {
  const std::vector<Block> blocks = blocks_of(gradients);
  double* sums = call.array<double>((int64_t)blocks.size());
  run_blocks(call, blocks, [&](size_t from_end, const Block&) {
    // The last first: whoever reads the gradients next, from the front, finds those in the cache.
    const size_t i = blocks.size() - 1 - from_end;
    const Block& b = blocks[i];
    const Gradient& g = gradients[b.gradient];
    g.with_walk(true, [&](const Walk<1>& x) {
      if (g.half == nullptr) {
        sums[i] = g.kernels->sum_squares(x, scale, b.begin, b.end);
        return;
      }
      alignas(64) float wide[kNormBlock];
      g.half->widen(x, b.begin, b.end, wide);
      sums[i] = g.kernels->sum_squares(walk_contiguous(wide, sizeof(float), kNormBlock), scale, 0, b.end - b.begin);
    });
  });
  double total = 0;
  for (size_t i = 0; i < blocks.size(); i++) total += sums[i];
  return total;
}

double GradientNorm::norm(Call& call) const {
  double scale = 1, sum = sum_squares(call, scale);
  // 2^-540 times the largest double, squared, is 2^968, and 2^55 of those have a sum; and the other way round.
  if (wide && (sum > 0x1p1000 || sum < 0x1p-900)) {
    scale = sum > 1 ? 0x1p-540 : 0x1p540;
    sum = sum_squares(call, scale);
  }
  return ::sqrt(sum) / scale;
}

void GradientNorm::multiply(Call& call, double factor) const {
  run_blocks(call, blocks_of(gradients), [&](size_t, const Block& b) {
    const Gradient& g = gradients[b.gradient];
    g.with_walk(false, [&](const Walk<1>& x) {
      if (g.half == nullptr) return g.kernels->multiply(x, factor, b.begin, b.end);
      alignas(64) float wide[kNormBlock];
      g.half->widen(x, b.begin, b.end, wide);
      g.kernels->multiply(walk_contiguous(wide, sizeof(float), kNormBlock), factor, 0, b.end - b.begin);
      g.half->narrow(wide, x, b.begin, b.end);
    });
  });
}

}  // namespace innerloop
