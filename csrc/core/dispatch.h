// Which backend and which instruction set serve the calls: chosen at first use from what the CPU has, or by
// INNERLOOP_ISA, use_isa and use_backend.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace innerloop {

// Throws std::runtime_error, naming what is missing, on a CPU below the lowest row of cmake/isa.cmake. Call it first.
void check_cpu();

const Kernels& kernels();               // of the ISA in use
std::vector<std::string> isas();        // usable on this machine, lowest first
void use_isa(const std::string& name);  // throws ValueError, naming those at hand

const Activation& find_activation(const std::string& name);  // throws ValueError, naming those there are
const Optimizer& find_optimizer(const std::string& name);
int64_t stream_bytes();  // outputs of at least this size are written around the caches

}  // namespace innerloop
