// Products of experts with few pairs each, which reading the weights bounds.
//
// Warps multiply 16 rows of an expert's matrix with up to 8 pairs; some warps of a block share the rows and take turns
// along k. Each lane loads 16 bytes of a row at a time for two tensor-core multiplications (the order of k is free as
// long as both operands agree on it).
//
// Which experts are read is known once gate and up begin, since those let the next kernel start only after the router
// has ended. So the down product has its first weights on their way before it waits for its inputs.
#include "experts.cuh"

// An item that the router wrote, read before the kernel waits for the one in between.
INLINE int4 load_item(const int4 *from) {
#ifdef __CUDACC__
    return __ldcg(from);
#else
    return *from;
#endif
}

// The most pairs of an item.
constexpr int PAIRS = 8;

// 16 rows by 8 pairs: what mma_16816 gives.
using Sums = float[4];

// The products of one warp of K that share 16 rows of W. `rows` are rows g and g + 8 of W, or null; chunks of columns go
// to the warps in turn.
template <typename T, int K> struct Stream {
    static constexpr int DEPTH = 4, CHUNK = 64; // 16 loads on their way; 128 bytes of a row
    const T *const (&rows)[2];
    const int k, along, t;
    uint4 held[DEPTH][4];

    __device__ __forceinline__ Stream(const T *const (&rows)[2], int k, int along)
        : rows(rows), k(k), along(along), t(threadIdx.x % 4) {
#pragma unroll
        for (int slot = 0; slot < DEPTH; slot++) fetch(slot, (slot * K + along) * CHUNK);
    }

    __device__ __forceinline__ void fetch(int slot, int at) {
#pragma unroll
        for (int piece = 0; piece < 4; piece++) {
            const int from = at + t * 8 + piece % 2 * 32;
            held[slot][piece] = make_uint4(0, 0, 0, 0);
            if (from < k && rows[piece / 2]) held[slot][piece] = load16_streaming_bits(rows[piece / 2] + from);
        }
    }

    // `x` is row g of the pairs, or null.
    __device__ __forceinline__ void multiply(const T *x, Sums &sums) {
        for (int first = along * CHUNK; first < k; first += DEPTH * K * CHUNK) {
#pragma unroll
            for (int slot = 0; slot < DEPTH; slot++) {
                const int at = first + slot * K * CHUNK;
                uint4 w[4];
#pragma unroll
                for (int piece = 0; piece < 4; piece++) w[piece] = held[slot][piece];
                fetch(slot, at + DEPTH * K * CHUNK);
#pragma unroll
                for (int q = 0; q < 2; q++) {
                    const int from = at + t * 8 + q * 32;
                    const uint4 b = from < k && x ? as_bits(load16(x + from)) : make_uint4(0, 0, 0, 0);
                    mma_16816<T>(sums, {w[q].x, w[2 + q].x, w[q].y, w[2 + q].y}, {b.x, b.y});
                    mma_16816<T>(sums, {w[q].z, w[2 + q].z, w[q].w, w[2 + q].w}, {b.z, b.w});
                }
            }
        }
    }
};

// The same in f32, without tensor cores: a lane multiplies its 4 columns of rows g and g + 8 with all pairs.
template <int K> struct Stream<float, K> {
    static constexpr int CHUNK = 16;
    const float *const (&rows)[2];
    const int k, along, t;

    __device__ __forceinline__ Stream(const float *const (&rows)[2], int k, int along)
        : rows(rows), k(k), along(along), t(threadIdx.x % 4) {}

    __device__ __forceinline__ void multiply(const float *x, Sums &sums) {
        float own[2][PAIRS] = {};
        for (int at = along * CHUNK; at < k; at += K * CHUNK) {
            const int from = at + t * 4;
            const float4 none = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            float4 w[2], mine = none;
#pragma unroll
            for (int half = 0; half < 2; half++) {
                w[half] = from < k && rows[half] ? *reinterpret_cast<const float4 *>(rows[half] + from) : none;
            }
            if (from < k && x) mine = *reinterpret_cast<const float4 *>(x + from);
#pragma unroll
            for (int pair = 0; pair < PAIRS; pair++) {
                // lane 4·pair + t holds these columns of that pair
                const int source = pair * 4 + t;
                const float a = __shfl_sync(ALL_LANES, mine.x, source), b = __shfl_sync(ALL_LANES, mine.y, source);
                const float c = __shfl_sync(ALL_LANES, mine.z, source), d = __shfl_sync(ALL_LANES, mine.w, source);
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    own[half][pair] += w[half].x * a + w[half].y * b + w[half].z * c + w[half].w * d;
                }
            }
        }
#pragma unroll
        for (int half = 0; half < 2; half++) {
#pragma unroll
            for (int pair = 0; pair < PAIRS; pair++) {
                const float sum = warp_sum<4>(own[half][pair]);
                if (pair / 2 == t) sums[half * 2 + pair % 2] += sum;
            }
        }
    }
};

// Adds the sums of the K warps that share rows in order: whole in the first of them. All warps of the block call it.
template <int K> INLINE void add_warps(Sums &sums) {
    if (K == 1) return;
    __shared__ float4 partial[WARPS][WARP];
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    partial[warp][lane] = make_float4(sums[0], sums[1], sums[2], sums[3]);
    __syncthreads();
    if (warp % K != 0) return;
#pragma unroll
    for (int other = 1; other < K; other++) {
        const float4 more = partial[warp + other][lane];
        sums[0] += more.x, sums[1] += more.y, sums[2] += more.z, sums[3] += more.w;
    }
}

// 8·WARPS / K rows of gate and of up of an item's expert.
template <typename T, int K> INLINE void gate_up(const ExpertsParams &p) {
    wait_for_inputs();
    let_next_start();
    const int4 item = p.items[1 + blockIdx.y];
    if (static_cast<int>(blockIdx.y) >= p.items[0].x) return;
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
    const int row = (blockIdx.x * (WARPS / K) + warp / K) * 8 + g;
    const T *gate = nullptr, *up = nullptr, *x = nullptr;
    if (row < p.n) {
        gate = static_cast<const T *>(p.weights) + (static_cast<size_t>(item.x) * 2 * p.n + row) * p.k;
        up = gate + static_cast<size_t>(p.n) * p.k;
    }
    const T *const rows[2] = {gate, up};
    Stream<T, K> stream(rows, p.k, warp % K);
    if (g < item.z) x = static_cast<const T *>(p.inputs) + static_cast<size_t>(p.pairs[item.y + g] / p.slots) * p.k;
    Sums sums = {};
    stream.multiply(x, sums);
    add_warps<K>(sums);
    if (warp % K != 0 || row >= p.n) return;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int at = t * 2 + i;
        if (at >= item.z) continue;
        static_cast<T *>(p.outputs)[static_cast<size_t>(item.y + at) * p.n + row] =
            gated<T>(sums[i], sums[2 + i], p.activation);
    }
}

// 16·WARPS / K rows of down of an item's expert.
template <typename T, int K> INLINE void down(const ExpertsParams &p) {
    let_next_start();
    const int4 item = load_item(p.items + 1 + blockIdx.y);
    if (static_cast<int>(blockIdx.y) >= load_item(p.items).x) return wait_for_inputs();
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
    const int row = (blockIdx.x * (WARPS / K) + warp / K) * 16 + g;
    const T *const weights = static_cast<const T *>(p.weights) + (static_cast<size_t>(item.x) * p.n + row) * p.k;
    const T *const rows[2] = {row < p.n ? weights : nullptr,
                              row + 8 < p.n ? weights + static_cast<size_t>(8) * p.k : nullptr};
    Stream<T, K> stream(rows, p.k, warp % K);
    wait_for_inputs();
    const T *const x = g < item.z ? static_cast<const T *>(p.inputs) + static_cast<size_t>(item.y + g) * p.k : nullptr;
    Sums sums = {};
    stream.multiply(x, sums);
    add_warps<K>(sums);
    if (warp % K != 0) return;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int at = t * 2 + i % 2, to = row + i / 2 * 8;
        if (at >= item.z || to >= p.n) continue;
        static_cast<T *>(p.outputs)[static_cast<size_t>(p.pairs[item.y + at]) * p.n + to] = from_float<T>(sums[i]);
    }
}

// The sum over a token's experts: a block of 256 threads for 256 columns of token blockIdx.y.
template <typename T> INLINE void combine(const ExpertsParams &p) {
    let_next_start();
    wait_for_inputs();
    const int token = blockIdx.y, column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= p.n) return;
    float sum = 0.0f;
    for (int slot = 0; slot < p.slots; slot++) {
        const int pair = token * p.slots + slot;
        const float part = to_float(static_cast<const T *>(p.outputs)[static_cast<size_t>(pair) * p.n + column]);
        sum += p.rounds ? rounded<T>(part * p.shares[pair]) : part * p.shares[pair];
    }
    const size_t at = static_cast<size_t>(token) * p.n + column;
    if (p.shared) {
        const float gate = to_float(static_cast<const T *>(p.shared_gate)[token]);
        const float share = rounded<T>(1.0f / (1.0f + expf(-gate)));
        sum = rounded<T>(sum) + rounded<T>(share * to_float(static_cast<const T *>(p.shared)[at]));
    }
    static_cast<T *>(p.sums)[at] = from_float<T>(sum);
}

// The number is of warps that share rows.
#define PRODUCTS(type, suffix, k)                                                                                      \
    extern "C" __global__ void __launch_bounds__(WARPS *WARP) experts_gate_up_##suffix##_##k(const ExpertsParams p) {  \
        gate_up<type, k>(p);                                                                                           \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(WARPS *WARP) experts_down_##suffix##_##k(const ExpertsParams p) {     \
        down<type, k>(p);                                                                                              \
    }
#define EXPERTS(type, suffix)                                                                                          \
    PRODUCTS(type, suffix, 1)                                                                                          \
    PRODUCTS(type, suffix, 2)                                                                                          \
    PRODUCTS(type, suffix, 4)                                                                                          \
    extern "C" __global__ void __launch_bounds__(256) experts_combine_##suffix(const ExpertsParams p) { combine<type>(p); }
EXPERTS(float, f32)
EXPERTS(half_t, f16)
EXPERTS(bf16_t, bf16)
