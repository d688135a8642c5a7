// One step of an optimizer over any number of parameter arrays: all of them are checked before the first is written.
// The update is one parallel region; with clipping, the norm is another before it.
#pragma once

#include <memory>
#include <vector>

#include "core/extents.h"
#include "core/gradients.h"
#include "core/stored_step.h"
#include "core/tensor.h"

namespace innerloop {

// What every optimizer takes besides its rule's parameters. Those up to `l1` may differ between groups.
enum { kMaximize, kL1, kGradScale, kCommonParameters };
extern const Parameter common_parameters[kCommonParameters];

// Bit i: state i is read and written by a step with these parameters.
unsigned used_states(const Optimizer& optimizer, const double* parameters);
// ValueError where the parameters, each within its range, do not go together.
void check_together(const Optimizer& optimizer, const double* parameters);

// What holds for all groups of a step.
struct StepOptions {
  double grad_scale = 1;  // gradients are divided by it
  bool clip = false;
  double max_norm = 0;  // of all gradients together, divided as they are
};

// What an array may bring beside param, grad and states.
struct StoredArrays {
  TensorView scales[kMaxStates];  // of states kept in 8 bits; else without data
  TensorView master;              // a float32 copy of a half-precision param, or a bfloat16's lower halves in int16
  bool has_master = false;
  uint64_t key = 0;  // of stochastic rounding: core/stored_step.h
};

// Numbers of operands beyond kMaxOperands, for check_overlap.
constexpr int kScalesOperand = kMaxOperands, kMasterOperand = kScalesOperand + kMaxStates;
constexpr int kStoredOperands = kMasterOperand + 1;

class OptimizerStep {
 public:
  // All numbers have been checked.
  OptimizerStep(const Optimizer& optimizer, const StepOptions& options, size_t arrays);

  // The arrays added from here on are stepped with these; `step` counts from 1. Returns their used_states.
  unsigned begin_group(const double* parameters, bool maximize, double l1, double step);

  // For another step of the same arrays: the numbers of group i, which use the same states; the options, which clip or
  // do not as before; and array i's key.
  void renew_group(size_t i, const double* parameters, bool maximize, double l1, double step);
  void renew_options(double grad_scale, double max_norm);
  void renew_key(size_t i, uint64_t key);

  // The next parameter array: views of param, grad and the states; those of states that are not given have no data
  // and no meaning. Throws, naming the view, where they do not fit together. A grad has its param's dtype, or float32
  // beside half precision; states have float64 beside it, else float32, bfloat16 or, with scales, uint8.
  // Returns whether all are of the one dtype that is computed in.
  bool add(const TensorView* views, unsigned given, const StoredArrays& stored = {});

  // See Extents::check; operands number as in `add`.
  void check_overlap(const std::function<void(size_t, int, size_t, int)>& refuse) const { extents.check(refuse); }

  // Returns the norm of all gradients where it is asked to clip, else 0.
  double run();

 private:
  struct Group {
    unsigned used;
    bool maximize;
    double l1;
    StepScalars f32, f64;
  };
  struct Job {
    char* operands[kMaxOperands];
    int64_t size;
    const OptimizerKernels* kernels;
    uint32_t group;
    bool wide;   // float64
    int walk;    // index into walks, or -1 where every operand is one flat run
    int stored;  // index into stored_steps, or -1 where every operand is of the dtype that is computed in
  };

  const Optimizer& optimizer;
  StepOptions options;
  std::vector<Group> groups;
  std::vector<Job> jobs;
  std::vector<std::unique_ptr<Walk<kMaxOperands>>> walks;
  std::vector<std::unique_ptr<StoredStep>> stored_steps;
  GradientNorm norm;
  Extents extents;
};

}  // namespace innerloop
