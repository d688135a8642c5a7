// The norm of all gradients, on the device for as long as a call's launches need it.
#pragma once

#include "cuda/launch.h"

namespace innerloop::cuda {

class NormScratch {
 public:
  NormScratch(const Queue& queue, const StepGroup* groups, int64_t count);
  // Queues the norm and what gradients are multiplied by. -> cudaError_t
  int run(const Queue& queue, const StepGroup* groups, int64_t count, const Clipping& clipping);
  double* coefficient() const { return static_cast<double*>(scratch.data); }

 private:
  const int64_t tiles;
  Scratch scratch;
};

}  // namespace innerloop::cuda
