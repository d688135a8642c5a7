// An optimizer's step over Python's arrays: what `step` and the training of a whole network share.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "bindings/arrays.h"
#include "core/optimizers.h"

namespace innerloop {

// What one step takes of each group, and of all together.
struct StepNumbers {
  struct Group {
    ParameterValues values;
    bool maximize;
    double l1;
  };
  std::vector<Group> groups;
  StepOptions options;
};

// The numbers of some steps: of the first, (a dict for each group, max_norm, grad_scale), and of those after it what
// differs from it, ({name: [its value at each step]} for each group, [max_norm] or None, [grad_scale] or None). By
// name, as a small network's batch feels each microsecond.
std::vector<StepNumbers> read_steps(const Optimizer& optimizer, const py::tuple& first, const py::tuple& later);

class BoundStep {
  struct Arrays;

 public:
  // Everything converted and checked. `group_list` holds (how many arrays, step, numbers) of each group, with None for
  // all of the arrays; params, grads and each list of states go over all groups. `scales` holds a list for each state,
  // or None; `masters` is a list or None: see StoredArrays.
  BoundStep(const std::string& name, py::handle params, py::handle grads, const py::tuple& states,
            const py::list& group_list, py::handle max_norm, py::handle grad_scale, py::handle masters,
            py::handle scales, py::handle seed);
  ~BoundStep();

  double run_reference() const;  // as work->run()

  // For another step of the same arrays, whose numbers use the same states. `renew` needs no GIL.
  bool renews_with(const StepNumbers& numbers) const;
  void renew(const StepNumbers& numbers, int64_t step);

  const Optimizer& optimizer;
  const StepOptions options;

 private:
  const uint64_t seed;
  std::unique_ptr<Arrays> arrays;  // which `work` points into

 public:
  std::unique_ptr<OptimizerStep> work;
};

}  // namespace innerloop
