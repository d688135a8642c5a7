// One step of an optimizer over any number of parameter arrays: all of them are checked before the first is written,
// and the whole is one parallel region.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "core/tensor.h"

namespace innerloop {

// Bit i: state i is read and written by a step with these parameters.
unsigned used_states(const Optimizer& optimizer, const double* parameters);
// ValueError where the parameters, each within its range, do not go together.
void check_together(const Optimizer& optimizer, const double* parameters);

class OptimizerStep {
 public:
  // The parameters have been checked; `step` counts from 1.
  OptimizerStep(const Optimizer& optimizer, const double* parameters, double step, size_t arrays);

  unsigned used() const { return mask; }

  // The next parameter array: views of param, grad and the states; those of states that are not given have no data
  // and no meaning. Throws, naming the view, where they do not fit together.
  void add(const TensorView* views, unsigned given);

  // Calls refuse(i, operand, j, other) for each two operands of the arrays i and j that may share memory of which one
  // is written; operands number as in `add`. Exact where their extents do not interleave: else `refuse` must look.
  void check_overlap(const std::function<void(size_t, int, size_t, int)>& refuse) const;

  void run() const;

 private:
  struct Job {
    char* operands[kMaxOperands];
    int64_t size;
    const OptimizerKernels* kernels;
    const StepScalars* scalars;
    int walk;  // index into walks, or -1 where every operand is one flat run
  };
  struct Extent {
    const char *low, *high;
    uint32_t array;
    uint8_t operand;
    bool written() const { return operand != 1; }
  };

  const Optimizer& optimizer;
  unsigned mask;
  StepScalars f32, f64;
  std::vector<Job> jobs;
  std::vector<std::unique_ptr<Walk<kMaxOperands>>> walks;
  std::vector<Extent> extents[kMaxOperands];  // one list an operand: each often lies in memory in this order
};

}  // namespace innerloop
