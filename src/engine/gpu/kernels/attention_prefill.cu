// Attention of many new tokens a row over the KV cache ("FlashAttention-2"): a block takes some query tokens of a head and
// goes through the columns that they see, tile by tile, with an online softmax, so that the scores are never in memory.
//
// Roundings are those of attention_decode.cu.
#include "common.cuh"

struct AttentionPrefillParams {
    const void *queries; // (b · t, query_stride), the first h · d of each row, rotated
    const void *keys;    // (b, kv, capacity, d), the new columns included
    const void *values;  // the same
    void *output;        // (b · t, h · d)
    const int *starts;   // (b): first column of each row
    const int *length;   // columns in the cache before the new ones
    const float *alibi;  // (h, alibi_stride) by column − start, or null
    int heads, kv_heads, width, capacity, query_stride, alibi_stride;
    int window;          // columns that a query sees, or 0 for all
    int tokens;          // t
    float scale, softcap; // softcap 0: none
};

// The work of a block. Grid: heads, b, blocks of query tokens, of which the last ones come first since they see most.
struct PrefillPart {
    int row, head, first_token, tokens; // tokens first_token … first_token + tokens − 1
    int first_column;                   // of the first token
    int start, begin, end;              // columns begin … end − 1 are seen by some token
};

INLINE PrefillPart prefill_part(const AttentionPrefillParams &p, int block) {
    PrefillPart part;
    part.head = blockIdx.x;
    part.row = blockIdx.y;
    part.first_token = (gridDim.z - 1 - blockIdx.z) * block;
    part.tokens = min(block, p.tokens - part.first_token);
    part.first_column = load_l2(p.length) + part.first_token;
    part.start = load_l2(p.starts + part.row);
    part.begin = max(part.start, p.window > 0 ? part.first_column - p.window + 1 : 0);
    part.end = part.first_column + part.tokens;
    return part;
}

// ---- half precision ----

// Where 8 values of a tile in shared memory lie, so that 8 rows at the same chunk are in different banks.
template <int PITCH> INLINE int swizzled(int row, int chunk) { return row * PITCH + ((chunk ^ (row & 7)) << 3); }

// Copies ROWS rows of `width` values to shared memory, with zeros from row `valid` on and to the right of the width.
template <typename T, int D, int ROWS, int THREADS>
INLINE void copy_tile(T *to, const T *from, size_t stride, int width, int valid) {
    constexpr int PITCH = (D + 63) / 64 * 64, CHUNKS = D / 8;
#pragma unroll
    for (int index = threadIdx.x; index < ROWS * CHUNKS; index += THREADS) {
        const int row = index / CHUNKS, chunk = index % CHUNKS;
        const bool inside = row < valid && chunk * 8 < width;
        copy_async(to + swizzled<PITCH>(row, chunk), inside ? from + row * stride + chunk * 8 : from, inside);
    }
}

// A warp has 16 · TILES query tokens. Of a tile of 16 tokens, with g = lane / 4, a lane has tokens g and g + 8.
template <int D, int TILES, int BN> struct PrefillState {
    float sums[TILES][D / 8][4], scores[TILES][BN / 8][4];
    float most[TILES][2], total[TILES][2];
};

template <typename T, int D, int TILES, int BN>
INLINE void multiply_queries(PrefillState<D, TILES, BN> &state, const T *queries, const T *keys) {
    constexpr int PITCH = (D + 63) / 64 * 64;
    const int lane = threadIdx.x % WARP;
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
#pragma unroll
        for (int n = 0; n < BN / 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) state.scores[tile][n][i] = 0.0f;
        }
    }
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
        unsigned a[TILES][4];
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
            load_matrix_x4(a[tile], queries + swizzled<PITCH>(tile * 16 + lane % 16, 2 * k + lane / 16));
        }
#pragma unroll
        for (int n = 0; n < BN / 16; n++) {
            unsigned b[4];
            load_matrix_x4(b, keys + swizzled<PITCH>(n * 16 + lane / 16 * 8 + lane % 8, 2 * k + lane / 8 % 2));
#pragma unroll
            for (int tile = 0; tile < TILES; tile++) {
                mma_16816<T>(state.scores[tile][2 * n], a[tile], {b[0], b[1]});
                mma_16816<T>(state.scores[tile][2 * n + 1], a[tile], {b[2], b[3]});
            }
        }
    }
}

template <typename T, int D, int TILES, int BN>
INLINE void multiply_probabilities(PrefillState<D, TILES, BN> &state, const T *values) {
    constexpr int PITCH = (D + 63) / 64 * 64;
    const int lane = threadIdx.x % WARP;
#pragma unroll
    for (int k = 0; k < BN / 16; k++) {
        unsigned a[TILES][4];
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float *s = state.scores[tile][2 * k + i / 2] + i % 2 * 2;
                a[tile][i] = pack(from_float<T>(s[0]), from_float<T>(s[1]));
            }
        }
#pragma unroll
        for (int n = 0; n < D / 16; n++) {
            unsigned b[4];
            load_matrix_x4_trans(b, values + swizzled<PITCH>(k * 16 + lane % 16, 2 * n + lane / 16));
#pragma unroll
            for (int tile = 0; tile < TILES; tile++) {
                mma_16816<T>(state.sums[tile][2 * n], a[tile], {b[0], b[1]});
                mma_16816<T>(state.sums[tile][2 * n + 1], a[tile], {b[2], b[3]});
            }
        }
    }
}

// Calls body(s, column, token) for each of the lane's scores of a tile of columns from `first` on.
template <int D, int TILES, int BN, typename Body>
INLINE void for_scores(PrefillState<D, TILES, BN> &state, int first, Body body) {
    const int lane = threadIdx.x % WARP, token = threadIdx.x / WARP * 16 * TILES + lane / 4;
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
#pragma unroll
        for (int n = 0; n < BN / 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                body(state.scores[tile][n][i], first + n * 8 + lane % 4 * 2 + i % 2, token + tile * 16 + i / 2 * 8);
            }
        }
    }
}

// Turns products with the columns from `first` on into scores, −∞ where a token doesn't see a column.
template <typename T, int D, int TILES, int BN>
INLINE void score_products(const AttentionPrefillParams &p, const PrefillPart &part,
                           PrefillState<D, TILES, BN> &state, int first) {
    if (p.alibi) {
        const float *alibi = p.alibi + static_cast<size_t>(part.head) * p.alibi_stride - part.start;
        for_scores(state, first, [&](float &s, int column, int) {
            s = rounded<T>(s) * p.scale + alibi[min(max(column, part.start), part.end - 1)];
        });
    } else if (p.softcap > 0.0f) {
        for_scores(state, first, [&](float &s, int, int) { s = attention_score<T>(s, p.scale, p.softcap); });
    } else {
        for_scores(state, first, [&](float &s, int, int) { s = attention_score<T>(s, p.scale, 0.0f); });
    }
    const bool all = first + BN <= part.first_column + 1 && first >= part.start &&
                     (p.window == 0 || first > part.end - 1 - p.window);
    if (all) return;
    for_scores(state, first, [&](float &s, int column, int token) {
        const int own = part.first_column + token;
        if (column > own || column < part.start || (p.window > 0 && column <= own - p.window)) s = -INFINITY;
    });
}

// Turns scores into probabilities relative to the largest score so far, to which it brings the sums.
template <int D, int TILES, int BN> INLINE void soften_scores(PrefillState<D, TILES, BN> &state) {
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float most = state.most[tile][half];
#pragma unroll
            for (int n = 0; n < BN / 8; n++) {
                most = fmaxf(most, fmaxf(state.scores[tile][n][2 * half], state.scores[tile][n][2 * half + 1]));
            }
            most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, 1));
            most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, 2));
            const float shrink = power_of_two((state.most[tile][half] - most) * LOG2_E), base = most * LOG2_E;
            state.most[tile][half] = most;
            float total = state.total[tile][half] * shrink;
#pragma unroll
            for (int n = 0; n < BN / 8; n++) {
#pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; i++) {
                    float &s = state.scores[tile][n][i];
                    s = power_of_two(s * LOG2_E - base);
                    total += s;
                }
            }
            state.total[tile][half] = total;
#pragma unroll
            for (int n = 0; n < D / 8; n++) {
                state.sums[tile][n][2 * half] *= shrink;
                state.sums[tile][n][2 * half + 1] *= shrink;
            }
        }
    }
}

// Divides by the totals and writes the warp's tokens, by way of its rows of the queries in shared memory.
template <typename T, int D, int TILES, int BN>
INLINE void write_attended(const AttentionPrefillParams &p, const PrefillPart &part, PrefillState<D, TILES, BN> &state,
                           T *shared) {
    constexpr int PITCH = (D + 63) / 64 * 64;
    const int lane = threadIdx.x % WARP, warp_first = threadIdx.x / WARP * 16 * TILES;
    __syncwarp();
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float total = state.total[tile][half];
            total += __shfl_xor_sync(ALL_LANES, total, 1);
            total += __shfl_xor_sync(ALL_LANES, total, 2);
            const float share = total > 0.0f ? 1.0f / total : 0.0f; // 0 for padding, which sees nothing
            const int row = tile * 16 + half * 8 + lane / 4;
#pragma unroll
            for (int n = 0; n < D / 8; n++) {
                const float *sum = state.sums[tile][n] + 2 * half;
                unsigned *to = reinterpret_cast<unsigned *>(shared + swizzled<PITCH>(row, n) + lane % 4 * 2);
                *to = pack(from_float<T>(sum[0] * share), from_float<T>(sum[1] * share));
            }
        }
    }
    __syncwarp();
    T *output = static_cast<T *>(p.output);
    for (int index = lane; index < 16 * TILES * D / 8; index += WARP) {
        const int row = index / (D / 8), chunk = index % (D / 8), token = warp_first + row;
        if (token >= part.tokens || chunk * 8 >= p.width) continue;
        const size_t at = static_cast<size_t>(part.row) * p.tokens + part.first_token + token;
        store16(output + (at * p.heads + part.head) * p.width + chunk * 8, load16(shared + swizzled<PITCH>(row, chunk)));
    }
}

// Shared memory: (WARPS · 16 · TILES + 2 · BN) rows of D values, D rounded up to 64.
template <typename T, int D, int WARPS, int TILES, int BN>
static __device__ __forceinline__ void attention_prefill(const AttentionPrefillParams &p) {
    constexpr int PITCH = (D + 63) / 64 * 64, BM = WARPS * 16 * TILES, THREADS = WARPS * WARP;
    let_next_start();
    wait_for_inputs();
    const PrefillPart part = prefill_part(p, BM);
    DYNAMIC_SHARED(T, queries);
    T *const key_tile = queries + BM * PITCH, *const value_tile = key_tile + BN * PITCH;
    T *const own_queries = queries + threadIdx.x / WARP * 16 * TILES * PITCH;
    const int kv = part.head / (p.heads / p.kv_heads);
    const size_t offset = (static_cast<size_t>(part.row) * p.kv_heads + kv) * p.capacity * p.width;
    const T *keys = static_cast<const T *>(p.keys) + offset, *values = static_cast<const T *>(p.values) + offset;
    const size_t first_row = static_cast<size_t>(part.row) * p.tokens + part.first_token;
    copy_tile<T, D, BM, THREADS>(queries, static_cast<const T *>(p.queries) + first_row * p.query_stride +
                                     part.head * p.width, p.query_stride, p.width, part.tokens);
    int first = part.begin;
    if (first < part.end) {
        copy_tile<T, D, BN, THREADS>(key_tile, keys + static_cast<size_t>(first) * p.width, p.width, p.width,
                                     part.end - first);
    }
    copy_async_commit();
    PrefillState<D, TILES, BN> state;
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            // not −∞, whose difference from itself isn't a number
            state.most[tile][half] = -1e30f;
            state.total[tile][half] = 0.0f;
        }
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) state.sums[tile][n][i] = 0.0f;
        }
    }
    for (; first < part.end; first += BN) {
        copy_async_wait<0>();
        __syncthreads(); // the keys are there, and all are done with the values before
        copy_tile<T, D, BN, THREADS>(value_tile, values + static_cast<size_t>(first) * p.width, p.width, p.width,
                                     part.end - first);
        copy_async_commit();
        multiply_queries<T, D, TILES, BN>(state, own_queries, key_tile);
        score_products<T, D, TILES, BN>(p, part, state, first);
        copy_async_wait<0>();
        __syncthreads(); // the values are there, and all are done with the keys
        if (first + BN < part.end) {
            copy_tile<T, D, BN, THREADS>(key_tile, keys + static_cast<size_t>(first + BN) * p.width, p.width, p.width,
                                         part.end - first - BN);
        }
        copy_async_commit();
        soften_scores<D, TILES, BN>(state);
        multiply_probabilities<T, D, TILES, BN>(state, value_tile);
    }
    copy_async_wait<0>();
    __syncthreads();
    write_attended<T, D, TILES, BN>(p, part, state, own_queries);
}

// ---- f32 ----

// A warp takes 4 tokens and a column at a time, a lane its dimensions lane, lane + 32, …: for tests, not for speed.
template <int D> static __device__ __forceinline__ void attention_prefill_plain(const AttentionPrefillParams &p) {
    let_next_start();
    wait_for_inputs();
    constexpr int TOKENS = 4;
    const int lane = threadIdx.x % WARP, own = threadIdx.x / WARP * TOKENS;
    const PrefillPart part = prefill_part(p, blockDim.x / WARP * TOKENS);
    const int kv = part.head / (p.heads / p.kv_heads);
    const size_t offset = (static_cast<size_t>(part.row) * p.kv_heads + kv) * p.capacity * p.width;
    const float *keys = static_cast<const float *>(p.keys) + offset;
    const float *values = static_cast<const float *>(p.values) + offset;
    const size_t first_row = static_cast<size_t>(part.row) * p.tokens + part.first_token + own;
    const float *from = static_cast<const float *>(p.queries) + first_row * p.query_stride + part.head * p.width;
    const float *alibi = p.alibi ? p.alibi + static_cast<size_t>(part.head) * p.alibi_stride - part.start : nullptr;
    float queries[TOKENS][D / 32], sums[TOKENS][D / 32] = {}, most[TOKENS], total[TOKENS] = {};
#pragma unroll
    for (int q = 0; q < TOKENS; q++) {
        most[q] = -1e30f;
#pragma unroll
        for (int i = 0; i < D / 32; i++) {
            const int dimension = i * 32 + lane;
            const bool valid = own + q < part.tokens && dimension < p.width;
            queries[q][i] = valid ? from[static_cast<size_t>(q) * p.query_stride + dimension] : 0.0f;
        }
    }
    const int last = min(part.end, part.first_column + own + TOKENS);
    for (int column = part.begin; column < last; column++) {
        float key[D / 32], value[D / 32];
#pragma unroll
        for (int i = 0; i < D / 32; i++) {
            const size_t at = static_cast<size_t>(column) * p.width + min(i * 32 + lane, p.width - 1);
            key[i] = keys[at];
            value[i] = values[at];
        }
#pragma unroll
        for (int q = 0; q < TOKENS; q++) {
            float product = 0.0f;
#pragma unroll
            for (int i = 0; i < D / 32; i++) product += queries[q][i] * key[i];
            product = warp_sum(product);
            float s = alibi ? product * p.scale + alibi[column] : attention_score<float>(product, p.scale, p.softcap);
            const int token = part.first_column + own + q;
            const bool seen = column <= token && (p.window == 0 || column > token - p.window);
            s = seen ? s * LOG2_E : -INFINITY;
            const float larger = fmaxf(most[q], s);
            const float shrink = power_of_two(most[q] - larger), weight = power_of_two(s - larger);
            most[q] = larger;
            total[q] = total[q] * shrink + weight;
#pragma unroll
            for (int i = 0; i < D / 32; i++) sums[q][i] = sums[q][i] * shrink + weight * value[i];
        }
    }
    float *to = static_cast<float *>(p.output) + (first_row * p.heads + part.head) * p.width;
#pragma unroll
    for (int q = 0; q < TOKENS; q++) {
#pragma unroll
        for (int i = 0; i < D / 32; i++) {
            const int dimension = i * 32 + lane;
            if (own + q >= part.tokens || dimension >= p.width) continue;
            const float sum = total[q] > 0.0f ? sums[q][i] / total[q] : 0.0f;
            to[static_cast<size_t>(q) * p.heads * p.width + dimension] = sum;
        }
    }
}

// NAME_T_w128 for widths up to 128 that 8 divides; _small takes fewer tokens a block, where there are few blocks.
#define PREFILL(name, T, D, WARPS, TILES, BN, BLOCKS)                                                                  \
    extern "C" __global__ void __launch_bounds__(WARPS *WARP, BLOCKS)                                                  \
        attention_prefill_##name(const AttentionPrefillParams p) {                                                     \
        attention_prefill<T, D, WARPS, TILES, BN>(p);                                                                  \
    }
#define PREFILL_ALL(name, T)                                                                                           \
    PREFILL(name##_w64, T, 64, 4, 2, 64, 2)                                                                            \
    PREFILL(name##_w64_small, T, 64, 4, 1, 64, 2)                                                                      \
    PREFILL(name##_w96, T, 96, 4, 2, 64, 2)                                                                            \
    PREFILL(name##_w96_small, T, 96, 4, 1, 64, 2)                                                                      \
    PREFILL(name##_w128, T, 128, 4, 2, 64, 2)                                                                          \
    PREFILL(name##_w128_small, T, 128, 4, 1, 64, 2)                                                                    \
    PREFILL(name##_w256, T, 256, 8, 1, 32, 1)                                                                          \
    PREFILL(name##_w256_small, T, 256, 4, 1, 32, 1)
PREFILL_ALL(bf16, bf16_t)
PREFILL_ALL(f16, half_t)

#define PREFILL_PLAIN(D)                                                                                               \
    extern "C" __global__ void __launch_bounds__(128) attention_prefill_f32_w##D(const AttentionPrefillParams p) {     \
        attention_prefill_plain<D>(p);                                                                                 \
    }
PREFILL_PLAIN(64)
PREFILL_PLAIN(128)
PREFILL_PLAIN(256)
