// Clipping by the norm of all gradients together (Pascanu, Mikolov and Bengio, ICML 2013), for the CPU and the GPU. It
// is of no instruction set: double numbers, a few a call.
#pragma once

#include <math.h>

#ifdef __CUDACC__
#define INNERLOOP_HD __host__ __device__
#else
#define INNERLOOP_HD
#endif

namespace innerloop {

// What gradients of this norm are multiplied by: min(1, max_norm / (norm + 1e-6)), as torch.nn.utils.clip_grad_norm_.
INNERLOOP_HD inline double clip_coefficient(double norm, double max_norm) {
  const double coefficient = max_norm / (norm + 1e-6);
  return coefficient > 1 ? 1 : coefficient;  // NaN stays
}

}  // namespace innerloop
