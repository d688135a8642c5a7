#include "core/elementwise_losses.h"

#include <atomic>

#include "core/checks.h"
#include "core/dispatch.h"
#include "core/flat.h"

namespace innerloop {
namespace {

constexpr int64_t kGrain = 16384 / kLossBlock;  // blocks that one thread does in about 10 us
constexpr int kArrays = 6;                      // pred, target, sample_weight, array, losses, gradient

// Some arrays of one shape, computed in one dtype, block by block over the threads. Arrays that do not lie contiguous
// go through buffers, which are taken as this is made.
class Blocks {
 public:
  Blocks(Call& call, std::initializer_list<const TensorView*> views) : call(call) {
    int buffered = 0;
    for (const TensorView* view : views) {
      present[arrays] = view != nullptr;
      if (view) {
        flat[arrays] = Flat(*view);
        size = view->size();
        item = (ptrdiff_t)dtype_size(compute_dtype(view->dtype));
        buffer[arrays] = flat[arrays].is_in_place() ? 0 : buffered++;
      }
      arrays++;
    }
    count = (size + kLossBlock - 1) / kLossBlock;
    tasks = count / kGrain < call.threads ? count / kGrain : call.threads;
    if (tasks < 1) tasks = 1;
    task_bytes = buffered * kLossBlock * item;
    if (buffered) buffers = call.array<char>(tasks * task_bytes);
  }

  int64_t blocks() const { return count; }

  // work(block, n, pointers): pointers to n elements of each array, or null for those that are not there. The first
  // `inputs` arrays have been read; the others are written after.
  template <class Work>
  void run(int inputs, const Work& work) const {
    if (size == 0) return;
    const int64_t step = (count + tasks - 1) / tasks;
    call.run((int)tasks, [&](int task) {
      for (int64_t block = task * step; block < (task + 1) * step && block < count; block++) {
        const int64_t begin = block * kLossBlock;
        const int n = size - begin < kLossBlock ? (int)(size - begin) : kLossBlock;
        char *own[kArrays], *at[kArrays];
        for (int i = 0; i < arrays; i++) {
          own[i] = buffers + task * task_bytes + buffer[i] * kLossBlock * item;
          at[i] = present[i] ? flat[i].at(begin, own[i]) : nullptr;
          if (present[i] && i < inputs) flat[i].read(begin, n, own[i]);
        }
        work(block, n, at);
        for (int i = inputs; i < arrays; i++) {
          if (present[i]) flat[i].write(begin, n, own[i]);
        }
      }
    });
  }

 private:
  Call& call;
  Flat flat[kArrays];
  bool present[kArrays];
  int buffer[kArrays] = {};
  int arrays = 0;
  int64_t size = 0, count = 0, tasks = 1;
  ptrdiff_t item = 0, task_bytes = 0;
  char* buffers = nullptr;
};

template <class T>
double sum_elements(const char* p, int n) {
  double lane[8] = {};
  for (int i = 0; i < n; i++) {
    T x;
    memcpy(&x, p + i * (ptrdiff_t)sizeof(T), sizeof x);
    lane[i % 8] += (double)x;
  }
  return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

double sum_of_view(Call& call, const TensorView& view) {
  const Blocks blocks(call, {&view});
  double* sums = call.array<double>(blocks.blocks());
  blocks.run(1, [&](int64_t block, int n, char* const* at) {
    sums[block] = view.dtype == Dtype::f64 ? sum_elements<double>(at[0], n) : sum_elements<float>(at[0], n);
  });
  return sum_of(sums, Dtype::f64, blocks.blocks());
}

double divisor_of(Call& call, const ElementwiseLossInputs& inputs, Reduction reduction) {
  switch (reduction) {
    case Reduction::mean:
      return inputs.sample_weight ? sum_of_view(call, *inputs.sample_weight) : (double)inputs.pred->size();
    case Reduction::batchmean:
      return inputs.pred->ndim > 0 ? (double)inputs.pred->shape[0] : 1;
    default:
      return 1;
  }
}

}  // namespace

const ElementwiseLoss& find_elementwise_loss(const std::string& name) {
  std::string have;
  for (const ElementwiseLoss& loss : *kernels().elementwise_losses) {
    if (name == loss.name) return loss;
    have += (have.empty() ? "" : ", ") + std::string(loss.name);
  }
  throw ValueError("loss must be one of " + have + ", got '" + name + "'");
}

void check_predictions(const ElementwiseLoss& loss, const TensorView& pred) {
  if (!loss.pred_range) return;
  const double low = loss.pred_range[0], high = loss.pred_range[1];
  const auto inside = typed(loss, pred.dtype).inside;
  Call call;
  const Blocks blocks(call, {&pred});
  std::atomic<int64_t> first{blocks.blocks()};
  blocks.run(1, [&](int64_t block, int n, char* const* at) {
    if (inside(at[0], n, low, high)) return;
    int64_t before = first.load();
    while (block < before && !first.compare_exchange_weak(before, block)) {
    }
  });
  if (first == blocks.blocks()) return;
  const Flat flat(pred);
  const ptrdiff_t item = (ptrdiff_t)dtype_size(compute_dtype(pred.dtype));
  for (int64_t i = first * kLossBlock; i < pred.size(); i++) {
    char buffer[sizeof(double)];
    flat.read(i, 1, buffer);
    const char* p = flat.at(i, buffer);
    if (inside(p, 1, low, high)) continue;
    double value;
    float narrow;
    memcpy(item == sizeof value ? (void*)&value : &narrow, p, (size_t)item);
    if (item != sizeof value) value = narrow;
    throw ValueError(std::string(pred.name) + " must lie in [" + number_text(low) + ", " + number_text(high) +
                     "], got " + number_text(value) + " at " + shape_text(position(pred, i)));
  }
  throw ValueError(std::string(pred.name) + " must lie in [" + number_text(low) + ", " + number_text(high) +
                   "], got numbers that were changed during the call");
}

double elementwise_loss(const ElementwiseLoss& loss, const double* parameters, const ElementwiseLossInputs& inputs,
                        Reduction reduction, double grad_scale, const TensorView* losses, const TensorView* gradient) {
  check_predictions(loss, *inputs.pred);
  Call call;
  const TensorView& pred = *inputs.pred;
  const Blocks blocks(call, {&pred, inputs.target, inputs.sample_weight, inputs.array, losses, gradient});
  double* sums = call.array<double>(blocks.blocks());
  const double divisor = divisor_of(call, inputs, reduction);
  const auto kernel = typed(loss, pred.dtype).block;
  const int64_t bytes = pred.size() * (int64_t)dtype_size(pred.dtype);
  const bool stream = gradient && gradient->data != pred.data && bytes >= stream_bytes();
  blocks.run(4, [&](int64_t block, int n, char* const* at) {
    sums[block] = kernel(parameters, {n, at[0], at[1], at[2], at[3], at[4], at[5], grad_scale / divisor, stream});
  });
  if (reduction == Reduction::none) return 0;
  return sum_of(sums, Dtype::f64, blocks.blocks()) / divisor;
}

}  // namespace innerloop
