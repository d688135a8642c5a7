#include "core/linear.h"

#include <string.h>

#include <memory>

#include "core/buffers.h"
#include "core/call.h"
#include "core/checks.h"
#include "core/dropout.h"
#include "core/half.h"

namespace innerloop {
namespace {

int index_of(const Kernels& kernels, const Activation& activation) {
  int i = 0;
  while (strcmp(kernels.activations->data[i].name, activation.name) != 0) i++;
  return i;
}

size_t panel_bytes(const LinearKernels& kernels, Dtype dtype, int64_t k, int64_t n) {
  size_t bytes = dtype_size(compute_dtype(dtype)), columns;
  if (__builtin_add_overflow((size_t)n, (size_t)kernels.panel - 1, &columns) ||
      __builtin_mul_overflow(bytes, columns / (size_t)kernels.panel * (size_t)kernels.panel, &bytes) ||
      __builtin_mul_overflow(bytes, (size_t)k, &bytes)) {
    throw ValueError("a packed weight of shape " + shape_text({k, n}) + " would not fit into memory");
  }
  return bytes;
}

}  // namespace

Storage storage_code(Dtype d) {
  return d == Dtype::bf16 ? Storage::bfloat16 : d == Dtype::f16 ? Storage::float16 : Storage::full;
}

Strided strided(const TensorView* t) {
  if (t == nullptr) return {};
  return {t->data, t->strides[0], storage_code(t->dtype)};
}

const LinearKernels& linear_kernels(Dtype dtype) { return typed(*kernels().linear, dtype); }

int activation_index(const Activation& activation) { return index_of(kernels(), activation); }
int identity_index() { return activation_index(find_activation("identity")); }

bool rows_merge(const TensorView& t, int axes, ptrdiff_t& step) {
  int64_t rows = 1;
  bool merges = true;
  step = 0;
  for (int d = axes - 1; d >= 0; d--) {
    if (t.shape[d] == 1) continue;
    if (rows == 1) {
      step = t.strides[d];
    } else {
      merges = merges && t.strides[d] == step * (ptrdiff_t)rows;
    }
    rows *= t.shape[d];
  }
  return merges || rows == 0;
}

Matrix matrix_of(const TensorView& t, Call& call, int64_t first, int64_t count) {
  const int last = t.ndim - 1;
  Matrix m = {t.data, 0, t.strides[last], nullptr, storage_code(t.dtype)};
  if (rows_merge(t, last, m.row)) {
    if (count > 0) m.data += first * m.row;
    return m;
  }
  auto* table = call.array<ptrdiff_t>(count);
  for_rows_of(t, last, first, count, [&](int64_t i, ptrdiff_t offset) { table[i] = offset; });
  m.rows = table;
  return m;
}

Matrix matrix_of(const TensorView& t, Call& call) { return matrix_of(t, call, 0, rows_of(t)); }

int64_t rows_of(const TensorView& t) {
  int64_t rows = 1;
  for (int d = 0; d < t.ndim - 1; d++) rows *= t.shape[d];
  return rows;
}

PackedWeight::PackedWeight(const TensorView& w) : dtype(w.dtype), k(w.shape[0]), n(w.shape[1]) {
  first = lay_out(typed(*innerloop::kernels().linear, dtype), false,
                  {w.data, w.strides[0], w.strides[1], nullptr, storage_code(dtype)});
}

PackedWeight::~PackedWeight() {
  for (Panels *p = newest.load(), *next; p != nullptr; p = next) {
    next = p->next;
    buffers::release(p->data);
    delete p;
  }
}

const PackedWeight::Panels* PackedWeight::lay_out(const LinearKernels& kernels, bool transposed,
                                                  const Matrix& w) const {
  const int64_t rows = transposed ? n : k, columns = transposed ? k : n;
  auto made = std::make_unique<Panels>(Panels{kernels.panel, transposed, nullptr, nullptr});
  made->data = buffers::acquire(panel_bytes(kernels, dtype, rows, columns));
  Call call;
  if (rows > 0) kernels.pack(call, rows, columns, w, made->data);
  made->next = newest.load();
  while (!newest.compare_exchange_weak(made->next, made.get())) {
  }
  return made.release();
}

const void* PackedWeight::panels(const LinearKernels& kernels, bool transposed) const {
  for (const Panels* p = newest.load(); p != nullptr; p = p->next) {
    if (p->width == kernels.panel && p->transposed == transposed) return p->data;
  }
  Call call;
  const ptrdiff_t item = (ptrdiff_t)dtype_size(compute_dtype(dtype)), row = (ptrdiff_t)n * item;
  char* w = static_cast<char*>(call.scratch((size_t)k * (size_t)row));
  widen(w);
  return lay_out(kernels, transposed, {w, transposed ? item : row, transposed ? row : item, nullptr})->data;
}

void PackedWeight::unpack(char* w) const {
  if (!is_half(dtype)) return widen(w);
  Call call;
  const int64_t size = k * n;
  float* wide = call.array<float>(size);
  widen(reinterpret_cast<char*>(wide));
  Walk<1> to = {};
  to.ndim = 1;
  to.shape[0] = size;
  to.stride[0][0] = (ptrdiff_t)dtype_size(dtype);
  to.data[0] = w;
  if (size > 0) storage_of(dtype).narrow(wide, to, 0, size);
}

void PackedWeight::widen(char* w) const {
  const size_t item = dtype_size(compute_dtype(dtype));
  const char* from = static_cast<const char*>(first->data);
  for (int64_t j = 0; k > 0 && j < n; j += first->width) {
    const int64_t columns = n - j < first->width ? n - j : first->width;
    for (int64_t i = 0; i < k; i++, from += (size_t)first->width * item) {
      memcpy(w + (size_t)(i * n + j) * item, from, (size_t)columns * item);
    }
  }
}

Shape check_linear(const TensorView& x, const Weight& w) {
  check_floating(x);
  check_ndim(x, 1, "the last of length K");
  if (w.packed == nullptr) {
    check_dtype(w.view, x);
    if (w.view.ndim != 2) throw ValueError("w must have 2 axes, (K, N), got " + describe(w.view));
  } else if (w.packed->dtype != x.dtype) {
    throw TypeError(std::string("w must have the dtype of ") + x.name + ", " + dtype_name(x.dtype) + ", got a " +
                    dtype_name(w.packed->dtype) + " PackedWeight");
  }
  Shape shape = x.dims();
  if (shape.back() != w.k()) {
    throw ValueError("w must have the shape (" + std::to_string(shape.back()) + ", N) (K rows for x (..., K), " +
                     describe(x) + "), got " + shape_text({w.k(), w.n()}));
  }
  shape.back() = w.n();
  return shape;
}

void linear_forward(const Activation& activation, const double* parameters, const TensorView& x, const Weight& w,
                    const TensorView* bias, const TensorView& y, const TensorView* z, const DropoutWork* dropout) {
  const Kernels& in_use = kernels();
  const LinearKernels& kernel = typed(*in_use.linear, x.dtype);
  Call call;
  Linear l = {};
  l.m = rows_of(x);
  l.n = w.n();
  l.k = w.k();
  l.x = matrix_of(x, call);
  if (w.packed != nullptr) {
    l.panels = w.packed->panels(kernel, false);
  } else {
    l.w = matrix_of(w.view, call);
  }
  l.y = matrix_of(y, call);
  if (z != nullptr) l.z = matrix_of(*z, call);
  l.bias = strided(bias);
  l.activation = index_of(in_use, activation);
  l.parameters = parameters;
  l.dropout = dropout;
  l.keeps_output = dropout != nullptr && z != nullptr && activation.saves_output;
  kernel.forward(call, l);
}

void linear_backward(const Activation& activation, const double* parameters, const TensorView& dy, const TensorView& x,
                     const Weight& w, const TensorView* saved, const TensorView* dx, const TensorView& dw,
                     const TensorView* db, const DropoutWork* dropout) {
  const Kernels& in_use = kernels();
  const LinearKernels& kernel = typed(*in_use.linear, x.dtype);
  Call call;
  LinearBackward l = {};
  l.m = rows_of(x);
  l.n = w.n();
  l.k = w.k();
  TensorView kept = dy;  // what dropout lets through
  if (dropout != nullptr && dy.size() > 0) {
    kept = contiguous_view(call.scratch((size_t)dy.size() * dtype_size(dy.dtype)), dy.dtype, dy);
    innerloop::dropout(*dropout, dy, kept);
  }
  l.dy = matrix_of(kept, call);
  l.x = matrix_of(x, call);
  l.without_dx = dx == nullptr;
  if (dx != nullptr) {
    if (w.packed != nullptr) {
      l.panels = w.packed->panels(kernel, true);
    } else {
      l.w = matrix_of(w.view, call);
    }
    l.dx = matrix_of(*dx, call);
  }
  if (saved != nullptr) l.saved = matrix_of(*saved, call);
  l.dw = matrix_of(dw, call);
  l.db = strided(db);
  l.activation = index_of(in_use, activation);
  l.parameters = parameters;
  kernel.backward(call, l);
}

}  // namespace innerloop
