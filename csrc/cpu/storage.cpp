// Arrays of fewer bits to and from contiguous float32: how core/half.h lets float32 kernels serve half precision, and
// core/optimizers.cpp smaller states and split parameters.
#include "simd/storage.h"

#include "cpu/elementwise.h"
#include "cpu/rounding.h"
#include "cpu/rows.h"
#include "cpu/tables.h"

namespace innerloop::INNERLOOP_ISA {
namespace {

template <class S>
struct Loops {
  using V = Native<float>;

  static void widen(const Walk<1>& from, int64_t begin, int64_t end, float* to) {
    const ptrdiff_t stride = from.stride[0][from.ndim - 1];
    for_rows(from, begin, end, [&](char* const* p, int64_t n) {
      int64_t i = 0;
      if (stride == 2) {
        for (; i + V::lanes <= n; i += V::lanes) load_as<S>(p[0] + i * 2).store(to + i);
      }
      for (; i < n; i += V::lanes) {
        const int count = n - i < V::lanes ? (int)(n - i) : V::lanes;
        store_partial(load_as<S>(p[0] + i * stride, count, stride), to + i, count);
      }
      to += n;
    });
  }

  static void narrow(const float* from, const Walk<1>& to, int64_t begin, int64_t end) {
    const ptrdiff_t stride = to.stride[0][to.ndim - 1];
    for_rows(to, begin, end, [&](char* const* p, int64_t n) {
      int64_t i = 0;
      if (stride == 2) {
        for (; i + 2 * V::lanes <= n; i += 2 * V::lanes) {
          store_two_as<S>(V::load(from + i), V::load(from + i + V::lanes), p[0] + i * 2);
        }
        for (; i + V::lanes <= n; i += V::lanes) store_as<S>(V::load(from + i), p[0] + i * 2);
      }
      for (; i < n; i += V::lanes) {
        const int count = n - i < V::lanes ? (int)(n - i) : V::lanes;
        store_as<S>(load_partial<V>(from + i, count), p[0] + i * stride, count, stride);
      }
      from += n;
    });
  }

  static constexpr StorageKernels kernels = {widen, narrow};
};

// float32 itself, for the operands of a mixed call.
struct Copies {
  using V = Native<float>;

  static void widen(const Walk<1>& from, int64_t begin, int64_t end, float* to) {
    const ptrdiff_t stride = from.stride[0][from.ndim - 1];
    for_rows(from, begin, end, [&](char* const* p, int64_t n) {
      if (stride == sizeof(float)) {
        memcpy(to, p[0], (size_t)n * sizeof(float));
      } else {
        for (int64_t i = 0; i < n; i++) memcpy(to + i, p[0] + i * stride, sizeof(float));
      }
      to += n;
    });
  }
  static void narrow(const float* from, const Walk<1>& to, int64_t begin, int64_t end) {
    const ptrdiff_t stride = to.stride[0][to.ndim - 1];
    for_rows(to, begin, end, [&](char* const* p, int64_t n) {
      if (stride == sizeof(float)) {
        memcpy(p[0], from, (size_t)n * sizeof(float));
      } else {
        for (int64_t i = 0; i < n; i++) memcpy(p[0] + i * stride, from + i, sizeof(float));
      }
      from += n;
    });
  }
};

// Calls body(i, n, random) for each vector of the block [begin, end), n of its lanes in use.
template <class Body>
void for_random(int64_t begin, int64_t end, uint64_t key, const Body& body) {
  constexpr int lanes = Words::lanes;
  auto random = random_block(key, begin);
  int64_t i = begin;
  for (; i + lanes <= end; i += lanes) body(i, lanes, random.next());
  if (i < end) body(i, (int)(end - i), random.next());
}

constexpr float kLargestFloat = 3.40282347e38f;

struct States {
  using V = Native<float>;
  using B = V::bits_type;
  using Bytes = typename Raw<uint8_t, V::lanes>::type;

  // n lanes of `size` bytes; all of them in one move, where memcpy of a size unknown would be a call.
  static HD void copy_lanes(void* to, const void* from, int n, int size) {
    n == V::lanes ? memcpy(to, from, (size_t)(V::lanes * size)) : memcpy(to, from, (size_t)(n * size));
  }

  static HD V load(const float* p, int n) { return n == V::lanes ? V::load(p) : load_partial<V>(p, n); }

  static void round_bf16(const float* from, int64_t begin, int64_t end, uint64_t key, char* to) {
    for (int64_t block = begin; block < end; block += kRoundingBlock) {
      const int count = end - block < kRoundingBlock ? (int)(end - block) : kRoundingBlock;
      round_block(from + (block - begin), count, random_block(key, block), to + block * 2);
    }
  }

  template <bool negatives>
  static void widen_codes(const char* codes, const char* scales, int64_t begin, int64_t end, float* to) {
    for (int64_t i = begin; i < end; i += V::lanes) {
      const int n = end - i < V::lanes ? (int)(end - i) : V::lanes;
      float scale;
      memcpy(&scale, scales + i / kRoundingBlock * sizeof scale, sizeof scale);
      Bytes bytes = {};
      copy_lanes(&bytes, codes + i, n, 1);
      const B code = __builtin_convertvector(bytes, B::raw);
      const V value = Code<negatives>::template value<V>(code) * V(scale);
      n == V::lanes ? value.store(to + (i - begin)) : store_partial(value, to + (i - begin), n);
    }
  }
  static void widen_8bit(const char* codes, const char* scales, bool negatives, int64_t begin, int64_t end, float* to) {
    (negatives ? widen_codes<true> : widen_codes<false>)(codes, scales, begin, end, to);
  }

  template <bool negatives>
  static void round_codes(const float* from, int64_t begin, int64_t end, uint64_t key, char* codes, char* scales) {
    for (int64_t block = begin; block < end; block += kRoundingBlock) {
      const int64_t stop = end - block < kRoundingBlock ? end : block + kRoundingBlock;
      V top(0.0f);
      for (int64_t i = block; i < stop; i += V::lanes) {
        const int n = stop - i < V::lanes ? (int)(stop - i) : V::lanes;
        top = max(abs(load(from + (i - begin), n)), top);
      }
      float scale = 0;
      for (int lane = 0; lane < V::lanes; lane++)
        scale = top[lane] > scale || top[lane] != top[lane] ? top[lane] : scale;
      // An infinity is kept as the largest number: code 0 times it would make NaN of the whole block, as a NaN does.
      if (scale > kLargestFloat) scale = kLargestFloat;
      memcpy(scales + block / kRoundingBlock * sizeof scale, &scale, sizeof scale);
      const V divisor(scale > 0 ? scale : 1.0f);
      for_random(block, stop, key, [&](int64_t i, int n, B random) INNERLOOP_INLINE {
        const B code = Code<negatives>::of(load(from + (i - begin), n) / divisor, random);
        const Bytes bytes = __builtin_convertvector(code.v, Bytes);
        copy_lanes(codes + i, &bytes, n, 1);
      });
    }
  }
  static void round_8bit(const float* from, bool negatives, int64_t begin, int64_t end, uint64_t key, char* codes,
                         char* scales) {
    (negatives ? round_codes<true> : round_codes<false>)(from, begin, end, key, codes, scales);
  }
};

// Elements of 16 bits: where they lie, if end to end, or else by way of a buffer.
bool end_to_end(const Walk<1>& walk) { return walk.ndim == 1 && walk.stride[0][0] == 2; }

const char* read_16(const Walk<1>& from, int64_t begin, int64_t end, uint16_t* buffer) {
  if (end_to_end(from)) return from.data[0] + begin * 2;
  const ptrdiff_t stride = from.stride[0][from.ndim - 1];
  uint16_t* to = buffer;
  for_rows(from, begin, end, [&](char* const* p, int64_t n) {
    for (int64_t i = 0; i < n; i++) memcpy(to + i, p[0] + i * stride, 2);
    to += n;
  });
  return (const char*)buffer;
}
char* place_of_16(const Walk<1>& to, int64_t begin, uint16_t* buffer) {
  return end_to_end(to) ? to.data[0] + begin * 2 : (char*)buffer;
}
void write_16(const uint16_t* from, const Walk<1>& to, int64_t begin, int64_t end) {
  if (end_to_end(to)) return;
  const ptrdiff_t stride = to.stride[0][to.ndim - 1];
  for_rows(to, begin, end, [&](char* const* p, int64_t n) {
    for (int64_t i = 0; i < n; i++) memcpy(p[0] + i * stride, from + i, 2);
    from += n;
  });
}

// The upper half rounds to the nearest, so that it is the best bfloat16; the lower is what to add to the bits, signed.
struct Split {
  using V = Native<float>;
  using B = V::bits_type;
  static constexpr int64_t piece = 256;

  static HD V joined(const Halves& high, const Halves& low) {
    // The lower half is signed: with 0x8000 added it is not, and neither is what is then taken away.
    return from_bits<V>((widen_bits(high) << 16) + (widen_bits(low) ^ B(0x8000)) - B(0x8000));
  }
  static HD void halves(V x, Halves& high, Halves& low) {
    const B b = bits(select(x != x, from_bits<V>((bits(x) | B(0x400000)) & ~B(0xffff)), x));
    high = narrow_bits((b + B(0x8000)) >> 16);
    low = narrow_bits(b & B(0xffff));
  }

  static void join(const Walk<1>& upper, const Walk<1>& lower, int64_t begin, int64_t end, float* to) {
    alignas(64) uint16_t buffer[2][piece];
    for (; begin < end; begin += piece) {
      const int64_t n = end - begin < piece ? end - begin : piece;
      const char* high = read_16(upper, begin, begin + n, buffer[0]);
      const char* low = read_16(lower, begin, begin + n, buffer[1]);
      int64_t i = 0;
      for (; i + V::lanes <= n; i += V::lanes) {
        Halves h, l;
        memcpy(&h, high + i * 2, sizeof h);
        memcpy(&l, low + i * 2, sizeof l);
        joined(h, l).store(to + i);
      }
      if (i < n) {
        Halves h = {}, l = {};
        memcpy(&h, high + i * 2, (size_t)(n - i) * 2);
        memcpy(&l, low + i * 2, (size_t)(n - i) * 2);
        store_partial(joined(h, l), to + i, (int)(n - i));
      }
      to += n;
    }
  }

  static void split(const float* from, const Walk<1>& upper, const Walk<1>& lower, int64_t begin, int64_t end) {
    alignas(64) uint16_t buffer[2][piece];
    for (; begin < end; begin += piece) {
      const int64_t n = end - begin < piece ? end - begin : piece;
      char *high = place_of_16(upper, begin, buffer[0]), *low = place_of_16(lower, begin, buffer[1]);
      int64_t i = 0;
      for (; i + V::lanes <= n; i += V::lanes) {
        Halves h, l;
        halves(V::load(from + i), h, l);
        memcpy(high + i * 2, &h, sizeof h);
        memcpy(low + i * 2, &l, sizeof l);
      }
      if (i < n) {
        Halves h, l;
        halves(load_partial<V>(from + i, (int)(n - i)), h, l);
        memcpy(high + i * 2, &h, (size_t)(n - i) * 2);
        memcpy(low + i * 2, &l, (size_t)(n - i) * 2);
      }
      write_16(buffer[0], upper, begin, begin + n);
      write_16(buffer[1], lower, begin, begin + n);
      from += n;
    }
  }
};

}  // namespace

const Storages storages = {{Copies::widen, Copies::narrow},
                           Loops<Bfloat16>::kernels,
                           Loops<Float16>::kernels,
                           {States::round_bf16, States::widen_8bit, States::round_8bit},
                           {Split::join, Split::split}};

}  // namespace innerloop::INNERLOOP_ISA
