// One parameter array whose operands are not all float32: they are brought to float32 a chunk at a time, in the nearest
// cache, around the optimizer's own kernel. Half precision, states of fewer bits and master copies are all of this
// kind.
#pragma once

#include <memory>

#include "core/tensor.h"

namespace innerloop {

class StoredStep {
 public:
  // `views`: param, grad and the states, as far as `operands` (bit i) uses them. `scales`: of each state that is kept
  // in 8 bits, else without data. `master`: a float32 copy of param that is stepped in its place, or the int16 lower
  // halves of a bfloat16 one (core/optimizers.h, check_stored); or null. `negatives`: bit i, state i may be below 0.
  // States of fewer bits are contiguous, and rounded by `key`.
  StoredStep(const TensorView* views, unsigned operands, const TensorView* scales, const TensorView* master,
             unsigned negatives, uint64_t key);

  void renew_key(uint64_t key);  // for the next step

  void run(const OptimizerKernels& kernels, const StepScalars& scalars, unsigned used, int64_t begin,
           int64_t end) const;

 private:
  enum class Kind : uint8_t { unused, in_place, converted, split, stochastic, in_8_bits };
  struct Operand {
    Kind kind = Kind::unused;
    bool negatives = true;
    Dtype dtype = Dtype::f32;
    char *data = nullptr, *scales = nullptr;
    uint64_t key = 0;
    std::unique_ptr<Walk<1>> walk;  // null where it is contiguous
    char* lower = nullptr;          // of a split param
    std::unique_ptr<Walk<1>> lower_walk;
  };
  Operand operands[kMaxOperands];
  bool states_in_bfloat16;  // there are some, and no others
  bool has_copy = false;    // param itself is written beside its master
  Operand copy;

  void widen(const Operand& operand, int64_t begin, int64_t end, float* to) const;
  void narrow(const Operand& operand, const float* from, int64_t begin, int64_t end) const;
};

// The key of an array's states in a step: the same for the same numbers, unlike for any others.
uint64_t rounding_key(uint64_t seed, uint64_t step, uint64_t array);
uint64_t state_key(uint64_t key, int state);  // of one of them

}  // namespace innerloop
