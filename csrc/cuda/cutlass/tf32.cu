// Products of float32 as tf32.
#include "cuda/cutlass/ampere.h"

namespace innerloop::cuda {

int multiply_tf32(const Queue& queue, const TensorProduct& p) { return multiply_in<float>(queue, p); }

}  // namespace innerloop::cuda
