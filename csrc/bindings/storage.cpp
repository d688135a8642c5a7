// Python's view of numbers in fewer bits: for tests, and to read an optimizer's states.
#include "bindings/arrays.h"
#include "bindings/nouns.h"
#include "core/half.h"

namespace innerloop {
namespace {

using Floats = py::array_t<float, py::array::c_style>;
using Bytes = py::array_t<uint8_t, py::array::c_style>;

template <class T>
char* bytes_of(py::array_t<T, py::array::c_style>& a) {
  return reinterpret_cast<char*>(a.mutable_data());
}

template <class T>
Walk<1> walk_of(py::array_t<T, py::array::c_style>& a) {
  return walk_contiguous(bytes_of(a), sizeof(T), a.size());
}

using Halves = py::array_t<uint16_t, py::array::c_style>;

Halves round_bfloat16(const Floats& x, uint64_t key) {
  Halves y(std::vector<py::ssize_t>(x.shape(), x.shape() + x.ndim()));
  if (x.size() > 0) kernels().storages->states.round_bf16(x.data(), 0, x.size(), key, bytes_of(y));
  return y;
}

py::tuple round_8bit(const Floats& x, bool negatives, uint64_t key) {
  Bytes codes(std::vector<py::ssize_t>(x.shape(), x.shape() + x.ndim()));
  Floats scales((x.size() + 255) / 256);
  if (x.size() > 0) {
    kernels().storages->states.round_8bit(x.data(), negatives, 0, x.size(), key, bytes_of(codes), bytes_of(scales));
  }
  return py::make_tuple(codes, scales);
}

Floats widen_8bit(Bytes codes, Floats scales, bool negatives) {
  if (scales.size() != (codes.size() + 255) / 256) throw py::value_error("scales must hold one number for 256 codes");
  Floats y(std::vector<py::ssize_t>(codes.shape(), codes.shape() + codes.ndim()));
  if (y.size() > 0) {
    kernels().storages->states.widen_8bit(bytes_of(codes), bytes_of(scales), negatives, 0, y.size(), y.mutable_data());
  }
  return y;
}

py::tuple split(const Floats& x) {
  const std::vector<py::ssize_t> shape(x.shape(), x.shape() + x.ndim());
  Halves upper(shape);
  py::array_t<int16_t, py::array::c_style> lower(shape);
  if (x.size() > 0) kernels().storages->split.split(x.data(), walk_of(upper), walk_of(lower), 0, x.size());
  return py::make_tuple(upper, lower);
}

Floats join(Halves upper, py::array_t<int16_t, py::array::c_style> lower) {
  if (upper.size() != lower.size()) throw py::value_error("upper and lower must have one shape");
  Floats x(std::vector<py::ssize_t>(upper.shape(), upper.shape() + upper.ndim()));
  if (x.size() > 0) kernels().storages->split.join(walk_of(upper), walk_of(lower), 0, x.size(), x.mutable_data());
  return x;
}

}  // namespace

void bind_storage(py::module_& m) {
  m.def("round_bfloat16", &round_bfloat16);
  m.def("round_8bit", &round_8bit);
  m.def("widen_8bit", &widen_8bit);
  m.def("split", &split);
  m.def("join", &join);
}

}  // namespace innerloop
