// Products of a few rows of activations with a weight matrix, y = x·Wᵀ, at the speed of reading W once.
//
// A warp multiplies 16·R rows of W with 8·C rows of x on the tensor cores (mma m16n8k16; W is the operand with 16 rows).
// Within a block of k, the order of the elements is free as long as both operands agree on it, so each lane takes 16
// contiguous bytes of its rows straight from memory and uses them for two multiplications: no lane ever reads what another
// lane loaded, and the pipeline needs no barrier. The warps of a block take turns along k; their sums meet in shared memory
// once a tile and are added in a fixed order, so the result has the same bits on every run.
//
// Weights don't depend on an earlier kernel. So the first DEPTH stages of a block's weights are on their way, and `ahead`
// further ones to the L2 cache, before the block waits for its inputs: memory stays busy between two kernels.
#include "common.cuh"

struct ProductParams {
    const void *inputs;    // (m, k)
    const void *weights;   // (n, k)
    const void *bias;      // (n), or null
    const void *residual;  // (m, outputs' width), added after the product is rounded; or null
    const void *scale;     // (k): weights of the RMSNorm that the inputs go through first (`_norm` variants)
    void *outputs;         // (m, n), or (m, n / 2) of the gated variants
    int m;
    int n;
    int k;
    int ahead;         // stages of weights to prefetch to L2 beyond those that a block holds
    int activation;    // of the gated variants: 0 silu, 1 gelu, 2 gelu by tanh, 3 relu, 4 relu squared
    int unit_offset;   // 1: the norm multiplies by 1 + scale and rounds once (Gemma)
    float epsilon;
};

// TUNING
#if defined(__CUDACC__) && defined(HINT)
INLINE void copy_async_weights(void *to, const void *from, bool valid) {
    const int bytes = valid ? 16 : 0;
#if HINT == 1
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes)
                 : "memory");
#elif HINT == 2
    unsigned long long policy;
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    asm volatile("cp.async.cg.shared.global.L2::cache_hint.L2::128B [%0], [%1], 16, %2, %3;" ::"r"(shared_address(to)), "l"(from), "r"(bytes), "l"(policy)
                 : "memory");
#elif HINT == 3
    asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes)
                 : "memory");
#endif
}
#else
INLINE void copy_async_weights(void *to, const void *from, bool valid) { copy_async(to, from, valid); }
#endif

constexpr int CHUNK = 64;  // elements of k in a stage: 128 bytes of a row, a line of L2

template <typename T>
__device__ __forceinline__ float activated(float gate, int activation) {
    switch (activation) {
        case 0: return gate / (1.0f + expf(-gate));
        case 1: return 0.5f * gate * (1.0f + erff(gate * 0.70710678118654752f));
        case 2: return 0.5f * gate * (1.0f + tanhf(0.79788456080286536f * (gate + 0.044715f * gate * gate * gate)));
        case 3: return fmaxf(gate, 0.0f);
        default: {
            const float positive = rounded<T>(fmaxf(gate, 0.0f));
            return positive * positive;
        }
    }
}

// Writes output (column, row) of a plain product.
template <typename T>
__device__ __forceinline__ void store_output(const ProductParams &p, int row, int column, float sum) {
    if (row >= p.n || column >= p.m) return;
    if (p.bias) sum += to_float(static_cast<const T *>(p.bias)[row]);
    const size_t at = static_cast<size_t>(column) * p.n + row;
    if (p.residual) sum = rounded<T>(sum) + to_float(static_cast<const T *>(p.residual)[at]);
    static_cast<T *>(p.outputs)[at] = from_float<T>(sum);
}

// Writes output (column, row) of a gated product, act(gate)·up.
template <typename T>
__device__ __forceinline__ void store_gated(const ProductParams &p, int row, int column, float gate, float up) {
    const int inner = p.n / 2;
    if (row >= inner || column >= p.m) return;
    if (p.bias) {
        gate += to_float(static_cast<const T *>(p.bias)[row]);
        up += to_float(static_cast<const T *>(p.bias)[inner + row]);
    }
    const float active = rounded<T>(activated<T>(rounded<T>(gate), p.activation));
    static_cast<T *>(p.outputs)[static_cast<size_t>(column) * inner + row] = from_float<T>(active * rounded<T>(up));
}

// RMSNorm of the m rows of inputs into shared memory. A thread normalises the very values that it loaded.
template <typename T, int WARPS>
__device__ __forceinline__ void normalize(const ProductParams &p, T *normal, int stride, float *sums) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const T *inputs = static_cast<const T *>(p.inputs);
    for (int row = 0; row < p.m; row++) {
        float sum = 0.0f;
        for (int i = threadIdx.x * 8; i < p.k; i += WARPS * 32 * 8) {
            const Vector<T> piece = load16(inputs + static_cast<size_t>(row) * p.k + i);
#pragma unroll
            for (int e = 0; e < 8; e++) sum += to_float(piece[e]) * to_float(piece[e]);
            store16(normal + row * stride + i, piece);
        }
        sum = warp_sum(sum);
        if (lane == 0) sums[row * WARPS + warp] = sum;
    }
    __syncthreads();
    const T *scale = static_cast<const T *>(p.scale);
    for (int i = threadIdx.x * 8; i < p.k; i += WARPS * 32 * 8) {
        const Vector<T> weights = load16(scale + i);
        for (int row = 0; row < p.m; row++) {
            float sum = 0.0f;
#pragma unroll
            for (int w = 0; w < WARPS; w++) sum += sums[row * WARPS + w];
            const float factor = rsqrtf(sum / p.k + p.epsilon);
            T *const at = normal + row * stride + i;
            Vector<T> values = load16(at);
#pragma unroll
            for (int e = 0; e < 8; e++) {
                const float normal = to_float(values[e]) * factor, weight = to_float(weights[e]);
                values[e] = from_float<T>(p.unit_offset ? normal * (1.0f + weight) : rounded<T>(normal) * weight);
            }
            store16(at, values);
        }
    }
    __syncthreads();
}

// Where a warp is in its stream of stages: along k within a tile, then on to the block's next tile.
struct Cursor {
    int tile;
    int step;
};

template <typename T, int WARPS, int C, int R, int DEPTH, bool RING, bool GATED, bool NORM>
struct Product {
    static constexpr int PIECES = 4 * R;                  // 16-byte pieces of W of a lane in a stage
    static constexpr int FRAGMENTS = R * C;               // 16×8 blocks of sums of a warp
    static constexpr int BUFFERS = FRAGMENTS > 2 ? 1 : 2;  // of sums: with two, one barrier a tile is enough

    const ProductParams &p;
    const int warp, lane, g, t;  // lane 4g + t holds rows g and g + 8 of a fragment
    const int steps, tiles;
    uint4 *ring;
    float4 *partial;
    const T *inputs;
    int stride;
    uint4 held[RING ? 1 : DEPTH][PIECES];
    const T *rows[R][2];
    float sums[R][C][4];
    uint4 next[C][2];

    __device__ __forceinline__ Product(const ProductParams &params, unsigned char *shared)
        : p(params), warp(threadIdx.x / 32), lane(threadIdx.x % 32), g(lane / 4), t(lane % 4),
          steps(((params.k + CHUNK - 1) / CHUNK + WARPS - 1) / WARPS),
          tiles(GATED ? (params.n / 2 + 8 * R - 1) / (8 * R) : (params.n + 16 * R - 1) / (16 * R)),
          inputs(static_cast<const T *>(params.inputs)), stride(params.k) {
        ring = reinterpret_cast<uint4 *>(shared);
        partial = reinterpret_cast<float4 *>(ring + (RING ? WARPS * DEPTH * PIECES * 32 : 0));
        ring += warp * DEPTH * PIECES * 32 + lane;
    }

    // Row of W for row i of fragment r. Rows past the end repeat the last one; their sums are never stored.
    __device__ __forceinline__ int row_of(int tile, int r, int i) const {
        if (GATED) {
            const int inner = p.n / 2;
            return min(tile * 8 * R + r * 8 + i % 8, inner - 1) + (i < 8 ? 0 : inner);
        }
        return min(tile * 16 * R + r * 16 + i, p.n - 1);
    }

    __device__ __forceinline__ const T *row_start(int row) const {
        return static_cast<const T *>(p.weights) + static_cast<size_t>(row) * p.k;
    }

    __device__ __forceinline__ void enter_tile(int tile) {
#pragma unroll
        for (int r = 0; r < R; r++) {
#pragma unroll
            for (int half = 0; half < 2; half++) rows[r][half] = row_start(row_of(tile, r, g + 8 * half));
        }
    }

    __device__ __forceinline__ void advance(Cursor &cursor) const {
        if (++cursor.step == steps) {
            cursor.step = 0;
            cursor.tile += gridDim.x;
        }
    }

    // Starts the loads of the stage at the cursor into `slot`. Past the last tile it only closes an empty group.
    __device__ __forceinline__ void fetch(Cursor &cursor, int slot) {
        if (cursor.tile < tiles) {
            if (cursor.step == 0) enter_tile(cursor.tile);
            const int at = (cursor.step * WARPS + warp) * CHUNK + t * 8;
#pragma unroll
            for (int piece = 0; piece < PIECES; piece++) {
                const int from = at + (piece % 2) * 32;
                const T *source = rows[piece / 4][piece / 2 % 2] + (from < p.k ? from : 0);
                if (RING) {
                    copy_async_weights(ring + (slot * PIECES + piece) * 32, source, from < p.k);
                } else {
                    uint4 bits = make_uint4(0, 0, 0, 0);
                    if (from < p.k) bits = load16_streaming_bits(source);
                    held[RING ? 0 : slot][piece] = bits;
                }
            }
            advance(cursor);
        }
        if (RING) copy_async_commit();
    }

    // Asks for the L2 lines of the stages that follow those in flight.
    __device__ __forceinline__ void prefetch(Cursor cursor) const {
        for (int i = 0; i < p.ahead && cursor.tile < tiles; i++) {
            const int at = (cursor.step * WARPS + warp) * CHUNK;
            for (int row = lane; row < 16 * R && at < p.k; row += 32) {
                prefetch_l2(row_start(row_of(cursor.tile, row / 16, row % 16)) + at);
            }
            advance(cursor);
        }
    }

    __device__ __forceinline__ void load_inputs(int step) {
        const int at = (step * WARPS + warp) * CHUNK + t * 8;
#pragma unroll
        for (int c = 0; c < C; c++) {
            const T *row = inputs + static_cast<size_t>(c * 8 + g) * stride;
#pragma unroll
            for (int q = 0; q < 2; q++) {
                const bool there = c * 8 + g < p.m && at + 32 * q < p.k;
                next[c][q] = there ? *reinterpret_cast<const uint4 *>(row + at + 32 * q) : make_uint4(0, 0, 0, 0);
            }
        }
    }

    __device__ __forceinline__ void multiply(int slot, int next_step) {
        constexpr bool EARLY = C <= 2;  // inputs one stage ahead, where registers allow it
        uint4 x[C][2];
        if (!EARLY) load_inputs(next_step);
#pragma unroll
        for (int c = 0; c < C; c++) x[c][0] = next[c][0], x[c][1] = next[c][1];
        if (EARLY) load_inputs(next_step);
        if (RING) copy_async_wait<DEPTH - 1>();
#pragma unroll
        for (int r = 0; r < R; r++) {
            uint4 w[4];
#pragma unroll
            for (int piece = 0; piece < 4; piece++) {
                w[piece] = RING ? ring[(slot * PIECES + r * 4 + piece) * 32] : held[RING ? 0 : slot][r * 4 + piece];
            }
#pragma unroll
            for (int q = 0; q < 2; q++) {
#pragma unroll
                for (int c = 0; c < C; c++) {
                    mma_16816<T>(sums[r][c], {w[q].x, w[2 + q].x, w[q].y, w[2 + q].y}, {x[c][q].x, x[c][q].y});
                    mma_16816<T>(sums[r][c], {w[q].z, w[2 + q].z, w[q].w, w[2 + q].w}, {x[c][q].z, x[c][q].w});
                }
            }
        }
    }

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int i = 0; i < R * C * 4; i++) sums[i / 4 / C][i / 4 % C][i % 4] = 0.0f;
    }

    // Adds the warps' sums in order and writes a tile's outputs. Another warp does so at each turn, so that none lags.
    __device__ __forceinline__ void finish(int tile, int turn) {
        float4 *buffer = partial + (BUFFERS == 2 ? turn % 2 : 0) * WARPS * FRAGMENTS * 32;
#pragma unroll
        for (int f = 0; f < FRAGMENTS; f++) {
            const float *s = sums[f / C][f % C];
            buffer[(f * WARPS + warp) * 32 + lane] = make_float4(s[0], s[1], s[2], s[3]);
        }
        __syncthreads();
        for (int f = (warp + turn) % WARPS; f < FRAGMENTS; f += WARPS) {
            float4 sum = buffer[f * WARPS * 32 + lane];
#pragma unroll
            for (int w = 1; w < WARPS; w++) {
                const float4 other = buffer[(f * WARPS + w) * 32 + lane];
                sum.x += other.x, sum.y += other.y, sum.z += other.z, sum.w += other.w;
            }
            const int r = f / C, column = f % C * 8 + t * 2;
            if (GATED) {
                store_gated<T>(p, tile * 8 * R + r * 8 + g, column, sum.x, sum.z);
                store_gated<T>(p, tile * 8 * R + r * 8 + g, column + 1, sum.y, sum.w);
            } else {
                const int row = tile * 16 * R + r * 16 + g;
                store_output<T>(p, row, column, sum.x);
                store_output<T>(p, row, column + 1, sum.y);
                store_output<T>(p, row + 8, column, sum.z);
                store_output<T>(p, row + 8, column + 1, sum.w);
            }
        }
        if (BUFFERS == 1) __syncthreads();
        clear();
    }

    __device__ __forceinline__ void run() {
        let_next_start();
        Cursor loads = {static_cast<int>(blockIdx.x), 0};
#pragma unroll
        for (int slot = 0; slot < DEPTH; slot++) fetch(loads, slot);
        prefetch(loads);
        wait_for_inputs();
        if (NORM) {
            float *row_sums = reinterpret_cast<float *>(partial + BUFFERS * WARPS * FRAGMENTS * 32);
            T *normal = reinterpret_cast<T *>(row_sums + C * 8 * WARPS);
            stride = p.k + 32;  // half a row of banks further: rows g and g + 1 don't meet
            normalize<T, WARPS>(p, normal, stride, row_sums);
            inputs = normal;
        }
        clear();
        load_inputs(0);
        Cursor at = {static_cast<int>(blockIdx.x), 0};
        int turn = 0;
        while (at.tile < tiles) {
#pragma unroll(RING ? 1 : DEPTH)
            for (int slot = 0; slot < DEPTH; slot++) {
                if (at.tile < tiles) {
                    const int tile = at.tile;
                    constexpr bool EARLY = C <= 2;
                    const int step = at.step;
                    advance(at);
                    multiply(slot, EARLY ? at.step : step);
                    fetch(loads, slot);
                    if (at.step == 0) finish(tile, turn++);
                }
            }
        }
    }
};

template <typename T, int WARPS, int C, int R, int DEPTH, bool RING, bool GATED, bool NORM>
__device__ __forceinline__ void product(const ProductParams &p) {
    DYNAMIC_SHARED(unsigned char, shared);
    Product<T, WARPS, C, R, DEPTH, RING, GATED, NORM>(p, shared).run();
}

// ---- f32: exact, by plain multiplications ----

// A warp takes one output row at a time and 8 rows of inputs.
template <bool GATED, bool NORM> __device__ __forceinline__ void product_in_f32(const ProductParams &p) {
    constexpr int WARPS = 8, COLUMNS = 8;
    __shared__ float scratch[WARP];
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, width = GATED ? p.n / 2 : p.n;
    const float *inputs = static_cast<const float *>(p.inputs), *scale = static_cast<const float *>(p.scale);
    let_next_start();
    wait_for_inputs();
    for (int first = 0; first < p.m; first += COLUMNS) {
        float factors[COLUMNS];
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) {
            factors[c] = 1.0f;
            if (!NORM || first + c >= p.m) continue;
            float sum = 0.0f;
            for (int i = threadIdx.x; i < p.k; i += blockDim.x) {
                const float value = inputs[static_cast<size_t>(first + c) * p.k + i];
                sum += value * value;
            }
            factors[c] = rsqrtf(block_sum(sum, scratch) / p.k + p.epsilon);
            __syncthreads();
        }
        for (int row = blockIdx.x * WARPS + warp; row < width; row += gridDim.x * WARPS) {
            const float *weights = static_cast<const float *>(p.weights) + static_cast<size_t>(row) * p.k;
            const float *up = weights + static_cast<size_t>(GATED ? width : 0) * p.k;
            float sums[COLUMNS] = {}, up_sums[COLUMNS] = {};
            for (int i = lane * 4; i < p.k; i += WARP * 4) {
                const Vector<float> w = load16(weights + i), u = load16(up + i);
                Vector<float> s;
                if (NORM) s = load16(scale + i);
#pragma unroll
                for (int c = 0; c < COLUMNS; c++) {
                    if (first + c >= p.m) continue;
                    const Vector<float> x = load16(inputs + static_cast<size_t>(first + c) * p.k + i);
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        const float value = NORM ? x[e] * factors[c] * (p.unit_offset ? 1.0f + s[e] : s[e]) : x[e];
                        sums[c] += w[e] * value;
                        if (GATED) up_sums[c] += u[e] * value;
                    }
                }
            }
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) {
                const float sum = warp_sum(sums[c]), up_sum = GATED ? warp_sum(up_sums[c]) : 0.0f;
                if (lane != 0) continue;
                if (GATED) store_gated<float>(p, row, first + c, sum, up_sum);
                else store_output<float>(p, row, first + c, sum);
            }
        }
    }
}

#ifndef NO_ENTRIES
#define PRODUCT(name, WARPS, C, R, DEPTH, RING, GATED, NORM)                                                           \
    extern "C" __global__ void __launch_bounds__(WARPS * 32) name##_bf16(const ProductParams p) {                      \
        product<bf16_t, WARPS, C, R, DEPTH, RING, GATED, NORM>(p);                                                     \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(WARPS * 32) name##_f16(const ProductParams p) {                       \
        product<half_t, WARPS, C, R, DEPTH, RING, GATED, NORM>(p);                                                     \
    }
PRODUCT(product_m8, 8, 1, 1, 6, true, false, false)
PRODUCT(product_gated_m8, 8, 1, 1, 6, true, true, false)
PRODUCT(product_norm_m8, 8, 1, 1, 6, true, false, true)
PRODUCT(product_gated_norm_m8, 8, 1, 1, 6, true, true, true)
PRODUCT(product_m16, 8, 2, 2, 3, true, false, false)
PRODUCT(product_gated_m16, 8, 2, 2, 3, true, true, false)
PRODUCT(product_m32, 4, 4, 4, 2, false, false, false)
PRODUCT(product_gated_m32, 4, 4, 4, 2, false, true, false)
#undef PRODUCT

#define PRODUCT_F32(name, GATED, NORM)                                                                                 \
    extern "C" __global__ void __launch_bounds__(256) name##_f32(const ProductParams p) {                              \
        product_in_f32<GATED, NORM>(p);                                                                                \
    }
PRODUCT_F32(product, false, false)
PRODUCT_F32(product_gated, true, false)
PRODUCT_F32(product_norm, false, true)
PRODUCT_F32(product_gated_norm, true, true)
#undef PRODUCT_F32
#endif
