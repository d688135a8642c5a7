// Softmax cross-entropy, value beside gradient, over any V.
#pragma once

#include "simd/math.h"

namespace innerloop::INNERLOOP_ISA {

// Cross-entropy of p = softmax(z) against target probabilities t, of a row z of C logits (Szegedy et al. 2016, 7):
//
//   loss = -sum(q log p)      q = w (hit t + even), hit = 1 - label_smoothing, even = label_smoothing / C
//   dz   = p sum(q) - q
//
// A label is the t that is 1 at its class and 0 elsewhere: its own part of q, w hit, is kept apart from what smoothing
// gives to every class. With top = max(z), e = exp(z - top), total = sum(e): log p = z - top - log(total), p = e /
// total.
//
// A row may be weighted by a number u, and z_loss adds z lse^2, lse = top + log(total), to its loss (Chowdhery et al.
// 2022, 5), whose gradient is 2 z lse p: a term of the same form as p sum(q).
struct CrossEntropy {
  double hit, even;

  // q of a class of weight w and target probability t.
  template <class V>
  HD V share(V w, V t) const {
    return w * fma(V(hit), t, V(even));
  }
  // q of a class of weight w, without the label's own.
  template <class V>
  HD V smooth_share(V w) const {
    return w * V(even);
  }

  // The label's part of the loss: `own` = w hit at the label, `below_top` = z - top there.
  template <class V>
  static HD V label_loss(V own, V below_top, V log_total) {
    return own * (log_total - below_top);
  }
  // The part of shares q: from sum(q) and sum(q (z - top)).
  template <class V>
  static HD V shared_loss(V sum_q, V sum_qz, V log_total) {
    return fma(sum_q, log_total, -sum_qz);
  }

  // Of z_loss, `weight` being z times all that the row weighs: its value, and the gradient's factor of p.
  template <class V>
  static HD V z_value(V weight, V lse) {
    return weight * (lse * lse);
  }
  template <class V>
  static HD V z_slope(V weight, V lse) {
    return (weight + weight) * lse;
  }

  // scale * dz, from scaled = scale * (sum(q) + z_slope) / total and scaled_q = scale * q; a label's own part comes off
  // after.
  template <class V>
  static HD V gradient(V e, V scaled) {
    return e * scaled;
  }
  template <class V>
  static HD V gradient(V e, V scaled, V scaled_q) {
    return fma(e, scaled, -scaled_q);
  }
};

}  // namespace innerloop::INNERLOOP_ISA
