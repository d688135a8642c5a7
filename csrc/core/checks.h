// The one checking layer: what every entry point asks of its arguments before anything is written. Each check names
// the argument, what it got and what it takes.
#pragma once

#include "core/errors.h"
#include "core/tensor.h"

namespace innerloop {

void check_floating(const TensorView& t);                              // float32, float64, bfloat16 or float16
void check_full_precision(const TensorView& t);                        // float32 or float64
void check_dtype(const TensorView& t, const TensorView& like);         // the dtype of another argument
void check_weight_dtype(const TensorView& t, const TensorView& like);  // that, or what it is computed in
void check_dtype(const TensorView& t, Dtype want, const char* why);    // a stated dtype
void check_shape(const TensorView& t, const TensorView& like);         // the shape of another argument
void check_shape(const TensorView& t, const Shape& want, const char* why);
void check_ndim(const TensorView& t, int least, const char* meaning);  // at least this many axes
void check_output(const TensorView& out);                              // writeable, no element stored twice
int check_axis(int64_t axis, const TensorView& t);                     // -> 0 .. ndim - 1

void check_range(const Parameter& parameter, double value);  // a number within its rule's bounds; never NaN

std::string number_text(double value);  // for messages

// The bytes that a view of at least one element reaches over: [low, high).
void memory_extent(const TensorView& t, const char*& low, const char*& high);
// Whether two views may share a byte: exact where they do not, conservative where their extents interleave.
bool extents_overlap(const TensorView& a, const TensorView& b);
bool same_view(const TensorView& a, const TensorView& b);  // the same elements in the same places

}  // namespace innerloop
