// The kernels of layer_norm and rms_norm: one launch a pass, and one that adds the parts of dweight and dbias.
#include "cuda/channels_launch.h"
#include "cuda/norms.h"

namespace innerloop::cuda {
namespace {

template <class S>
RowPieces<S> pieces_of(const RowNormArrays& a) {
  RowPieces<S> pieces = {a.rows, a.length, ceil_div(a.length, kPiece<S>), false, false};
  pieces.aligned = a.rows <= 1 || a.length % kPiece<S> == 0;
  for (const char* p : {a.dy, a.x, a.weight, a.bias, (const char*)a.out}) pieces.aligned &= is_aligned(p);
  return pieces;
}
template <class S>
bool by_warp(const RowNormArrays& a) {
  return a.length * (int64_t)sizeof(S) <= kWarpRow;
}

template <class Rule, class S, bool warp>
int forward_as(const Queue& queue, const RowNormArrays& a) {
  constexpr int64_t at_once = warp ? kNormThreads / kWarp : 1;
  RowNormForward<Rule, S, warp> body = {pieces_of<S>(a), a};
  size_t shared = (size_t)(body.pieces.pieces * 16 * at_once);
  body.pieces.kept = (int64_t)shared <= kMostShared;
  if (!body.pieces.kept) shared = 0;
  const int64_t blocks = ceil_div(a.rows, at_once), most = (int64_t)queue.processors * 16;
  return launch<kNormThreads>(queue, blocks < most ? blocks : most, body, shared);
}

template <class Rule, class S, bool warp>
int backward_as(const Queue& queue, const RowNormArrays& a) {
  using Body = RowNormBackward<Rule, S, warp>;
  using T = typename Body::T;
  constexpr int64_t at_once = warp ? kNormThreads / kWarp : 1;
  Body body = {pieces_of<S>(a), a, a.dweight != nullptr || a.dbias != nullptr, false, nullptr};
  // What is left out of shared memory first are the rows, which the caches have when they are read again.
  body.sums_in_shared = body.sums && (int64_t)Body::shared(body.pieces, false, true) <= kMostShared;
  body.pieces.kept =
      (int64_t)Body::shared(body.pieces, true, body.sums_in_shared) <= kMostShared && body.sums == body.sums_in_shared;
  const int64_t wanted = ceil_div(a.rows, at_once), most = body.sums ? kNormParts : (int64_t)queue.processors * 16;
  const int64_t blocks = wanted < most ? wanted : most;
  Scratch scratch(queue, body.sums ? (size_t)(2 * blocks * body.pitch()) * sizeof(T) : 0);
  if (scratch.error != cudaSuccess) return scratch.error;
  body.parts = static_cast<T*>(scratch.data);
  const int error =
      launch<kNormThreads>(queue, blocks, body, Body::shared(body.pieces, body.pieces.kept, body.sums_in_shared));
  if (error != cudaSuccess || !body.sums) return error;
  const T* const second = a.dbias != nullptr ? body.parts + blocks * body.pitch() : nullptr;
  return launch_add(queue, AddParts<T, NormGradients<S>>({a.dweight, a.dbias}, body.parts, second, a.length, 1,
                                                         body.pitch(), blocks));
}

template <class Rule>
int forward(const Queue& queue, Dtype dtype, const RowNormArrays& a) {
  return with_storage(dtype, [&](auto stored) {
    using S = decltype(stored);
    return by_warp<S>(a) ? forward_as<Rule, S, true>(queue, a) : forward_as<Rule, S, false>(queue, a);
  });
}
template <class Rule>
int backward(const Queue& queue, Dtype dtype, const RowNormArrays& a) {
  return with_storage(dtype, [&](auto stored) {
    using S = decltype(stored);
    return by_warp<S>(a) ? backward_as<Rule, S, true>(queue, a) : backward_as<Rule, S, false>(queue, a);
  });
}

template <class... Rules>
struct Table;
template <class... Rules>
struct Table<List<Rules...>> {
  static constexpr RowNorm entries[] = {{Rules::name, Rules::has_mean, forward<Rules>, backward<Rules>}...};
};

}  // namespace

const Span<RowNorm> row_norms = {Table<RowNorms>::entries, RowNorms::count};

}  // namespace innerloop::cuda
