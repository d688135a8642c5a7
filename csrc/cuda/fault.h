// Where a device's kernels write what they find wrong: a word of the host's memory that they see, one a device.
#pragma once

#include "cuda/list.h"

namespace innerloop::cuda {

// That of the current device. -> cudaError_t
int find_fault(Fault** fault);

}  // namespace innerloop::cuda
