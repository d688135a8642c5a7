// An optimizer's step over Python's arrays: what `step` and the training of a whole network share.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "bindings/arrays.h"
#include "core/optimizers.h"

namespace innerloop {

// What one step takes of each group, a dict, and of all together.
struct StepNumbers {
  struct Group {
    ParameterValues values;
    bool maximize;
    double l1;
  };
  std::vector<Group> groups;
  StepOptions options;

  // With `before`, another step's, the dicts hold only what differs from it: each number costs some 0.3 us to read.
  StepNumbers(const Optimizer& optimizer, const StepNumbers* before, const py::list& of_groups, py::handle max_norm,
              py::handle grad_scale);
};

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
