// Chooses the instruction set that the compiler's flags allow: Native<T> is its widest V.
#pragma once

#include "simd/vector.h"

#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#include "simd/avx512.h"
#elif defined(__AVX2__) && defined(__FMA__)
#include "simd/avx2.h"
#elif defined(__SSE4_2__)
#include "simd/sse4.h"
#elif defined(__aarch64__)
#include "simd/neon.h"
#else
#error "no instruction set of cmake/isa.cmake matches these compiler flags"
#endif

namespace innerloop::INNERLOOP_ISA {

template <class T>
using Native = Vec<T, kVectorBytes / (int)sizeof(T)>;

}  // namespace innerloop::INNERLOOP_ISA
