// The numbers that an optimizer's step is given in Python, read and checked, for whatever backend takes it.
#pragma once

#include <string>
#include <vector>

#include "bindings/arrays.h"
#include "core/optimizers.h"

namespace innerloop {

// The numbers of a group, as the kernels and as the reference take them: betas=(0.9, 0.999) is beta1 and beta2 to the
// one and a tuple to the other.
struct OptimizerNumbers {
  ParameterValues values;
  bool maximize = false;
  double l1 = 0;
  py::object for_reference;  // a dict, where the reference is in use
};

OptimizerNumbers read_numbers(const Optimizer& optimizer, const py::dict& given);

StepOptions read_options(py::handle max_norm, py::handle grad_scale);  // max_norm may be None
int64_t read_step(py::handle step);                                    // counts from 1
double read_number(const Parameter& parameter, py::handle value);

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

}  // namespace innerloop
