// The optimizers' kernels: one launch for a whole list of arrays.
#include "cuda/launch.h"
#include "cuda/optimizers.h"

namespace innerloop::cuda {
namespace {

template <class T, unsigned Used, int States, class Step, class Batch>
struct StepArrays {
  Step step;
  GradientShare<T> share;
  Batch batch;
  HD void operator()(const Block& block) const {
    step_arrays<T, Used, States, kBlock>(block.thread(), step, share, batch);
  }
};

// Queues the first launch of these arrays and takes them off the list.
template <class Batch, class T, unsigned Used, int States, class Step>
int launch_first(const Queue& queue, const Step& step, const GradientShare<T>& share, const StepArray*& arrays,
                 int64_t& count) {
  StepArrays<T, Used, States, Step, Batch> body{step, share, {}};
  Batch& batch = body.batch;
  const int taken = fill<T>(batch, arrays, count);
  arrays += taken;
  count -= taken;
  if (taken == 0) return cudaErrorInvalidValue;  // 2^44 elements
  if (batch.tiles == 0) return cudaSuccess;
  return launch<kBlock>(queue, blocks_for(queue, (int64_t)batch.tiles * kBlock), body);
}

template <class Rule, class T>
int step_in(const Queue& queue, const StepNumbers& numbers, unsigned used, const StepArray* arrays, int64_t count) {
  using Step = typename Rule::template Step<T>;
  constexpr int states = StatesOf<Rule>::count;
  const Step step(make_rule<Rule>(numbers.parameters), numbers.step);
  const GradientShare<T> share = {T(numbers.factor), T(numbers.l1)};
  int error = cudaSuccess;
  with_used<Rule>(used, [&](auto u) {
    constexpr unsigned set = decltype(u)::value;
    while (count > 0 && error == cudaSuccess) {
      error = count <= SmallBatch::capacity
                  ? launch_first<SmallBatch, T, set, states>(queue, step, share, arrays, count)
                  : launch_first<LargeBatch, T, set, states>(queue, step, share, arrays, count);
    }
  });
  return error;
}

template <class Rule>
int step(const Queue& queue, bool float64, const StepNumbers& numbers, unsigned used, const StepArray* arrays,
         int64_t count) {
  return float64 ? step_in<Rule, double>(queue, numbers, used, arrays, count)
                 : step_in<Rule, float>(queue, numbers, used, arrays, count);
}

template <class... Rules>
struct Table;
template <class... Rules>
struct Table<List<Rules...>> {
  static constexpr Optimizer entries[] = {{Rules::name, StatesOf<Rules>::count, StatesOf<Rules>::data, step<Rules>}...};
};

}  // namespace

const Span<Optimizer> optimizers = {Table<Optimizers>::entries, Optimizers::count};

}  // namespace innerloop::cuda
