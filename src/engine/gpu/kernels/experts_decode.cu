// Products of experts with few pairs each, which reading the weights bounds.
//
// A block multiplies 16 rows of an expert's matrix with up to 32 pairs; its warps take turns along k, each lane loading
// 16 bytes of a row at a time for two tensor-core multiplications (the order of k is free as long as both operands agree
// on it).
#include "experts.cuh"

// A 16×8 block of sums a group of pairs: what mma_16816 gives.
template <int C> using Sums = float[C][4];
template <int C> using Partial = float4[WARPS][C][WARP];

// Adds the products of this warp's share of k. `rows` are rows g and g + 8 of W, and `x` row g of each group of pairs;
// null where there is none.
template <typename T, int C>
INLINE void multiply_on_tensor_cores(const T *const (&rows)[2], const T *const (&x)[C], int k, Sums<C> &sums) {
    constexpr int DEPTH = 4, CHUNK = 64; // 16 loads on their way; 128 bytes of a row
    const int warp = threadIdx.x / WARP, t = threadIdx.x % 4;
    uint4 held[DEPTH][4];
    auto fetch = [&](uint4(&to)[4], int at) {
#pragma unroll
        for (int piece = 0; piece < 4; piece++) {
            const int from = at + t * 8 + piece % 2 * 32;
            to[piece] = from < k && rows[piece / 2] ? load16_streaming_bits(rows[piece / 2] + from)
                                                    : make_uint4(0, 0, 0, 0);
        }
    };
#pragma unroll
    for (int slot = 0; slot < DEPTH; slot++) fetch(held[slot], (slot * WARPS + warp) * CHUNK);
    for (int first = warp * CHUNK; first < k; first += DEPTH * WARPS * CHUNK) {
#pragma unroll
        for (int slot = 0; slot < DEPTH; slot++) {
            const int at = first + slot * WARPS * CHUNK;
            uint4 w[4];
#pragma unroll
            for (int piece = 0; piece < 4; piece++) w[piece] = held[slot][piece];
            fetch(held[slot], at + DEPTH * WARPS * CHUNK);
#pragma unroll
            for (int q = 0; q < 2; q++) {
                const int from = at + t * 8 + q * 32;
#pragma unroll
                for (int c = 0; c < C; c++) {
                    const uint4 b = from < k && x[c] ? as_bits(load16(x[c] + from)) : make_uint4(0, 0, 0, 0);
                    mma_16816<T>(sums[c], {w[q].x, w[2 + q].x, w[q].y, w[2 + q].y}, {b.x, b.y});
                    mma_16816<T>(sums[c], {w[q].z, w[2 + q].z, w[q].w, w[2 + q].w}, {b.z, b.w});
                }
            }
        }
    }
}

// The same in f32, without tensor cores: a lane multiplies its 4 columns of rows g and g + 8 with all pairs.
INLINE void multiply_plain(const float *const (&rows)[2], const float *const (&x)[1], int k, Sums<1> &sums) {
    constexpr int CHUNK = 16;
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, t = lane % 4;
    float own[2][8] = {};
    for (int at = warp * CHUNK; at < k; at += WARPS * CHUNK) {
        const int from = at + t * 4;
        const bool inside = from < k;
        const float4 none = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        float4 w[2], mine = none;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            w[half] = inside && rows[half] ? *reinterpret_cast<const float4 *>(rows[half] + from) : none;
        }
        if (inside && x[0]) mine = *reinterpret_cast<const float4 *>(x[0] + from);
#pragma unroll
        for (int pair = 0; pair < 8; pair++) {
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
        for (int pair = 0; pair < 8; pair++) {
            const float sum = warp_sum<4>(own[half][pair]);
            if (pair / 2 == t) sums[0][half * 2 + pair % 2] += sum;
        }
    }
}

template <typename T, int C>
INLINE void multiply(const T *const (&rows)[2], const T *const (&x)[C], int k, Sums<C> &sums) {
    if constexpr (sizeof(T) == 4)
        multiply_plain(rows, x, k, sums);
    else
        multiply_on_tensor_cores<T, C>(rows, x, k, sums);
}

// Adds the warps' sums in order. The sums of group c are whole in warp c % WARPS after it.
template <int C> INLINE void add_warps(Sums<C> &sums, Partial<C> &partial) {
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
#pragma unroll
    for (int c = 0; c < C; c++) partial[warp][c][lane] = make_float4(sums[c][0], sums[c][1], sums[c][2], sums[c][3]);
    __syncthreads();
#pragma unroll
    for (int c = 0; c < C; c++) {
        if (c % WARPS != warp) continue;
        float4 sum = partial[0][c][lane];
#pragma unroll
        for (int other = 1; other < WARPS; other++) {
            const float4 more = partial[other][c][lane];
            sum.x += more.x, sum.y += more.y, sum.z += more.z, sum.w += more.w;
        }
        sums[c][0] = sum.x, sums[c][1] = sum.y, sums[c][2] = sum.z, sums[c][3] = sum.w;
    }
    __syncthreads();
}

// Rows 8·blockIdx.x and so on of gate and up of an item's expert.
template <typename T, int C> INLINE void gate_up_tile(const ExpertsParams &p, int4 item, Partial<C> &partial) {
    const int expert = item.x, first = item.y, count = item.z;
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
    const int row = blockIdx.x * 8 + g;
    const T *weights = static_cast<const T *>(p.weights) + static_cast<size_t>(expert) * 2 * p.n * p.k;
    const T *const rows[2] = {row < p.n ? weights + static_cast<size_t>(row) * p.k : nullptr,
                              row < p.n ? weights + static_cast<size_t>(p.n + row) * p.k : nullptr};
    const T *x[C];
#pragma unroll
    for (int c = 0; c < C; c++) {
        const int at = c * 8 + g;
        x[c] = at < count ? static_cast<const T *>(p.inputs) +
                                static_cast<size_t>(p.pairs[first + at] / p.slots) * p.k
                          : nullptr;
    }
    Sums<C> sums = {};
    multiply<T, C>(rows, x, p.k, sums);
    add_warps<C>(sums, partial);
#pragma unroll
    for (int c = 0; c < C; c++) {
        if (c % WARPS != warp || row >= p.n) continue;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int at = c * 8 + t * 2 + i;
            if (at >= count) continue;
            static_cast<T *>(p.outputs)[static_cast<size_t>(first + at) * p.n + row] =
                gated<T>(sums[c][i], sums[c][2 + i], p.activation);
        }
    }
}

// Rows 16·blockIdx.x and so on of down.
template <typename T, int C> INLINE void down_tile(const ExpertsParams &p, int4 item, Partial<C> &partial) {
    const int expert = item.x, first = item.y, count = item.z;
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
    const int row = blockIdx.x * 16 + g;
    const T *weights = static_cast<const T *>(p.weights) + static_cast<size_t>(expert) * p.n * p.k;
    const T *const rows[2] = {row < p.n ? weights + static_cast<size_t>(row) * p.k : nullptr,
                              row + 8 < p.n ? weights + static_cast<size_t>(row + 8) * p.k : nullptr};
    const T *x[C];
#pragma unroll
    for (int c = 0; c < C; c++) {
        const int at = c * 8 + g;
        x[c] = at < count ? static_cast<const T *>(p.inputs) + static_cast<size_t>(first + at) * p.k : nullptr;
    }
    Sums<C> sums = {};
    multiply<T, C>(rows, x, p.k, sums);
    add_warps<C>(sums, partial);
#pragma unroll
    for (int c = 0; c < C; c++) {
        if (c % WARPS != warp) continue;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int at = c * 8 + t * 2 + i % 2, to = row + i / 2 * 8;
            if (at >= count || to >= p.n) continue;
            static_cast<T *>(p.outputs)[static_cast<size_t>(p.pairs[first + at]) * p.n + to] =
                from_float<T>(sums[c][i]);
        }
    }
}

// ---- the sum over a token's experts ----

// What another block of this kernel may have written.
INLINE float load_fresh(const float *from) { return *reinterpret_cast<const volatile float *>(from); }
template <typename T> INLINE float load_fresh(const T *from) {
    static_assert(sizeof(T) == 2, "in half precision");
    union { unsigned short bits; T value; } both = {*reinterpret_cast<const volatile unsigned short *>(from)};
    return to_float(both.value);
}

template <typename T> INLINE void sum_slots(const ExpertsParams &p, int token, int column) {
    float sum = 0.0f;
    for (int slot = 0; slot < p.slots; slot++) {
        const int pair = token * p.slots + slot;
        const float part =
            load_fresh(static_cast<const T *>(p.outputs) + static_cast<size_t>(pair) * p.n + column) * p.shares[pair];
        sum += p.rounds ? rounded<T>(part) : part;
    }
    const size_t at = static_cast<size_t>(token) * p.n + column;
    if (p.shared) {
        const float gate = to_float(static_cast<const T *>(p.shared_gate)[token]);
        const float share = rounded<T>(1.0f / (1.0f + expf(-gate)));
        sum = rounded<T>(sum) + rounded<T>(share * to_float(static_cast<const T *>(p.shared)[at]));
    }
    static_cast<T *>(p.sums)[at] = from_float<T>(sum);
}

template <typename T, int C> INLINE void gate_up(const ExpertsParams &p) {
    __shared__ Partial<C> partial;
    let_next_start();
    wait_for_inputs();
    const int4 item = p.items[1 + blockIdx.y];
    if (static_cast<int>(blockIdx.y) < p.items[0].x) gate_up_tile<T, C>(p, item, partial);
}

template <typename T, int C> INLINE void down(const ExpertsParams &p) {
    __shared__ Partial<C> partial;
    __shared__ int last;
    let_next_start();
    wait_for_inputs();
    const int4 item = p.items[1 + blockIdx.y];
    const int items = p.items[0].x;
    if (static_cast<int>(blockIdx.y) >= items) return;
    down_tile<T, C>(p, item, partial);
    if (!p.counters) return;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) last = atomicAdd(p.counters + blockIdx.x, 1) == items - 1;
    __syncthreads();
    if (!last) return;
    __threadfence();
    if (threadIdx.x == 0) p.counters[blockIdx.x] = 0;
    const int column = blockIdx.x * 16 + threadIdx.x % 16;
    if (column >= p.n) return;
    for (int token = threadIdx.x / 16; token < p.m; token += WARPS * WARP / 16) sum_slots<T>(p, token, column);
}

// The sum alone: a block of 256 threads for 256 columns of token blockIdx.y.
template <typename T> INLINE void combine(const ExpertsParams &p) {
    let_next_start();
    wait_for_inputs();
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column < p.n) sum_slots<T>(p, blockIdx.y, column);
}

#define PRODUCTS(type, suffix, columns)                                                                                \
    extern "C" __global__ void __launch_bounds__(WARPS *WARP) experts_gate_up_##suffix(const ExpertsParams p) {        \
        gate_up<type, columns>(p);                                                                                     \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(WARPS *WARP) experts_down_##suffix(const ExpertsParams p) {           \
        down<type, columns>(p);                                                                                        \
    }
// The number is the most pairs of an item.
PRODUCTS(float, f32_8, 1)
PRODUCTS(half_t, f16_8, 1)
PRODUCTS(half_t, f16_16, 2)
PRODUCTS(half_t, f16_32, 4)
PRODUCTS(bf16_t, bf16_8, 1)
PRODUCTS(bf16_t, bf16_16, 2)
PRODUCTS(bf16_t, bf16_32, 4)
#undef PRODUCTS

extern "C" __global__ void __launch_bounds__(256) experts_combine_f32(const ExpertsParams p) { combine<float>(p); }
extern "C" __global__ void __launch_bounds__(256) experts_combine_f16(const ExpertsParams p) { combine<half_t>(p); }
extern "C" __global__ void __launch_bounds__(256) experts_combine_bf16(const ExpertsParams p) { combine<bf16_t>(p); }
