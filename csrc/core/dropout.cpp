#include "core/dropout.h"

#include "core/checks.h"
#include "core/half.h"

namespace innerloop {

constexpr int64_t kGrain = 8192;  // elements that one thread does in about 10 us

void dropout(const DropoutWork& work, const TensorView& x, const TensorView& y) {
  const auto loop = typed(kernels().random->dropout, x.dtype).run;
  Call call;
  run_elementwise<2>(
      call, {&x, &y}, kGrain,
      [&](const Walk<2>& walk, int64_t begin, int64_t end, int64_t first) { loop(work, walk, first, begin, end); },
      Order::c);
}

void check_probability(double p, const char* name) {
  if (p >= 0 && p <= 1) return;
  throw ValueError(std::string(name) + " must lie in [0, 1], got " + number_text(p));
}

}  // namespace innerloop
