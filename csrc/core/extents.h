// Which of a call's arrays may share memory: told for thousands of them by sorting what each reaches over.
#pragma once

#include <functional>
#include <vector>

#include "core/tensor.h"

namespace innerloop {

class Extents {
 public:
  // The next array of an operand: operands number from 0, each one's arrays as they come or as `index` says.
  void add(const TensorView& view, size_t index, int operand, bool written);
  void reserve(int operands, size_t arrays);

  // Calls refuse(i, operand, j, other) for each two arrays that may share memory of which one is written, the first in
  // order of operands before the other. Exact where their extents do not interleave: else `refuse` must look.
  void check(const std::function<void(size_t, int, size_t, int)>& refuse) const;

 private:
  struct Extent {
    const char *low, *high;
    uint32_t array;
    uint8_t operand;
    bool written;
  };
  std::vector<std::vector<Extent>> lists;  // one an operand: each often lies in memory in this order
};

}  // namespace innerloop
