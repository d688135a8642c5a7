// Softmax cross-entropy of rows that are seen some classes at a time: sums over all parts first, then the gradient part
// by part. Where a row fits into memory, cpu/softmax_cross_entropy.cpp does it in one pass.
#include "cpu/exponentials.h"
#include "cpu/tables.h"
#include "rules/softmax_cross_entropy.h"

namespace innerloop::INNERLOOP_ISA {
namespace {

template <class T>
struct Part {
  using L = Lanes<Native<T>>;
  using Wide = Native<double>;
  const CrossEntropyPart& part;
  const CrossEntropy rule;

  explicit Part(const CrossEntropyPart& p)
      : part(p), rule{1 - p.label_smoothing, p.label_smoothing / (double)p.all_classes} {}

  template <class U>
  static U element(const void* p, int64_t i) {
    U x;
    memcpy(&x, (const char*)p + i * sizeof(U), sizeof x);
    return x;
  }
  static double shifted_exp(double x, double top) {  // 0 for nothing at all
    return x == -INFINITY ? 0 : exp_below_1_of<double>(x - top);
  }
  static double finite_or_0(double x) { return x > -INFINITY && x < INFINITY ? x : 0; }

  int64_t label(int64_t row) const { return part.labels ? element<int64_t>(part.labels, row) : 0; }
  const char* logits(int64_t row) const { return part.z + row * part.z_row; }
  bool shared() const { return !part.labels || part.label_smoothing > 0; }  // q is more than the label's own

  // q of n classes of the part from i on.
  HD L shares(int64_t row, int64_t i, int n) const {
    const L w = part.weight ? Row<T>::load((const char*)part.weight, part.first + i, n) : L(1);
    const L q = part.labels ? rule.smooth_share(w)
                            : rule.share(w, Row<T>::load(part.probabilities + row * part.probabilities_row, i, n));
    return n == L::count ? q : q.first(n, 0);
  }

  void add(int64_t row) const {
    CrossEntropySums& sums = part.sums[row];
    const char* z = logits(row);
    const int64_t own = label(row) - part.first;
    if (part.labels && label(row) >= 0 && own >= 0 && own < part.classes) sums.label = (double)element<T>(z, own);
    for (int64_t begin = 0; begin < part.classes; begin += kRowBlock) {
      const int64_t end = part.classes - begin < kRowBlock ? part.classes : begin + kRowBlock;
      const T top = largest_of<T>(z, begin, end);
      const T base = (T)finite_or_0((double)top);
      const L shift(top == -(T)INFINITY ? T(0) : top);
      L total(0), q(0), qz(0);
      for_lanes(begin, end, [&](int64_t i, int n) INNERLOOP_INLINE {
        const L x = Row<T>::load(z, i, n, -(T)INFINITY);
        total = total + exp_below_1(x - shift);
        if (!shared()) return;
        const L share = shares(row, i, n), above = x - L(base);
        qz = fma(share, n == L::count ? above : above.first(n, 0), qz);
        q = q + share;
      });
      const double raised = (double)top > sums.top ? (double)top : sums.top;
      const double factor = raised == (double)top ? 1 : shifted_exp((double)top, raised);
      sums.total = sums.total * shifted_exp(sums.top, raised) + (double)sum(total) * factor;
      if (raised != sums.top) {
        sums.sum_qz += sums.sum_q * (finite_or_0(sums.top) - finite_or_0(raised));
        sums.top = raised;
      }
      if (!shared()) continue;
      const double q_here = (double)sum(q);
      sums.sum_qz += (double)sum(qz) + q_here * ((double)base - finite_or_0(raised));
      sums.sum_q += q_here;
    }
  }

  // The loss of a row, and what its gradient is made of.
  void finish(int64_t row, void* losses, void* slopes) const {
    const CrossEntropySums& sums = part.sums[row];
    double loss = 0, slope[4] = {};
    if (label(row) >= 0) {
      const double total = sums.top == -INFINITY ? (double)NAN : sums.total;
      const double log_total = log(Wide(total))[0];
      const double class_weight = part.labels && part.weight ? (double)element<T>(part.weight, label(row)) : 1;
      const double row_weight = part.sample_weight ? (double)element<T>(part.sample_weight, row) : 1;
      const double own = part.labels ? rule.hit * class_weight : 0;
      if (part.labels) loss = rule.label_loss(own, sums.label - sums.top, log_total);
      if (shared()) loss += sums.sum_q * log_total - sums.sum_qz;
      if (part.sample_weight) loss *= row_weight;
      const double row_scale = part.scale * row_weight;
      double scaled = row_scale * (own + sums.sum_q);
      if (part.z_loss != 0) {
        const double z_weight = part.z_loss * (row_weight * class_weight), lse = sums.top + log_total;
        loss += rule.z_value(z_weight, lse);
        scaled += part.scale * rule.z_slope(z_weight, lse);
      }
      slope[0] = sums.top;
      slope[1] = scaled / total;
      slope[2] = row_scale;
      slope[3] = row_scale * own;
    }
    const T rounded = (T)loss;
    memcpy((char*)losses + row * sizeof(T), &rounded, sizeof rounded);
    for (int i = 0; slopes && i < 4; i++) {
      const T number = (T)slope[i];
      memcpy((char*)slopes + (row * 4 + i) * sizeof(T), &number, sizeof number);
    }
  }

  void gradient(int64_t row) const {
    char* z = part.z + row * part.z_row;
    if (label(row) < 0) {
      memset(z, 0, (size_t)part.classes * sizeof(T));
      return;
    }
    T slope[4];
    memcpy(slope, (const char*)part.slopes + row * 4 * sizeof(T), sizeof slope);
    const bool mixed = shared();
    for_lanes(0, part.classes, [&](int64_t i, int n) INNERLOOP_INLINE {
      const L e = exp_below_1(Row<T>::load(z, i, n) - L(slope[0]));
      const L scaled(slope[1]);
      Row<T>::store(mixed ? rule.gradient(e, scaled, L(slope[2]) * shares(row, i, n)) : rule.gradient(e, scaled), z, i,
                    n);
    });
    const int64_t own = label(row) - part.first;
    if (!part.labels || own < 0 || own >= part.classes) return;
    const T d = element<T>(z, own) - slope[3];
    memcpy(z + own * sizeof(T), &d, sizeof d);
  }
};

template <class T>
void add_part(const CrossEntropyPart& part, int64_t begin, int64_t end) {
  const Part<T> loop(part);
  for (int64_t row = begin; row < end; row++) loop.add(row);
}
template <class T>
void finish_rows(const CrossEntropyPart& part, void* losses, void* slopes, int64_t begin, int64_t end) {
  const Part<T> loop(part);
  for (int64_t row = begin; row < end; row++) loop.finish(row, losses, slopes);
}
template <class T>
void part_gradient(const CrossEntropyPart& part, int64_t begin, int64_t end) {
  const Part<T> loop(part);
  for (int64_t row = begin; row < end; row++) loop.gradient(row);
}

template <class T>
constexpr CrossEntropyParts parts = {add_part<T>, finish_rows<T>, part_gradient<T>};

}  // namespace

const ByDtype<CrossEntropyParts> cross_entropy_parts = {parts<float>, parts<double>};

}  // namespace innerloop::INNERLOOP_ISA
