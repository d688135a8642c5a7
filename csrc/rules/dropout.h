// Dropout (Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov, JMLR 15, 2014), scaled in training:
//
//   y = x / (1 - p) where the element is kept, 0 where it is dropped, whatever x holds there; dx is the same of dy
//
// An element is dropped where its random word (rules/philox.h), as an integer, is below p 2^32. So the chance is p
// rounded up to a multiple of 2^-32; p = 0 keeps every element as it is, and p = 1 none.
#pragma once

#include <math.h>

#include "simd/scalar.h"

namespace innerloop::INNERLOOP_ISA {

// The random word as the bits of a V: as wide as an element.
struct Dropout {
  uint64_t least;  // word that keeps: 0 .. 2^32
  double scale;

  Dropout() = default;
  HD explicit Dropout(double p) : least((uint64_t)ceil(p * 4294967296.0)), scale(1 / (1 - p)) {}

  template <class V>
  HD V forward(V x, typename V::bits_type word) const {
    using Bits = typename V::bits_type;
    using Word = typename Bits::scalar;
    const Bits kept = bits(x * V((typename V::scalar)scale)) & Bits(least >> 32 ? Word(0) : Word(~Word(0)));
    return from_bits<V>(select(word >= Bits((Word)least), kept, Bits(Word(0))));
  }
};

}  // namespace innerloop::INNERLOOP_ISA
