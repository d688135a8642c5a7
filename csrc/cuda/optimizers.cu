// The optimizers' kernels: one launch for a whole list of arrays.
#include "cuda/norm_scratch.h"
#include "cuda/optimizers.h"

namespace innerloop::cuda {
namespace {

template <class T, unsigned Used, int States, class Step, class Batch>
struct StepArrays {
  Step step;
  double factor, l1;
  const double* coefficient;  // of clipping, or null
  Batch batch;
  HD void operator()(const Block& block) const {
    const double clipped = coefficient == nullptr ? factor : factor * *coefficient;
    step_arrays<T, Used, States>(block, step, GradientShare<T>{T(clipped), T(l1)}, batch);
  }
};

template <class Rule, class T>
int step_in(const Queue& queue, const StepGroup& group, const double* coefficient) {
  using Step = typename Rule::template Step<T>;
  const StepNumbers& numbers = group.numbers;
  const Step step(make_rule<Rule>(numbers.parameters), numbers.step);
  const auto& arrays = group.arrays[sizeof(T) == sizeof(double)];
  int error = cudaSuccess;
  with_used<Rule>(group.used, [&](auto used) {
    error = in_batches<T>(arrays.data, arrays.count, [&](const auto& batch) {
      using Body = StepArrays<T, decltype(used)::value, StatesOf<Rule>::count, Step, std::decay_t<decltype(batch)>>;
      return launch<kBlock>(queue, blocks_for(queue, (int64_t)batch.tiles * kBlock),
                            Body{step, numbers.factor, numbers.l1, coefficient, batch});
    });
  });
  return error;
}

template <class Rule>
int step(const Queue& queue, const StepGroup* groups, int64_t count, const Clipping* clipping) {
  NormScratch norm(queue, groups, clipping == nullptr ? 0 : count);
  const double* coefficient = nullptr;
  int error = cudaSuccess;
  if (clipping != nullptr) {
    error = norm.run(queue, groups, count, *clipping);
    coefficient = norm.coefficient();
  }
  for (int64_t g = 0; g < count && error == cudaSuccess; g++) {
    error = step_in<Rule, float>(queue, groups[g], coefficient);
    if (error == cudaSuccess) error = step_in<Rule, double>(queue, groups[g], coefficient);
  }
  return error;
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
