#include "core/checks.h"

#include <math.h>
#include <stdio.h>

#include <algorithm>

namespace innerloop {

static std::string got(const TensorView& t) { return ", got " + describe(t); }

void check_floating(const TensorView& t) {
  if (!is_floating(t.dtype))
    throw TypeError(std::string(t.name) + " must be float32, float64, bfloat16 or float16" + got(t));
}

void check_full_precision(const TensorView& t) {
  if (!is_floating(t.dtype) || is_half(t.dtype)) {
    throw TypeError(std::string(t.name) + " must be float32 or float64" + got(t));
  }
}

void check_dtype(const TensorView& t, const TensorView& like) {
  if (t.dtype == like.dtype) return;
  throw TypeError(std::string(t.name) + " must have the dtype of " + like.name + ", " + dtype_name(like.dtype) +
                  got(t));
}

void check_weight_dtype(const TensorView& t, const TensorView& like) {
  if (t.dtype != compute_dtype(like.dtype)) check_dtype(t, like);
}

void check_dtype(const TensorView& t, Dtype want, const char* why) {
  if (t.dtype == want) return;
  throw TypeError(std::string(t.name) + " must be " + dtype_name(want) + " (" + why + ")" + got(t));
}

void check_shape(const TensorView& t, const TensorView& like) {
  if (t.ndim == like.ndim && std::equal(t.shape, t.shape + t.ndim, like.shape)) return;
  throw ValueError(std::string(t.name) + " must have the shape of " + like.name + ", " +
                   shape_text(like.shape, like.ndim) + got(t));
}

void check_shape(const TensorView& t, const Shape& want, const char* why) {
  if (t.ndim == (int)want.size() && std::equal(want.begin(), want.end(), t.shape)) return;
  throw ValueError(std::string(t.name) + " must have the shape " + shape_text(want) + " (" + why + ")" + got(t));
}

void check_ndim(const TensorView& t, int least, const char* meaning) {
  if (t.ndim >= least) return;
  throw ValueError(std::string(t.name) + " must have at least " + std::to_string(least) +
                   (least == 1 ? " axis, " : " axes, ") + meaning + got(t));
}

// Axes by stride: an axis must step over all that the axes inside it reach. Refuses a few exotic views that store
// each element once after all; NumPy makes none of those without as_strided.
static bool stores_twice(const TensorView& t) {
  int order[kMaxDims], n = 0;
  for (int d = 0; d < t.ndim; d++) {
    if (t.shape[d] == 0) return false;
    if (t.shape[d] > 1) order[n++] = d;
  }
  auto step = [&](int d) { return t.strides[d] < 0 ? -t.strides[d] : t.strides[d]; };
  std::sort(order, order + n, [&](int a, int b) { return step(a) < step(b); });
  ptrdiff_t reach = (ptrdiff_t)dtype_size(t.dtype);
  for (int i = 0; i < n; i++) {
    if (step(order[i]) < reach) return true;
    reach += step(order[i]) * (ptrdiff_t)(t.shape[order[i]] - 1);
  }
  return false;
}

void check_output(const TensorView& out) {
  if (!out.writeable) throw ValueError(std::string(out.name) + " must be writeable, got a read-only array");
  if (stores_twice(out)) {
    throw ValueError(std::string(out.name) + " must store each element at an address of its own, got strides " +
                     shape_text(Shape(out.strides, out.strides + out.ndim)) + " for the shape " +
                     shape_text(out.shape, out.ndim));
  }
}

int check_axis(int64_t axis, const TensorView& t) {
  if (axis < -t.ndim || axis >= t.ndim) {
    throw ValueError("axis must lie in [" + std::to_string(-t.ndim) + ", " + std::to_string(t.ndim) + ") for " +
                     describe(t) + ", got " + std::to_string(axis));
  }
  return (int)(axis < 0 ? axis + t.ndim : axis);
}

std::string number_text(double value) {
  char text[32];
  snprintf(text, sizeof text, "%.9g", value);
  return text;
}

void check_range(const Parameter& p, double value) {
  const bool inside = (p.above_minimum ? value > p.minimum : value >= p.minimum) &&
                      (p.below_maximum ? value < p.maximum : value <= p.maximum);  // NaN is not
  if (inside && (!p.is_flag || value == 0 || value == 1)) return;
  throw ValueError(std::string(p.name) + " must " +
                   (p.is_flag ? "be False or True"
                              : std::string("lie in ") + (p.above_minimum ? "(" : "[") + number_text(p.minimum) + ", " +
                                    number_text(p.maximum) + (p.below_maximum ? ")" : "]")) +
                   ", got " + number_text(value));
}

void memory_extent(const TensorView& t, const char*& low, const char*& high) {
  low = high = t.data;
  for (int d = 0; d < t.ndim; d++) {
    const ptrdiff_t reach = t.strides[d] * (ptrdiff_t)(t.shape[d] - 1);
    (reach < 0 ? low : high) += reach;
  }
  high += dtype_size(t.dtype);
}

bool extents_overlap(const TensorView& a, const TensorView& b) {
  if (a.size() == 0 || b.size() == 0) return false;
  const char *a_low, *a_high, *b_low, *b_high;
  memory_extent(a, a_low, a_high);
  memory_extent(b, b_low, b_high);
  return a_low < b_high && b_low < a_high;
}

bool same_view(const TensorView& a, const TensorView& b) {
  if (a.data != b.data || a.dtype != b.dtype || a.ndim != b.ndim) return false;
  for (int d = 0; d < a.ndim; d++) {
    if (a.shape[d] != b.shape[d] || (a.shape[d] > 1 && a.strides[d] != b.strides[d])) return false;
  }
  return true;
}

}  // namespace innerloop
