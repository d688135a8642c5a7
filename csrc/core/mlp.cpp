#include "core/mlp.h"

#include <string.h>

#include <algorithm>
#include <chrono>
#include <new>

#include "core/activations.h"
#include "core/call.h"
#include "core/dispatch.h"
#include "core/dropout.h"
#include "core/elementwise_losses.h"
#include "core/linear.h"
#include "core/rows.h"
#include "core/softmax_cross_entropy.h"

namespace innerloop {
namespace {

constexpr int64_t kForwardRows = 512;  // rows that go through all layers at a time where nothing is kept of them
constexpr int kTrials = 8;             // batches by which a number of threads is judged, by the fastest of them
constexpr int64_t kGatherAhead = 4;    // rows that are asked for before they are copied,
constexpr int64_t kGatherBytes = 512;  // and how much of each: the rest comes by itself
constexpr double kWorth = 0.9;         // of one thread's time: more than one that take longer are not worth it

int64_t bytes_of(int64_t rows, int64_t columns, Dtype dtype) {
  int64_t bytes;
  if (__builtin_mul_overflow(rows, columns, &bytes) ||
      __builtin_mul_overflow(bytes, (int64_t)dtype_size(dtype), &bytes)) {
    throw std::bad_alloc();
  }
  return bytes;
}

// Rows [first, first + count) of a view.
TensorView rows_from(const TensorView& t, int64_t first, int64_t count) {
  TensorView some = t;
  some.data += first * t.strides[0];
  some.shape[0] = count;
  return some;
}

Matrix matrix(const TensorView& t) { return {t.data, t.strides[0], t.strides[1], nullptr}; }

// Rows order[0 .. count) of a view of two axes.
void gather(const TensorView& t, const int64_t* order, int64_t count, char* to, ptrdiff_t pitch) {
  const int64_t columns = t.shape[1];
  const ptrdiff_t item = (ptrdiff_t)dtype_size(t.dtype), step = t.strides[1];
  for (int64_t i = 0; i < count; i++, to += pitch) {
    const char* row = t.data + order[i] * t.strides[0];
    if (step == item) {
      if (i + kGatherAhead < count) {
        const char* next = t.data + order[i + kGatherAhead] * t.strides[0];
        for (ptrdiff_t at = 0; at < std::min(columns * item, kGatherBytes); at += 64) __builtin_prefetch(next + at);
      }
      memcpy(to, row, (size_t)(columns * item));
    } else {
      for (int64_t j = 0; j < columns; j++) memcpy(to + j * item, row + j * step, (size_t)item);
    }
  }
}

// A layer as the kernels see it, and where its results of a batch go.
struct Layer {
  const MlpLayer* own;
  const Activation* activation;
  int index;      // of the activation in the list
  bool identity;  // is the activation
  DropoutWork dropout;
  char *y, *z;  // z: act(...) before dropout or the pre-activation, where the derivative needs it; else null

  ptrdiff_t pitch;  // of both

  int64_t k() const { return own->w.shape[0]; }
  int64_t n() const { return own->w.shape[1]; }
};

// Some rows, gathered.
struct Batch {
  TensorView x;
  TensorView target;                    // of probabilities or numbers; else without data
  const int64_t* labels = nullptr;      // one a row, kIgnored or a class
  const void* sample_weight = nullptr;  // one a row, or null
  double weight = 0;                    // the sum of them over rows that are not ignored
};

enum class Wants { output, loss, gradients };  // each with what stands before it

// The buffers of up to `capacity` rows, and what is done in them.
class Run {
 public:
  Run(Call& call, const MlpNetwork& network, int64_t capacity, Wants wants)
      : call(call),
        o(network.objective),
        dtype(network.dtype),
        item((ptrdiff_t)dtype_size(dtype)),
        kernels(linear_kernels(dtype)),
        classes(o.loss == "softmax_cross_entropy") {
    if (!classes) loss = &find_elementwise_loss(o.loss);
    if (o.l1 > 0) l1 = &find_elementwise_loss("l1_loss");
    if (o.l2 > 0) l2 = &find_elementwise_loss("mse_loss");
    const bool training = wants == Wants::gradients;
    int64_t widest = 0, largest = 0;
    for (const MlpLayer& own : network.layers) {
      const Activation& activation = find_activation(own.activation);
      Layer layer = {&own,
                     &activation,
                     0,
                     own.activation == "identity",
                     {network.seed, 0, own.dropout},
                     {},
                     {},
                     row_pitch(own.w.shape[1], item)};
      const Span<Activation>& all = *innerloop::kernels().activations;
      while (&all.data[layer.index] != &activation) layer.index++;
      layers.push_back(layer);
      widest = std::max(widest, layer.n());
      largest = std::max(largest, own.w.size());
    }
    layers.back().pitch = layers.back().n() * item;  // the losses like it end to end
    const int64_t widest_bytes = bytes_of(capacity, row_pitch(widest, item) / item, dtype);
    for (Layer& layer : layers) {
      const int64_t bytes = training ? bytes_of(capacity, layer.pitch / item, dtype) : widest_bytes;
      const bool reused = !training && &layer - layers.data() >= 2;  // two buffers take turns
      layer.y = reused ? (&layer)[-2].y : call.array<char>(bytes);
      const bool from_output = layer.activation->saves_output && layer.own->dropout == 0;
      layer.z = training && !layer.identity && !from_output ? call.array<char>(bytes) : nullptr;
    }
    losses = call.array<char>(bytes_of(capacity, 1, dtype));
    if ((l1 || l2) && wants != Wants::output) {  // not one, broadcast, which takes the slow way of strided operands
      zeros = call.array<char>(largest * item);
      memset(zeros, 0, (size_t)(largest * item));
    }
    if (training) {
      for (char*& g : gradient) g = call.array<char>(widest_bytes);
      if (l1 && l2) both = call.array<char>(largest * item);
    }
    mark = call.mark();
  }

  // The last layer's output, in `out` where that is not null.
  TensorView forward(const TensorView& x, const uint64_t* dropout_offset, const TensorView* out = nullptr) {
    TensorView input = x;
    for (size_t i = 0; i < layers.size(); i++) {
      Layer& layer = layers[i];
      TensorView y = matrix_view("pred", layer.y, dtype, x.shape[0], layer.n(), layer.pitch);
      if (out && i + 1 == layers.size()) y = *out;
      Linear l = {};
      l.m = x.shape[0];
      l.n = layer.n();
      l.k = layer.k();
      l.x = matrix(input);
      l.w = matrix(layer.own->w);
      l.y = matrix(y);
      l.bias = strided(&layer.own->b);
      l.activation = layer.index;
      l.parameters = layer.own->parameters;
      if (dropout_offset && layer.own->dropout > 0) {
        layer.dropout.offset = *dropout_offset + i;
        l.dropout = &layer.dropout;
      }
      l.keeps_output = layer.activation->saves_output;
      if (saved(layer, l.dropout) == layer.z && layer.z)
        l.z = matrix(matrix_view("z", layer.z, dtype, l.m, l.n, layer.pitch));
      call.rewind(mark);
      kernels.forward(call, l);
      input = y;
    }
    return input;
  }

  double run(const Batch& batch, const MlpGradients* gradients, const uint64_t* dropout_offset) {
    TensorView pred = forward(batch.x, dropout_offset), dy = pred;
    // The gradient takes the prediction's place, unless that is what the last activation's derivative is made from.
    if (layers.back().activation->saves_output && !layers.back().identity) dy.data = gradient[layers.size() % 2];
    double value = classes ? cross_entropy(batch, pred, gradients ? &dy : nullptr)
                           : elementwise(batch, pred, gradients ? &dy : nullptr);
    value += penalty(gradients, o.penalty_over_weights ? inverse(batch.weight) : 1);
    if (gradients) backward(batch, dy, gradients, dropout_offset);
    return value;
  }

 private:
  Call& call;
  const MlpObjective& o;
  const Dtype dtype;
  const ptrdiff_t item;
  const LinearKernels& kernels;
  const bool classes;  // the loss is softmax_cross_entropy
  const ElementwiseLoss *loss = nullptr, *l1 = nullptr, *l2 = nullptr;
  std::vector<Layer> layers;
  char* losses = nullptr;  // one a row
  char* zeros = nullptr;
  char *gradient[2] = {nullptr, nullptr}, *both = nullptr;
  size_t mark;

  // What the activation's derivative is made from.
  static char* saved(const Layer& layer, bool drops) {
    return layer.activation->saves_output && !drops ? layer.y : layer.z;
  }

  // Rows without weight have neither a loss nor a gradient.
  static double inverse(double weight) { return weight == 0 ? 0 : 1 / weight; }

  double cross_entropy(const Batch& batch, const TensorView& logits, const TensorView* dlogits) {
    CrossEntropyPlan plan = {};
    plan.dtype = dtype;
    plan.rows = logits.shape[0];
    plan.classes = logits.shape[1];
    plan.probabilities = batch.labels == nullptr;
    plan.labels = batch.labels;
    plan.sample_weight = batch.sample_weight;
    plan.label_smoothing = o.label_smoothing;
    plan.z_loss = o.z_loss;
    plan.scale = o.gradient_scale * inverse(batch.weight);
    TensorView of_rows = without_axis(logits, 1);
    of_rows.data = losses;
    of_rows.strides[0] = item;
    const CrossEntropyWork work =
        cross_entropy_work(plan, 0, logits, 1, plan.probabilities ? &batch.target : nullptr, of_rows, dlogits);
    call.rewind(mark);
    run_rows(call, work.rows,
             [&](void* scratch, int64_t begin, int64_t end) { run_cross_entropy(plan, work, scratch, begin, end); });
    return o.value_scale * inverse(batch.weight) * sum_of(losses, dtype, plan.rows);
  }

  double elementwise(const Batch& batch, const TensorView& pred, const TensorView* dpred) {
    TensorView weights = pred;
    weights.data = (char*)batch.sample_weight;
    weights.strides[0] = item;
    weights.strides[1] = 0;
    const double each = inverse(batch.weight);
    const ElementwiseLossInputs inputs = {&pred, &batch.target, batch.sample_weight ? &weights : nullptr, nullptr};
    return o.value_scale * each *
           elementwise_loss(*loss, o.parameters, inputs, Reduction::sum, o.gradient_scale * each, nullptr, dpred);
  }

  // The penalty on the weights; where gradients are wanted, dw becomes its gradient and db 0.
  double penalty(const MlpGradients* gradients, double scale) {
    if (!l1 && !l2) return 0;
    double value = 0;
    for (size_t i = 0; i < layers.size(); i++) {
      const TensorView& w = layers[i].own->w;
      TensorView zero = w;
      zero.data = zeros;
      const ElementwiseLossInputs inputs = {&w, &zero, nullptr, nullptr};
      const TensorView* dw = gradients ? &gradients[i].dw : nullptr;
      if (dw) memset(gradients[i].db.data, 0, (size_t)(w.shape[1] * item));
      if (l2) {
        const double half = o.l2 * scale / 2;
        value += half * elementwise_loss(*l2, nullptr, inputs, Reduction::sum, half, nullptr, dw);
      }
      if (!l1) continue;
      TensorView apart = matrix_view("dw", both, dtype, w.shape[0], w.shape[1], w.shape[1] * item);
      const TensorView* to = dw && l2 ? &apart : dw;
      value += o.l1 * scale * elementwise_loss(*l1, nullptr, inputs, Reduction::sum, o.l1 * scale, nullptr, to);
      if (to == &apart) dtype == Dtype::f64 ? add<double>(apart, *dw) : add<float>(apart, *dw);
    }
    return value;
  }

  template <class T>
  static void add(const TensorView& from, const TensorView& to) {
    for (int64_t i = 0; i < from.size(); i++) ((T*)to.data)[i] += ((const T*)from.data)[i];
  }

  void backward(const Batch& batch, TensorView dy, const MlpGradients* gradients, const uint64_t* dropout_offset) {
    const int64_t rows = dy.shape[0];
    for (size_t i = layers.size(); i-- > 0;) {
      const Layer& layer = layers[i];
      const bool drops = dropout_offset && layer.own->dropout > 0;
      if (drops) dropout(layer.dropout, dy, dy);
      // Both products read dz: it is made once, in the place of dy.
      if (!layer.identity) {
        const TensorView kept = matrix_view("saved", saved(layer, drops), dtype, rows, layer.n(), layer.pitch);
        activation_backward(*layer.activation, layer.own->parameters, dy, kept, layer.activation->saves_output, dy);
      }
      LinearBackward l = {};
      l.m = rows;
      l.n = layer.n();
      l.k = layer.k();
      l.dy = matrix(dy);
      const ptrdiff_t pitch = i > 0 ? layers[i - 1].pitch : 0;
      l.x = matrix(i > 0 ? matrix_view("x", layers[i - 1].y, dtype, rows, l.k, pitch) : batch.x);
      l.w = matrix(layer.own->w);
      l.dw = matrix(gradients[i].dw);
      l.db = strided(&gradients[i].db);
      l.activation = identity_index();
      l.accumulate_dw = l1 || l2;
      l.without_dx = i == 0;
      if (i > 0) {
        dy = matrix_view("dx", gradient[i % 2], dtype, rows, l.k, pitch);
        l.dx = matrix(dy);
      }
      call.rewind(mark);
      kernels.backward(call, l);
    }
  }
};

// What a call learns from, read and checked; and batches of it.
class Data {
 public:
  Data(Call& call, const MlpNetwork& network, const MlpRows& rows, int64_t capacity, bool gathers)
      : rows(rows), dtype(network.dtype), item((ptrdiff_t)dtype_size(dtype)) {
    if (!is_floating(rows.target.dtype)) all = read_labels(call, rows.target, network.outputs(), -100);
    if (rows.sample_weight) weights = static_cast<const char*>(read_values(call, *rows.sample_weight));
    if (!gathers) return;
    x = call.array<char>(bytes_of(capacity, row_pitch(network.inputs(), item) / item, dtype));
    if (all.index) labels = call.array<int64_t>(capacity);
    if (!all.index) target = call.array<char>(bytes_of(capacity, network.outputs(), dtype));
    if (weights) some_weights = call.array<char>(capacity * item);
  }

  // Rows order[0 .. count), or the rows from `first` on where there is no order.
  Batch batch(const int64_t* order, int64_t first, int64_t count) const {
    Batch b;
    if (order) {
      b.x = matrix_view("x", x, dtype, count, rows.x.shape[1], row_pitch(rows.x.shape[1], item));
      gather(rows.x, order, count, x, b.x.strides[0]);
      if (all.index) {
        for (int64_t i = 0; i < count; i++) labels[i] = all.index[order[i]];
        b.labels = labels;
      } else {
        b.target = matrix_view("target", target, dtype, count, rows.target.shape[1], rows.target.shape[1] * item);
        gather(rows.target, order, count, target, b.target.strides[0]);
      }
      if (weights) {
        for (int64_t i = 0; i < count; i++) memcpy(some_weights + i * item, weights + order[i] * item, (size_t)item);
        b.sample_weight = some_weights;
      }
    } else {
      b.x = rows_from(rows.x, first, count);
      if (all.index) b.labels = all.index + first;
      if (!all.index) b.target = rows_from(rows.target, first, count);
      if (weights) b.sample_weight = weights + first * item;
    }
    if (b.labels) {
      Labels those = {const_cast<int64_t*>(b.labels), 0};
      for (int64_t i = 0; i < count; i++) those.counted += b.labels[i] != kIgnored;
      b.weight = sum_of_weights(those, count, nullptr, b.sample_weight, dtype);
    } else {
      b.weight = b.sample_weight ? sum_of(b.sample_weight, dtype, count) : (double)count;
    }
    return b;
  }

 private:
  const MlpRows& rows;
  const Dtype dtype;
  const ptrdiff_t item;
  Labels all = {nullptr, 0};
  const char* weights = nullptr;
  char *x = nullptr, *target = nullptr, *some_weights = nullptr;
  int64_t* labels = nullptr;
};

}  // namespace

void mlp_forward(const MlpNetwork& network, const TensorView& x, const TensorView& y) {
  const int64_t rows = x.shape[0];
  if (rows == 0) return;
  Call call;
  Run run(call, network, std::min(rows, kForwardRows), Wants::output);
  for (int64_t first = 0; first < rows; first += kForwardRows) {
    const int64_t count = std::min(kForwardRows, rows - first);
    const TensorView out = rows_from(y, first, count);
    run.forward(rows_from(x, first, count), nullptr, &out);
  }
}

double mlp_loss(const MlpNetwork& network, const MlpRows& rows, const MlpGradients* gradients,
                const uint64_t* dropout_offset) {
  Call call;
  const Data data(call, network, rows, 0, false);
  Run run(call, network, rows.x.shape[0], gradients ? Wants::gradients : Wants::loss);
  return run.run(data.batch(nullptr, 0, rows.x.shape[0]), gradients, dropout_offset);
}

void mlp_epoch(const MlpNetwork& network, const MlpRows& rows, const MlpGradients* gradients, const MlpEpoch& epoch,
               MlpProgress& progress) {
  using Clock = std::chrono::steady_clock;
  Call call;
  const int64_t capacity = std::min(epoch.batch, epoch.count);
  const Data data(call, network, rows, capacity, epoch.order != nullptr);
  Run run(call, network, capacity, Wants::gradients);
  const int most = pool::threads();
  const bool judges = epoch.judges && most > 1;
  progress.threads = judges ? 0 : epoch.threads > 0 ? std::min(epoch.threads, most) : most;
  std::copy_n(epoch.seconds, 2, progress.seconds);
  uint64_t offset = epoch.dropout_offset;
  for (int64_t first = 0; first < epoch.count; first += epoch.batch) {
    const int64_t count = std::min(epoch.batch, epoch.count - first);
    // Not by turns: workers that wait for a whole batch fall asleep.
    const bool all = progress.steps >= kTrials / 2;
    const pool::Limit limit(progress.threads ? progress.threads : all ? most : 1);
    call.threads = pool::threads();
    const auto start = Clock::now();
    const double loss =
        run.run(data.batch(epoch.order ? epoch.order + first : nullptr, first, count), gradients, &offset);
    epoch.prepare(progress.steps);
    progress.norm = epoch.step->run();
    progress.loss += loss * (double)count;
    progress.rows += count;
    progress.steps++;
    offset += network.layers.size();
    if (!progress.threads && count == capacity) {
      const std::chrono::duration<double> took = Clock::now() - start;
      progress.seconds[all] = std::min(progress.seconds[all], took.count());
    }
    if (!progress.threads && (progress.steps == kTrials || (first + count == epoch.count && all))) {
      progress.threads = progress.seconds[1] < kWorth * progress.seconds[0] ? most : 1;
    }
    if (epoch.stop()) break;
  }
}

}  // namespace innerloop
