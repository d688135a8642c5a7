#include "core/dropout.h"

#include "core/call.h"
#include "core/checks.h"
#include "core/dispatch.h"
#include "core/walk.h"

namespace innerloop {

constexpr int64_t kGrain = 8192;  // elements that one thread does in about 10 us

void dropout(const DropoutWork& work, const TensorView& x, const TensorView& y) {
  const auto walk = plan_walk<2>({&x, &y}, stream_bytes(), Order::c);
  const auto& typed = kernels().random->dropout;
  const auto loop = (x.dtype == Dtype::f64 ? typed.f64 : typed.f32).run;
  Call().split(y.size(), kGrain, [&](int64_t begin, int64_t end) { loop(work, walk, 0, begin, end); });
}

void check_probability(double p) {
  if (p >= 0 && p <= 1) return;
  throw ValueError("p must lie in [0, 1], got " + number_text(p));
}

}  // namespace innerloop
