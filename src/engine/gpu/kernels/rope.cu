// From the product of queries, keys and values to attention: norms of heads, clipping, rotation, and the write to the
// KV cache. One block, or several along y, for each token; some lanes of a warp for each head.
#include "common.cuh"

enum Norm { LAYER = 2, KIND = 3, ONE_PLUS = 4, ROUND_FIRST = 8 }; // as in norm.cu
enum Span { SHARED_BY_HEADS, EACH_HEAD, ALL_HEADS };
constexpr int MOST_THREADS = 512, MOST_WIDTH = 256;

struct RopeParams {
    const void *qkv;                                             // (m, (heads + 2 kv_heads) · width)
    const float *cos, *sin;                                      // (positions, pairs), or null: no rotation
    const void *query_weight, *query_bias, *key_weight, *key_bias; // of the norms, or null
    const int *starts, *length;
    void *q;                                                     // a row of `q_pitch` values a token; may be qkv
    void *keys, *values;                                         // (b, kv_heads, capacity, width)
    int tokens;                                                  // of a row of the batch
    int heads, kv_heads, width, pairs, capacity, q_pitch;
    int norm, span;                                              // as in norm.cu; what a norm runs over
    int neighbours;                                              // pairs are neighbours rather than halves
    float eps, clip;                                             // no clipping if not above 0
};
static_assert(sizeof(RopeParams) == 144, "as in rope.rs");

struct Statistics {
    float mean, inverse;
};

// Over `lanes` neighbouring lanes.
INLINE float lanes_sum(float x, int lanes) {
    for (int step = lanes / 2; step > 0; step /= 2) x += __shfl_xor_sync(ALL_LANES, x, step);
    return x;
}

// Of a whole part of the row, by the whole block.
template <typename T> INLINE Statistics row_statistics(const T *row, int count, int flags, float eps) {
    __shared__ float scratch[2][WARP];
    constexpr int COUNT = Vector<T>::COUNT;
    float mean = 0.0f, sum = 0.0f;
    if ((flags & KIND) == LAYER) {
        for (int index = threadIdx.x * COUNT; index < count; index += blockDim.x * COUNT) {
            const Vector<T> x = load16(row + index);
            for (int i = 0; i < COUNT; i++) sum += to_float(x[i]);
        }
        mean = block_sum(sum, scratch[0]) / count;
        sum = 0.0f;
    }
    for (int index = threadIdx.x * COUNT; index < count; index += blockDim.x * COUNT) {
        const Vector<T> x = load16(row + index);
        for (int i = 0; i < COUNT; i++) sum += (to_float(x[i]) - mean) * (to_float(x[i]) - mean);
    }
    const float squares = block_sum(sum, scratch[1]);
    __syncthreads();
    return {mean, rsqrtf(squares / count + eps)};
}

// A lane's values of a head: VECTORS vectors that are `lanes` vectors apart.
template <typename T> struct Share {
    static constexpr int COUNT = Vector<T>::COUNT, VECTORS = MOST_WIDTH / COUNT / WARP, VALUES = VECTORS * COUNT;
    int lanes, lane, width;
    bool active;

    template <typename F> __device__ __forceinline__ void each(F f) const {
#pragma unroll
        for (int v = 0; v < VECTORS; v++) {
            const int index = (v * lanes + lane) * COUNT;
            if (active && index < width) f(v * COUNT, index);
        }
    }
};

template <typename T>
INLINE Statistics head_statistics(const float (&x)[Share<T>::VALUES], const Share<T> &share, int flags, float eps) {
    float mean = 0.0f, sum = 0.0f;
    if ((flags & KIND) == LAYER) {
        for (int i = 0; i < Share<T>::VALUES; i++) sum += x[i];
        mean = lanes_sum(sum, share.lanes) / share.width;
        sum = 0.0f;
    }
    share.each([&](int slot, int) {
        for (int i = 0; i < Share<T>::COUNT; i++) sum += (x[slot + i] - mean) * (x[slot + i] - mean);
    });
    return {mean, rsqrtf(lanes_sum(sum, share.lanes) / share.width + eps)};
}

template <typename T>
INLINE void normalise(float (&x)[Share<T>::VALUES], const Share<T> &share, Statistics s, int flags, const void *weight,
                      const void *bias) {
    share.each([&](int slot, int index) {
        Vector<T> scale = {}, shift = {};
        if (weight != nullptr) scale = load16(static_cast<const T *>(weight) + index);
        if (bias != nullptr) shift = load16(static_cast<const T *>(bias) + index);
#pragma unroll
        for (int i = 0; i < Share<T>::COUNT; i++) {
            float value = (x[slot + i] - s.mean) * s.inverse;
            if (flags & ROUND_FIRST) value = rounded<T>(value);
            if (weight != nullptr) value *= flags & ONE_PLUS ? 1.0f + to_float(scale[i]) : to_float(scale[i]);
            if (bias != nullptr) value += to_float(shift[i]);
            x[slot + i] = rounded<T>(value);
        }
    });
}

// `head` is the whole head before the rotation, `table` the cosines and sines of the token's position.
template <typename T>
INLINE void rotate(float (&x)[Share<T>::VALUES], const Share<T> &share, const float *head,
                   const float (*table)[MOST_WIDTH / 2], const RopeParams &p) {
    share.each([&](int slot, int index) {
#pragma unroll
        for (int i = 0; i < Share<T>::COUNT; i++) {
            const int at = index + i;
            if (at >= 2 * p.pairs) continue;
            const bool first = p.neighbours ? at % 2 == 0 : at < p.pairs;
            const int pair = p.neighbours ? at / 2 : first ? at : at - p.pairs;
            const int other = p.neighbours ? at ^ 1 : first ? at + p.pairs : at - p.pairs;
            const float partner = first ? -head[other] : head[other];
            const float straight = x[slot + i] * table[0][pair], across = partner * table[1][pair];
            x[slot + i] = rounded<T>(straight) + rounded<T>(across);
        }
    });
}

// Cosines and sines as they are stored in T.
template <typename T> INLINE void load_table(float (*table)[MOST_WIDTH / 2], const RopeParams &p, int position) {
    if (p.cos == nullptr) return;
    for (int pair = threadIdx.x; pair < p.pairs; pair += blockDim.x) {
        const size_t at = static_cast<size_t>(position) * p.pairs + pair;
        table[0][pair] = rounded<T>(p.cos[at]);
        table[1][pair] = rounded<T>(p.sin[at]);
    }
    __syncthreads();
}

template <typename T> INLINE void rope(const RopeParams &p) {
    __shared__ float heads[MOST_THREADS / WARP][MOST_WIDTH];
    __shared__ float table[2][MOST_WIDTH / 2];
    constexpr int COUNT = Vector<T>::COUNT;
    let_next_start();
    wait_for_inputs();
    const int total = p.heads + 2 * p.kv_heads, rotated = p.heads + p.kv_heads;
    const T *const row = static_cast<const T *>(p.qkv) + static_cast<size_t>(blockIdx.x) * total * p.width;
    const int sequence = blockIdx.x / p.tokens, column = *p.length + blockIdx.x % p.tokens;
    load_table<T>(table, p, max(column - p.starts[sequence], 0));
    Statistics of_queries = {}, of_keys = {};
    if (p.norm && p.span == ALL_HEADS) {
        of_queries = row_statistics(row, p.heads * p.width, p.norm, p.eps);
        of_keys = row_statistics(row + p.heads * p.width, p.kv_heads * p.width, p.norm, p.eps);
    }

    int lanes = 1;
    while (lanes < WARP && lanes * COUNT < p.width) lanes *= 2;
    const int warp = threadIdx.x / WARP, group = threadIdx.x / lanes, groups = blockDim.x / lanes;
    float *const staged = heads[warp] + group % (WARP / lanes) * p.width;
    for (int first = blockIdx.y * groups; first < total; first += gridDim.y * groups) {
        const int head = first + group;
        const Share<T> share = {lanes, static_cast<int>(threadIdx.x) % lanes, p.width, head < total};
        float x[Share<T>::VALUES] = {};
        share.each([&](int slot, int index) {
            const Vector<T> vector = load16(row + head * p.width + index);
#pragma unroll
            for (int i = 0; i < COUNT; i++) x[slot + i] = to_float(vector[i]);
        });
        if (p.norm) {
            const bool query = head < p.heads;
            Statistics s = query ? of_queries : of_keys;
            if (p.span != ALL_HEADS) s = head_statistics<T>(x, share, p.norm, p.eps);
            const int of_kind = query ? head : head - p.heads, apart = p.span == SHARED_BY_HEADS ? 0 : of_kind * p.width;
            const T *weight = static_cast<const T *>(query ? p.query_weight : p.key_weight);
            const T *bias = static_cast<const T *>(query ? p.query_bias : p.key_bias);
            if (head < rotated) {
                normalise<T>(x, share, s, p.norm, weight ? weight + apart : nullptr, bias ? bias + apart : nullptr);
            }
        }
        if (p.clip > 0.0f) {
#pragma unroll
            for (int i = 0; i < Share<T>::VALUES; i++) x[i] = fminf(fmaxf(x[i], -p.clip), p.clip);
        }
        if (p.cos != nullptr) {
            share.each([&](int slot, int index) {
                for (int i = 0; i < COUNT; i++) staged[index + i] = x[slot + i];
            });
            __syncwarp();
            if (head < rotated) rotate<T>(x, share, staged, table, p);
            __syncwarp();
        }
        T *to = static_cast<T *>(p.q) + static_cast<size_t>(blockIdx.x) * p.q_pitch + head * p.width;
        if (head >= p.heads) {
            const int of_cache = head < rotated ? head - p.heads : head - rotated;
            const size_t line = static_cast<size_t>(sequence * p.kv_heads + of_cache) * p.capacity + column;
            to = static_cast<T *>(head < rotated ? p.keys : p.values) + line * p.width;
        }
        share.each([&](int slot, int index) {
            Vector<T> vector;
#pragma unroll
            for (int i = 0; i < COUNT; i++) vector[i] = from_float<T>(x[slot + i]);
            store16(to + index, vector);
        });
    }
}

extern "C" __global__ void __launch_bounds__(MOST_THREADS) rope_f32(const RopeParams p) { rope<float>(p); }
extern "C" __global__ void __launch_bounds__(MOST_THREADS) rope_f16(const RopeParams p) { rope<half_t>(p); }
extern "C" __global__ void __launch_bounds__(MOST_THREADS) rope_bf16(const RopeParams p) { rope<bf16_t>(p); }
