// What a call can be refused for. bindings/ turns each into the Python exception of the same name.
#pragma once

#include <stdexcept>
#include <string>

namespace innerloop {

// Not an array, or an array of the wrong dtype.
struct TypeError : std::runtime_error {
  using runtime_error::runtime_error;
};
// A shape, stride, overlap, read-only output, or a parameter out of its range.
struct ValueError : std::runtime_error {
  using runtime_error::runtime_error;
};
// A class label out of range.
struct IndexError : std::runtime_error {
  using runtime_error::runtime_error;
};

}  // namespace innerloop
