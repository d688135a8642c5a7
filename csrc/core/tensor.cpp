#include "core/tensor.h"

namespace innerloop {

static constexpr struct {
  const char* name;
  size_t size;
} kDtypes[] = {{"float32", 4}, {"float64", 8}, {"bfloat16", 2}, {"float16", 2}, {"int8", 1},
               {"uint8", 1},   {"int16", 2},   {"uint16", 2},   {"int32", 4},   {"uint32", 4},
               {"int64", 8},   {"uint64", 8},  {"bool", 1}};

const char* dtype_name(Dtype d) { return kDtypes[(int)d].name; }
size_t dtype_size(Dtype d) { return kDtypes[(int)d].size; }

std::string shape_text(const int64_t* shape, int ndim) {
  std::string text = "(";
  for (int d = 0; d < ndim; d++) text += (d ? ", " : "") + std::to_string(shape[d]);
  return text + (ndim == 1 ? ",)" : ")");
}

std::string describe(const TensorView& t) {
  return std::string("a ") + dtype_name(t.dtype) + " array of shape " + shape_text(t.shape, t.ndim);
}

}  // namespace innerloop
