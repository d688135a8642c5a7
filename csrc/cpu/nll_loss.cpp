// nll_loss: one element a row, so nothing here is worth a vector.
#include "cpu/elementwise.h"
#include "cpu/tables.h"
#include "rules/losses.h"

namespace innerloop::INNERLOOP_ISA {
namespace {

template <class T>
T read(const void* p, int64_t i = 0) {
  T x;
  memcpy(&x, (const char*)p + i * (int64_t)sizeof(T), sizeof x);
  return x;
}

// visit(label, weight, pointers, i) for each row; i counts along the innermost axis.
template <class T, class Visit>
void for_labels(const NllWork& work, int64_t begin, int64_t end, const Visit& visit) {
  const int last = work.rows.ndim - 1;
  for_rows(work.rows, begin, end, [&](char* const* p, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
      char* at[5];
      for (int op = 0; op < 5; op++) at[op] = p[op] + i * work.rows.stride[op][last];
      const int64_t label = read<int64_t>(at[1]);
      T weight = 1;
      if (label >= 0 && work.weight) weight = read<T>(work.weight, label);
      if (label >= 0 && work.sample_weighted) weight = weight * read<T>(at[2]);
      visit(label, weight, at);
    }
  });
}

template <class T>
void losses(const NllWork& work, int64_t begin, int64_t end) {
  using V = Vec<T, 1>;
  for_labels<T>(work, begin, end, [&](int64_t label, T weight, char* const* at) {
    V loss(0);
    if (label >= 0) loss = NegativeLogLikelihood::loss(V::load(at[0] + label * work.step), V(weight));
    loss.store(at[3]);
  });
}

template <class T>
void gradient(const NllWork& work, int64_t begin, int64_t end) {
  using V = Vec<T, 1>;
  for_labels<T>(work, begin, end, [&](int64_t label, T weight, char* const* at) {
    if (label < 0) return;
    (NegativeLogLikelihood::slope(V(weight)) * V(T(work.scale))).store(at[4] + label * work.grad_step);
  });
}

}  // namespace

const ByDtype<NllKernels> nll_loss = {{losses<float>, gradient<float>}, {losses<double>, gradient<double>}};

}  // namespace innerloop::INNERLOOP_ISA
