// An optimizer's step over Python's arrays: what `step` and the training of a whole network share.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "bindings/optimizer_numbers.h"

namespace innerloop {

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

// The same over arrays of a CUDA device, of which states in fewer bits are refused. The norm is an array of the device.
py::object step_on_device(const std::string& name, py::handle params, py::handle grads, const py::tuple& states,
                          const py::list& group_list, py::handle max_norm, py::handle grad_scale, py::handle masters,
                          py::handle scales);
void check_on_device(py::handle params);  // as what optimizers step
py::object clip_on_device(py::handle grads, double max_norm);

}  // namespace innerloop
