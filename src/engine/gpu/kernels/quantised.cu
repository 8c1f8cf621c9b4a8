// Products with matrices that stay quantised, y = x·Wᵀ, with W in the block formats of GGUF as they are stored.
//
// A warp multiplies 16·R rows of W with 8 columns of activations a group on the tensor cores. Bytes of W go to shared
// memory by asynchronous copies, a ring of stages for each warp, so that memory stays busy and no block barrier is
// needed. In registers, quantised integers become bf16 exactly, the sums of a block of W with equal scale are formed by
// mma, and the scale is applied to these sums in f32. An activation in f32 is the sum of two numbers in bf16 up to 2⁻¹⁷
// of it, and takes two columns. So the result is that of the dequantised matrix in f32 but for rounding near 10⁻⁵.
//
// Where a format has a minimum next to the scale, value = scale·q − minimum, the sum of the activations of a block is
// needed, too: the product with a matrix of ones, once for the R groups of rows.
#include "common.cuh"

#include "formats.cuh"

// ---- activations as operands ----

struct QuantisedParams {
    const float *inputs;  // (m, k)
    const void *weights;  // (n, k) in blocks; 16 divides the address, and the matrix ends with whole 16 bytes or has room
    uint4 *operands;      // of k / 32 units, `groups` groups of 8 columns, 32 lanes: written by quantised_inputs
    uint4 *unit_sums;     // of k / 256 chunks, `groups` groups, 32 lanes: the same; null if 256 doesn't divide k
    const float *bias;    // (n) or null
    float *outputs;       // (m, width)
    int m;
    int n;
    int k;
    int width;
    int groups;
    int splits; // warps of a block along k: 1, 2, 4 or 8
};
static_assert(sizeof(QuantisedParams) == 72, "as in quantised.rs");

// Two columns for each token: what bf16 keeps of an activation, and what it leaves; and the sums of the activations of
// each unit in three numbers in bf16, as the operand for a chunk's 8 units. A thread for each 16 bytes of operands.
extern "C" __global__ void __launch_bounds__(256) quantised_inputs(const QuantisedParams p) {
    let_next_start();
    wait_for_inputs();
    const int index = blockIdx.x * blockDim.x + threadIdx.x;
    const int lane = index % WARP, group = index / WARP % p.groups, unit = index / WARP / p.groups;
    const int column = group * 8 + lane / 4, token = column / 2, t = lane % 4;
    const bool inside = unit * 32 < p.k;
    const float *from = p.inputs + static_cast<size_t>(token) * p.k + unit * 32 + t * 4;
    Vector<bf16_t> to;
    float sum = 0.0f;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        Vector<float> x = {};
        if (inside && token < p.m) x = load16(from + half * 16);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float kept = rounded<bf16_t>(x[i]);
            to[half * 4 + i % 2 * 2 + i / 2] = from_float<bf16_t>(column % 2 ? x[i] - kept : kept);
            sum += to_float(to[half * 4 + i % 2 * 2 + i / 2]);
        }
    }
    sum = warp_sum<8>(sum); // of both columns: they are neighbours
    if (!inside) return;
    if (token < p.m) p.operands[index] = as_bits(to);
    if (!p.unit_sums || t != 0) return;
    const float rest[3] = {sum, sum - rounded<bf16_t>(sum),
                           sum - rounded<bf16_t>(sum) - rounded<bf16_t>(sum - rounded<bf16_t>(sum))};
    uint4 *at = p.unit_sums + (unit / 8 * p.groups + group) * WARP + lane + unit % 8 / 2;
#pragma unroll
    for (int part = 0; part < 4; part++) {
        reinterpret_cast<bf16_t *>(at)[part * 2 + unit % 2] =
            from_float<bf16_t>(part < 3 && token < p.m && column % 2 == 0 ? rest[part < 3 ? part : 0] : 0.0f);
    }
}

// ---- products of few rows ----

constexpr int WARPS = 8;

// U units of a chunk are unrolled.
template <class F, int C, int R, int U = F::CHUNK / 32> struct Product {
    static constexpr int UNITS = F::CHUNK / 32, CHUNK_BYTES = F::CHUNK / F::COLUMNS * F::BYTES;
    static constexpr bool ALIGNED = F::ALIGNMENT == 16;
    // 16-byte pieces of a row's chunk, which may begin anywhere in the first
    static constexpr int PIECES = (CHUNK_BYTES + (ALIGNED ? 0 : 16 - F::ALIGNMENT) + 15) / 16;
    // an odd number of pieces from row to row: 8 rows fall into different banks
    static constexpr int STRIDE = (PIECES | 1) * 16, STAGE = 16 * R * STRIDE;
    static constexpr int STAGES = STAGE > 4000 ? 2 : STAGE > 2900 ? 3 : 4;
    static constexpr int SHARED = WARPS * STAGES * STAGE;
    static constexpr int TURNS = (16 * R * PIECES + WARP - 1) / WARP; // copies of a lane in a stage

    const QuantisedParams &p;
    const int warp, lane, g, t, along, across; // the warp's place along k and across rows
    const int row_bytes, chunks, steps, tiles;
    const unsigned offset;
    unsigned char *ring;
    const unsigned char *end;
    int from[TURNS], to[TURNS]; // of a lane's copies, in the tile and in the stage
    float sums[R][C][4];

    __device__ __forceinline__ Product(const QuantisedParams &params, unsigned char *shared)
        : p(params), warp(threadIdx.x / WARP), lane(threadIdx.x % WARP), g(lane / 4), t(lane % 4),
          along(warp % params.splits), across(warp / params.splits), row_bytes(params.k / F::COLUMNS * F::BYTES),
          chunks((params.k + F::CHUNK - 1) / F::CHUNK), steps((chunks + params.splits - 1) / params.splits),
          tiles((params.n + 16 * R * (WARPS / params.splits) - 1) / (16 * R * (WARPS / params.splits))),
          offset(opaque(OFFSET_PAIR)), ring(shared + warp * STAGES * STAGE),
          end(static_cast<const unsigned char *>(params.weights) + static_cast<size_t>(params.n) * row_bytes) {
#pragma unroll
        for (int i = 0; i < TURNS; i++) {
            const int index = i * WARP + lane, row = index / PIECES, piece = index % PIECES;
            from[i] = row * row_bytes + (ALIGNED ? piece * 16 : 0);
            to[i] = row * STRIDE + piece * 16;
        }
    }

    __device__ __forceinline__ int first_row(int tile) const { return (tile * (WARPS / p.splits) + across) * 16 * R; }

    __device__ __forceinline__ const unsigned char *chunk_start(int tile, int chunk) const {
        return static_cast<const unsigned char *>(p.weights) + static_cast<size_t>(first_row(tile)) * row_bytes +
               chunk * CHUNK_BYTES;
    }

    // Starts the copies of a stage. Past the end of the matrix there are zeros.
    __device__ __forceinline__ void fetch(int tile, int step, int slot) {
        const int chunk = step * p.splits + along;
        if (tile < tiles && chunk < chunks) {
            const unsigned char *start = chunk_start(tile, chunk);
            unsigned char *stage = ring + slot * STAGE;
#pragma unroll
            for (int i = 0; i < TURNS; i++) {
                if ((16 * R * PIECES) % WARP != 0 && i * WARP + lane >= 16 * R * PIECES) break;
                const unsigned char *source = start + from[i];
                if (!ALIGNED) {
                    source = reinterpret_cast<const unsigned char *>(reinterpret_cast<size_t>(source) & ~size_t(15)) +
                             to[i] % STRIDE;
                }
                copy_async(stage + to[i], source, source < end);
            }
        }
        copy_async_commit();
    }

    __device__ __forceinline__ void load_inputs(int unit, uint4 (&x)[C]) const {
#pragma unroll
        for (int c = 0; c < C; c++) {
            x[c] = c * 8 + g < 2 * p.m ? p.operands[(unit * C + c) * WARP + lane] : make_uint4(0, 0, 0, 0);
        }
    }

    __device__ __forceinline__ void multiply(int tile, int chunk, int slot) {
        const int units = min(UNITS, p.k / 32 - chunk * UNITS);
        const unsigned start = static_cast<unsigned>(reinterpret_cast<size_t>(chunk_start(tile, chunk)));
        const unsigned char *rows[R][2];
#pragma unroll
        for (int i = 0; i < 2 * R; i++) {
            const int row = i * 8 + g;
            rows[i / 2][i % 2] =
                ring + slot * STAGE + row * STRIDE + (ALIGNED ? 0 : (start + row * row_bytes) % 16);
        }
        if constexpr (F::SIX_BITS)
            multiply_six_bits(chunk, rows);
        else
            multiply_units(chunk, units, rows);
    }

    __device__ __forceinline__ void multiply_units(int chunk, int units, const unsigned char *(&rows)[R][2]) {
#pragma unroll U
        for (int u = 0; u < UNITS; u++) {
            if (F::COLUMNS == 32 && u >= units) break;
            uint4 x[C];
            load_inputs(chunk * UNITS + u, x);
            float ones[F::HALVES][C][4];
            if (F::MINIMUM) {
#pragma unroll
                for (int c = 0; c < C; c++) {
                    const unsigned one = 0x3f803f80;
#pragma unroll
                    for (int i = 0; i < 4 * F::HALVES; i++) ones[i / 4][c][i % 4] = 0.0f;
                    mma_16816<bf16_t>(ones[0][c], {one, one, one, one}, {x[c].x, x[c].y});
                    mma_16816<bf16_t>(ones[F::HALVES - 1][c], {one, one, one, one}, {x[c].z, x[c].w});
                }
            }
#pragma unroll
            for (int r = 0; r < R; r++) {
                Unit<F::HALVES> upper, lower;
                F::unit(rows[r][0], u, t, offset, upper);
                F::unit(rows[r][1], u, t, offset, lower);
#pragma unroll
                for (int c = 0; c < C; c++) {
                    float part[F::HALVES][4] = {};
                    mma_16816<bf16_t>(part[0], {upper.w[0], lower.w[0], upper.w[1], lower.w[1]}, {x[c].x, x[c].y});
                    mma_16816<bf16_t>(part[F::HALVES - 1], {upper.w[2], lower.w[2], upper.w[3], lower.w[3]},
                                      {x[c].z, x[c].w});
#pragma unroll
                    for (int i = 0; i < 4 * F::HALVES; i++) {
                        const Unit<F::HALVES> &row = i % 4 < 2 ? upper : lower;
                        float &sum = sums[r][c][i % 4];
                        sum += row.scale[i / 4] * part[i / 4][i % 4];
                        if (F::MINIMUM) sum -= row.minimum[i / 4] * ones[i / 4][c][i % 4];
                    }
                }
            }
        }
    }

    // A chunk of Q4_K or Q5_K. The sums over units of scale · activations and of minimum · activations are products, too:
    // integers below 64 are exact in bf16, and sums of activations take three numbers in bf16 where they have to be exact.
    // In a row, value = d · (scale · (w − 128)) − d' · minimum.
    __device__ __forceinline__ void multiply_six_bits(int chunk, const unsigned char *(&rows)[R][2]) {
        float chunk_sums[R][C][4], scales[R][2][2], minima[R][C][4];
#pragma unroll
        for (int r = 0; r < R; r++) {
            unsigned scale_pairs[2], minimum_pairs[2];
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const SixBits bits(rows[r][half], t);
                scales[r][half][0] = byte_as_float(bits.scales, 0);
                scales[r][half][1] = byte_as_float(bits.scales, 1);
                scale_pairs[half] = byte_pair(bits.scales, offset);
                minimum_pairs[half] = byte_pair(bits.minima, offset);
            }
#pragma unroll
            for (int c = 0; c < C; c++) {
                const uint4 x = p.unit_sums[(chunk * C + c) * WARP + lane];
#pragma unroll
                for (int i = 0; i < 4; i++) chunk_sums[r][c][i] = minima[r][c][i] = 0.0f;
                mma_16816<bf16_t>(minima[r][c], {minimum_pairs[0], minimum_pairs[1], minimum_pairs[0], minimum_pairs[1]},
                                  {x.x, x.y});
                mma_16816<bf16_t>(chunk_sums[r][c], {scale_pairs[0], scale_pairs[1], scale_pairs[0], scale_pairs[1]},
                                  {x.x, x.y});
                mma_16816<bf16_t>(chunk_sums[r][c], {scale_pairs[0], scale_pairs[1], 0, 0}, {x.z, 0});
#pragma unroll
                for (int i = 0; i < 4; i++) chunk_sums[r][c][i] *= -128.0f;
            }
        }
#pragma unroll U
        for (int u = 0; u < UNITS; u++) {
            uint4 x[C];
            load_inputs(chunk * UNITS + u, x);
#pragma unroll
            for (int r = 0; r < R; r++) {
                Unit<1> upper, lower;
                F::unit(rows[r][0], u, t, offset, upper);
                F::unit(rows[r][1], u, t, offset, lower);
                const float scale[2] = {__shfl_sync(ALL_LANES, scales[r][0][u % 2], u / 2, 4),
                                        __shfl_sync(ALL_LANES, scales[r][1][u % 2], u / 2, 4)};
#pragma unroll
                for (int c = 0; c < C; c++) {
                    float part[4] = {};
                    mma_16816<bf16_t>(part, {upper.w[0], lower.w[0], upper.w[1], lower.w[1]}, {x[c].x, x[c].y});
                    mma_16816<bf16_t>(part, {upper.w[2], lower.w[2], upper.w[3], lower.w[3]}, {x[c].z, x[c].w});
#pragma unroll
                    for (int i = 0; i < 4; i++) chunk_sums[r][c][i] += scale[i / 2] * part[i];
                }
            }
        }
#pragma unroll
        for (int i = 0; i < R * C * 4; i++) {
            const unsigned char *head = rows[i / 4 / C][i % 4 / 2];
            sums[i / 4 / C][i / 4 % C][i % 4] += read_f16(head) * chunk_sums[i / 4 / C][i / 4 % C][i % 4] -
                                                 read_f16(head + 2) * minima[i / 4 / C][i / 4 % C][i % 4];
        }
    }

    __device__ __forceinline__ void store(int row, int token, float sum) const {
        if (row >= p.n || token >= p.m) return;
        p.outputs[static_cast<size_t>(token) * p.width + row] = sum + (p.bias ? p.bias[row] : 0.0f);
    }

    // Writes a tile's outputs, after adding the sums of the warps along k in order.
    __device__ __forceinline__ void finish(int tile, float4 *partial) {
        const int first = first_row(tile);
#pragma unroll
        for (int f = 0; f < R * C; f++) {
            const int r = f / C, c = f % C, row = first + r * 16 + g, token = c * 4 + t;
            float4 sum = make_float4(sums[r][c][0], sums[r][c][1], sums[r][c][2], sums[r][c][3]);
            if (p.splits > 1) {
                partial[warp * WARP + lane] = sum;
                __syncthreads();
                if (along == f % p.splits) {
                    sum = partial[across * p.splits * WARP + lane];
                    for (int other = 1; other < p.splits; other++) {
                        const float4 more = partial[(across * p.splits + other) * WARP + lane];
                        sum.x += more.x, sum.y += more.y, sum.z += more.z, sum.w += more.w;
                    }
                }
                __syncthreads();
            }
            if (along == f % p.splits) {
                store(row, token, sum.x + sum.y);
                store(row + 8, token, sum.z + sum.w);
            }
            for (int i = 0; i < 4; i++) sums[r][c][i] = 0.0f;
        }
    }

    __device__ __forceinline__ void run(float4 *partial) {
        let_next_start();
        int tile = blockIdx.x, step = 0;
#pragma unroll
        for (int slot = 0; slot < STAGES - 1; slot++) {
            fetch(tile, step, slot);
            if (++step == steps) step = 0, tile += gridDim.x;
        }
        wait_for_inputs();
#pragma unroll
        for (int i = 0; i < R * C * 4; i++) sums[i / 4 / C][i / 4 % C][i % 4] = 0.0f;
        int slot = 0, next = STAGES - 1;
        for (int at = blockIdx.x; at < tiles; at += gridDim.x) {
            for (int done = 0; done < steps; done++) {
                fetch(tile, step, next);
                if (++step == steps) step = 0, tile += gridDim.x;
                copy_async_wait<STAGES - 1>();
                __syncwarp();
                if (done * p.splits + along < chunks) multiply(at, done * p.splits + along, slot);
                __syncwarp();
                next = slot;
                slot = slot + 1 == STAGES ? 0 : slot + 1;
            }
            finish(at, partial);
        }
    }
};

template <class F, int C, int R, int U = F::CHUNK / 32> INLINE void multiply(const QuantisedParams &p) {
    DYNAMIC_SHARED(unsigned char, ring);
    __shared__ float4 partial[WARPS * WARP];
    Product<F, C, R, U>(p, ring).run(partial);
}

// Groups of 16 rows of a warp that multiplies with several groups of columns: two, if a block's stages fit into the
// shared memory of all devices then.
template <class F> constexpr int WIDE_ROWS = Product<F, 2, 2>::SHARED <= 96 << 10 ? 2 : 1;

// ---- the matrix itself, for products of many rows ----

struct DequantiseParams {
    const void *weights; // (n, k) in blocks
    void *values;        // (n, k)
    int n;
    int k;
};
static_assert(sizeof(DequantiseParams) == 24, "as in quantised.rs");

// A thread for each 8 values: lane t of a unit.
template <class F, typename T> INLINE void dequantise(const DequantiseParams &p) {
    let_next_start();
    wait_for_inputs();
    constexpr int UNITS = F::COLUMNS / 32;
    const size_t index = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    const int t = index % 4, units = p.k / 32, unit = index / 4 % units;
    const size_t row = index / 4 / units;
    if (row >= static_cast<size_t>(p.n)) return;
    const unsigned char *block = static_cast<const unsigned char *>(p.weights) +
                                 (row * (p.k / F::COLUMNS) + unit / UNITS) * F::BYTES;
    Unit<F::HALVES> held;
    F::unit(block, unit % UNITS, t, OFFSET_PAIR, held);
    float scale[F::HALVES], minimum[F::HALVES];
#pragma unroll
    for (int h = 0; h < F::HALVES; h++) {
        if constexpr (F::SIX_BITS) {
            const SixBits bits(block, unit % UNITS / 2);
            scale[h] = read_f16(block) * byte_as_float(bits.scales, unit % 2);
            minimum[h] = 128.0f * scale[h] + read_f16(block + 2) * byte_as_float(bits.minima, unit % 2);
        } else {
            scale[h] = held.scale[h];
            minimum[h] = F::MINIMUM ? held.minimum[h] : 0.0f;
        }
    }
    T *to = static_cast<T *>(p.values) + row * p.k + unit * 32 + 4 * t;
#pragma unroll
    for (int half = 0; half < 2; half++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const unsigned pair = held.w[half * 2 + i % 2];
            const float q = __uint_as_float(i < 2 ? pair << 16 : pair & 0xffff0000);
            const int h = half * (F::HALVES - 1);
            to[half * 16 + i] = from_float<T>(scale[h] * q - minimum[h]);
        }
    }
}

// ---- activations in f16 for a library's products ----

struct RowsParams {
    const float *inputs; // (m, k)
    half_t *values;      // (m, k): inputs · scale
    float *scales;       // (m): powers of two that bring a row into f16's range; 1 for rows that are
    int k;
};
static_assert(sizeof(RowsParams) == 32, "as in quantised.rs");

// A block of 256 threads a row.
extern "C" __global__ void __launch_bounds__(256) quantised_rows(const RowsParams p) {
    __shared__ float scratch[WARP];
    let_next_start();
    wait_for_inputs();
    const float *const from = p.inputs + static_cast<size_t>(blockIdx.x) * p.k;
    half_t *const to = p.values + static_cast<size_t>(blockIdx.x) * p.k;
    float largest = 0.0f;
    for (int at = threadIdx.x * 4; at < p.k; at += blockDim.x * 4) {
        const Vector<float> x = load16(from + at);
#pragma unroll
        for (int i = 0; i < 4; i++) largest = fmaxf(largest, fabsf(x[i]));
    }
    largest = block_max(largest, scratch);
    const float scale = largest > 32768.0f && largest < INFINITY ? exp2f(14.0f - ilogbf(largest)) : 1.0f;
    for (int at = threadIdx.x * 4; at < p.k; at += blockDim.x * 4) {
        const Vector<float> x = load16(from + at);
        const uint2 four = make_uint2(pack(from_float<half_t>(x[0] * scale), from_float<half_t>(x[1] * scale)),
                                      pack(from_float<half_t>(x[2] * scale), from_float<half_t>(x[3] * scale)));
        *reinterpret_cast<uint2 *>(to + at) = four;
    }
    if (threadIdx.x == 0) p.scales[blockIdx.x] = scale;
}

struct FinishParams {
    float *outputs;      // (m, width), of which n a row: divided by the row's scale, plus bias
    const float *scales; // (m)
    const float *bias;   // (n) or null
    int n;
    int width;
};
static_assert(sizeof(FinishParams) == 32, "as in quantised.rs");

// A block of 256 threads a row, which mostly has nothing to do.
extern "C" __global__ void __launch_bounds__(256) quantised_finish(const FinishParams p) {
    let_next_start();
    wait_for_inputs();
    const float scale = 1.0f / p.scales[blockIdx.x];
    if (scale == 1.0f && !p.bias) return;
    float *const row = p.outputs + static_cast<size_t>(blockIdx.x) * p.width;
    for (int at = threadIdx.x; at < p.n; at += blockDim.x) row[at] = row[at] * scale + (p.bias ? p.bias[at] : 0.0f);
}

#define FORMAT(name, type)                                                                                             \
    extern "C" __global__ void __launch_bounds__(WARPS *WARP, 2) quantised_##name##_4(const QuantisedParams p) {       \
        multiply<type, 1, 1>(p);                                                                                       \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(WARPS *WARP, 1) quantised_##name##_8(const QuantisedParams p) {       \
        multiply<type, 2, WIDE_ROWS<type>>(p);                                                                                       \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(WARPS *WARP, 1) quantised_##name##_16(const QuantisedParams p) {      \
        multiply<type, 4, WIDE_ROWS<type>>(p);                                                                                       \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256) dequantise_##name##_f16(const DequantiseParams p) {              \
        dequantise<type, half_t>(p);                                                                                   \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256) dequantise_##name##_bf16(const DequantiseParams p) {             \
        dequantise<type, bf16_t>(p);                                                                                   \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256) dequantise_##name##_f32(const DequantiseParams p) {              \
        dequantise<type, float>(p);                                                                                    \
    }
FORMAT(q8_0, Q8_0)
FORMAT(q4_0, Q4_0)
FORMAT(q4_1, Q4_1)
FORMAT(q5_0, Q5_0)
FORMAT(q5_1, Q5_1)
FORMAT(q2_k, Q2_K)
FORMAT(q3_k, Q3_K)
FORMAT(q4_k, Q4_K)
FORMAT(q5_k, Q5_K)
FORMAT(q6_k, Q6_K)
#undef FORMAT
