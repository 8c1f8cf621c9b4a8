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

// COUNT values of shared memory, 16 bytes at a time.
template <int COUNT> INLINE void load_shared(float (&to)[COUNT], const float *from) {
#pragma unroll
    for (int i = 0; i < COUNT; i += 4) {
        const float4 four = *reinterpret_cast<const float4 *>(from + i);
        to[i] = four.x, to[i + 1] = four.y, to[i + 2] = four.z, to[i + 3] = four.w;
    }
}

// `head` is the whole head before the rotation, `table` the cosines and sines of the token's position.
template <typename T>
INLINE void rotate(float (&x)[Share<T>::VALUES], const Share<T> &share, const float *head,
                   const float (*table)[MOST_WIDTH / 2], const RopeParams &p) {
    constexpr int COUNT = Share<T>::COUNT;
    const bool whole = !p.neighbours && p.pairs % COUNT == 0; // a vector's partners are a vector
    share.each([&](int slot, int index) {
        float partners[COUNT], cos[COUNT], sin[COUNT];
        if (index >= 2 * p.pairs) return;
        if (whole) {
            const bool first = index < p.pairs;
            const int pair = first ? index : index - p.pairs;
            load_shared(partners, head + (first ? index + p.pairs : pair));
            load_shared(cos, table[0] + pair);
            load_shared(sin, table[1] + pair);
#pragma unroll
            for (int i = 0; i < COUNT; i++) partners[i] = first ? -partners[i] : partners[i];
        } else {
#pragma unroll
            for (int i = 0; i < COUNT; i++) {
                const int at = min(index + i, 2 * p.pairs - 1);
                const bool first = p.neighbours ? at % 2 == 0 : at < p.pairs;
                const int pair = p.neighbours ? at / 2 : first ? at : at - p.pairs;
                const int other = p.neighbours ? at ^ 1 : first ? at + p.pairs : at - p.pairs;
                partners[i] = first ? -head[other] : head[other];
                cos[i] = table[0][pair];
                sin[i] = table[1][pair];
            }
        }
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            const float rotated = rounded<T>(x[slot + i] * cos[i]) + rounded<T>(partners[i] * sin[i]);
            if (whole || index + i < 2 * p.pairs) x[slot + i] = rotated;
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

// Into the cache before the inputs are there.
template <typename T> INLINE void prefetch_weights(const void *weights, const RopeParams &p, int heads) {
    constexpr int LINE = 128 / sizeof(T);
    if (weights == nullptr) return;
    const int count = p.span == SHARED_BY_HEADS ? p.width : heads * p.width;
    for (int at = threadIdx.x * LINE; at < count; at += blockDim.x * LINE) {
        prefetch_l2(static_cast<const T *>(weights) + at);
    }
}

// The norm, the clipping and the rotation of a head. `staged` is room for the head.
template <typename T>
INLINE void transform(float (&x)[Share<T>::VALUES], const Share<T> &share, int head, Statistics of_row, float *staged,
                      const float (*table)[MOST_WIDTH / 2], const RopeParams &p) {
    const bool query = head < p.heads, rotated = head < p.heads + p.kv_heads;
    if (p.norm) {
        const Statistics s = p.span == ALL_HEADS ? of_row : head_statistics<T>(x, share, p.norm, p.eps);
        const int apart = p.span == SHARED_BY_HEADS ? 0 : (query ? head : head - p.heads) * p.width;
        const T *weight = static_cast<const T *>(query ? p.query_weight : p.key_weight);
        const T *bias = static_cast<const T *>(query ? p.query_bias : p.key_bias);
        if (rotated) {
            normalise<T>(x, share, s, p.norm, weight ? weight + apart : nullptr, bias ? bias + apart : nullptr);
        }
    }
    if (p.clip > 0.0f) {
#pragma unroll
        for (int i = 0; i < Share<T>::VALUES; i++) x[i] = fminf(fmaxf(x[i], -p.clip), p.clip);
    }
    if (p.cos == nullptr) return;
    share.each([&](int slot, int index) {
#pragma unroll
        for (int i = 0; i < Share<T>::COUNT; i += 4) {
            const float *const from = x + slot + i;
            *reinterpret_cast<float4 *>(staged + index + i) = {from[0], from[1], from[2], from[3]};
        }
    });
    __syncwarp();
    if (rotated) rotate<T>(x, share, staged, table, p);
    __syncwarp();
}

template <typename T> INLINE void rope(const RopeParams &p) {
    __shared__ __align__(16) float heads[MOST_THREADS / WARP][MOST_WIDTH];
    __shared__ __align__(16) float table[2][MOST_WIDTH / 2];
    constexpr int COUNT = Vector<T>::COUNT;
    let_next_start();
    prefetch_weights<T>(p.query_weight, p, p.heads);
    prefetch_weights<T>(p.key_weight, p, p.kv_heads);
    wait_for_inputs();
    const int total = p.heads + 2 * p.kv_heads, rotated = p.heads + p.kv_heads;
    const T *const row = static_cast<const T *>(p.qkv) + static_cast<size_t>(blockIdx.x) * total * p.width;
    const int sequence = blockIdx.x / p.tokens, column = *p.length + blockIdx.x % p.tokens;
    const int position = max(column - p.starts[sequence], 0);
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
        Vector<T> vectors[Share<T>::VECTORS];
        share.each([&](int slot, int index) { vectors[slot / COUNT] = load16(row + head * p.width + index); });
        // while the head is on its way
        if (first == static_cast<int>(blockIdx.y) * groups) load_table<T>(table, p, position);
        float x[Share<T>::VALUES] = {};
        share.each([&](int slot, int) {
#pragma unroll
            for (int i = 0; i < COUNT; i++) x[slot + i] = to_float(vectors[slot / COUNT][i]);
        });
        transform<T>(x, share, head, head < p.heads ? of_queries : of_keys, staged, table, p);
        T *to = static_cast<T *>(p.q) + static_cast<size_t>(blockIdx.x) * p.q_pitch + head * p.width;
        if (head >= p.heads) {
            const int of_cache = head < rotated ? head - p.heads : head - rotated;
            const size_t line = static_cast<size_t>(sequence * p.kv_heads + of_cache) * p.capacity + column;
            to = static_cast<T *>(head < rotated ? p.keys : p.values) + line * p.width;
        }
        share.each([&](int slot, int index) {
#pragma unroll
            for (int i = 0; i < COUNT; i++) vectors[slot / COUNT][i] = from_float<T>(x[slot + i]);
            store16(to + index, vectors[slot / COUNT]);
        });
    }
}

extern "C" __global__ void __launch_bounds__(MOST_THREADS) rope_f32(const RopeParams p) { rope<float>(p); }
extern "C" __global__ void __launch_bounds__(MOST_THREADS) rope_f16(const RopeParams p) { rope<half_t>(p); }
extern "C" __global__ void __launch_bounds__(MOST_THREADS) rope_bf16(const RopeParams p) { rope<bf16_t>(p); }
