// The machine's limits, measured: what a kernel could reach at best, on as many threads as calls use.
#pragma once

#include <stdint.h>

#include <string>

#include "core/tensor.h"

namespace innerloop::probe {

double fma_rate(Dtype dtype, double seconds);  // floating-point operations a second, the best of many short rounds

// Bytes a second over a buffer of about this size, so that it is the rate of the cache that holds it. `kind` is one
// of the list's memory probes; throws ValueError, naming them.
double bandwidth(const std::string& kind, int64_t bytes, double seconds);

// Seconds that the pool takes to start one empty task a thread and to see them all done, with its workers awake; 0 on
// one thread. It is what a kernel pays at least for its threads.
double fork_join(double seconds);

// Seconds that a cache line takes from one core to another and back; 0 where there are no two cores. It tells whether
// a virtual machine's cores share a cache, which changes every figure.
double round_trip(double seconds);

}  // namespace innerloop::probe
