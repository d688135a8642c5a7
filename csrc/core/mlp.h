// A network of dense layers: its forward pass, its loss with all gradients, and an epoch of training, batch after batch
// without returning to the caller. Everything is made of the list's kernels.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/optimizers.h"
#include "core/tensor.h"

namespace innerloop {

struct MlpLayer {
  TensorView w, b;  // (K, N) and (N,), of the network's dtype
  std::string activation;
  double parameters[kMaxParameters];  // of the activation
  double dropout;                     // of the layer's output
};

// What is minimised: value_scale * sum(loss) / W, where W is the sum of the rows' weights, or their number, and the
// penalty on the weights l2 / 2 * sum(w^2) + l1 * sum(|w|), divided by W where `penalty_over_weights`. Its gradient is
// taken with gradient_scale in value_scale's place: scikit-learn's differ.
struct MlpObjective {
  std::string loss;                   // an elementwise loss, or softmax_cross_entropy
  double parameters[kMaxParameters];  // of the elementwise loss
  double label_smoothing = 0, z_loss = 0;
  double value_scale = 1, gradient_scale = 1;
  double l1 = 0, l2 = 0;
  bool penalty_over_weights = false;
};

struct MlpNetwork {
  Dtype dtype;
  std::vector<MlpLayer> layers;
  MlpObjective objective;
  uint64_t seed;  // of dropout

  int64_t inputs() const { return layers.front().w.shape[0]; }
  int64_t outputs() const { return layers.back().w.shape[1]; }
};

// Rows to learn from. The target holds labels, (rows,), or floating point, (rows, outputs).
struct MlpRows {
  TensorView x, target;
  const TensorView* sample_weight;  // (rows,) of the network's dtype; or null
};

// y = the last layer's output, (rows, outputs).
void mlp_forward(const MlpNetwork& network, const TensorView& x, const TensorView& y);

// Where each layer's gradients go, in C order.
struct MlpGradients {
  TensorView dw, db;
};

// The loss of all rows, penalty included, and its gradients where `gradients` is not null. Layer i is dropped out with
// the offset *dropout_offset + i, or not where that is null. Throws IndexError for a label out of range, with nothing
// written.
double mlp_loss(const MlpNetwork& network, const MlpRows& rows, const MlpGradients* gradients,
                const uint64_t* dropout_offset);

struct MlpEpoch {
  const int64_t* order = nullptr;  // of `count` rows, each in range; null: as they come
  int64_t count = 0, batch = 1;
  uint64_t dropout_offset = 0;  // of the first batch; each takes as many as there are layers
  int threads = 0;              // that a batch may use; 0: all
  bool judges = false;          // first find out, over some batches, whether all threads are worth it
  double seconds[2] = {__builtin_inf(), __builtin_inf()};  // the fastest batch so far on one thread, on all
  OptimizerStep* step = nullptr;
  std::function<void(int64_t)> prepare;  // called before each step, counting from 0
  std::function<bool()> stop;            // asked after each step
};

struct MlpProgress {
  double loss = 0;              // sum over batches of loss * rows
  int64_t rows = 0, steps = 0;  // done
  int threads = 0;              // chosen; 0: too few batches to judge by
  double seconds[2] = {__builtin_inf(), __builtin_inf()};
  double norm = 0;  // of the last step's gradients, as OptimizerStep::run returns it
};

// Throws as mlp_loss, with nothing written; or, a loss having refused a prediction, with `progress` made.
void mlp_epoch(const MlpNetwork& network, const MlpRows& rows, const MlpGradients* gradients, const MlpEpoch& epoch,
               MlpProgress& progress);

}  // namespace innerloop
