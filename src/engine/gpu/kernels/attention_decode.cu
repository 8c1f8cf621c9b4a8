// Attention of one new token a row over the KV cache ("flash decoding").
//
// The columns of a row and key head are split over blocks, and within a block over warps, each with a softmax of its own
// that is joined with the others at the end, in a fixed order. Query heads that share a key head go through together: the
// products with keys and values are those of the tensor cores with the columns (of K) and the dimensions (of V) as rows
// and 8 queries as columns, so that keys and values go from memory to the registers that multiply them, 16 bytes a lane.
//
// Roundings are those of transformers' eager attention: the product q · k, the scaled score and each step of the soft cap
// are rounded to T. With linear biases, scale and bias are applied in f32. Probabilities are rounded to T before the
// product with V, but before they are divided by their sum, which only the end of the columns gives.
#include "common.cuh"

struct AttentionDecodeParams {
    const void *queries; // (b, query_stride), the first h · d of each row, rotated
    const void *keys;    // (b, kv, capacity, d)
    const void *values;  // the same
    void *output;        // (b, h · d)
    const int *starts;   // (b): first column of each row
    const int *length;   // columns in the cache before the new one
    const float *alibi;  // (h, alibi_stride) by column − start, or null
    float *partial;      // for each block 8 · NQ · (D + 2), if there are several splits
    int *counters;       // (b, grid y), 0
    int heads, kv_heads, width, capacity, query_stride, alibi_stride;
    int window;          // columns that a query sees, or 0 for all
    int least;           // columns that a block takes at least, a multiple of 16
    float scale, softcap; // softcap 0: none
};

// The work of a block.
struct DecodePart {
    int row, kv, first_query, queries; // queries: those of the group from first_query on, at most 8 · NQ
    int past, start, begin, end;       // columns begin … end − 1
    int split, splits;                 // among the blocks that have columns
};

template <int NQ> INLINE DecodePart decode_part(const AttentionDecodeParams &p, int past) {
    DecodePart part;
    const int group = p.heads / p.kv_heads, chunks = (group + 8 * NQ - 1) / (8 * NQ);
    part.row = blockIdx.z;
    part.kv = blockIdx.y / chunks;
    part.first_query = blockIdx.y % chunks * 8 * NQ;
    part.queries = min(group - part.first_query, 8 * NQ);
    part.past = past;
    part.start = load_l2(p.starts + part.row);
    const int seen = p.window > 0 ? part.past - p.window + 1 : 0;
    const int first = min(max(part.start, seen), part.past), columns = part.past + 1 - first;
    const int share = (columns + gridDim.x - 1) / gridDim.x;
    const int each = max((share + 15) / 16 * 16, p.least);
    part.split = blockIdx.x;
    part.splits = (columns + each - 1) / each;
    part.begin = first + part.split * each;
    part.end = min(part.begin + each, part.past + 1);
    return part;
}

// A product q · k as the softmax takes it.
template <typename T> INLINE float score(const AttentionDecodeParams &p, const DecodePart &part, float product, int query,
                                         int column) {
    if (!p.alibi) return attention_score<T>(product, p.scale, p.softcap);
    const int head = part.kv * (p.heads / p.kv_heads) + part.first_query + min(query, part.queries - 1);
    return rounded<T>(product) * p.scale + p.alibi[static_cast<size_t>(head) * p.alibi_stride + column - part.start];
}

// ---- joining the softmaxes of warps and blocks ----
//
// O of a warp: with g = lane / 4, j = lane % 4, the registers [query / 8][dimension / 64][dimension % 8 / 2][4] hold
// dimensions 8 · g + … and the next for queries 2 · j and the next, as mma_16816 has them.

template <int D, int NQ> struct DecodeState {
    float sums[NQ][D / 64 * 4][4];
    float most[NQ][2], total[NQ][2]; // of queries 2 · j and 2 · j + 1: largest score in units of ln 2, sum
};

// Writes 8 dimensions of one query from the sums over all columns.
template <typename T> INLINE void write_decoded(const AttentionDecodeParams &p, const DecodePart &part, int query,
                                                int dimension, const float (&sums)[8], float total) {
    const int head = part.kv * (p.heads / p.kv_heads) + part.first_query + query;
    T *to = static_cast<T *>(p.output) + (static_cast<size_t>(part.row) * p.heads + head) * p.width + dimension;
    const float share = 1.0f / total;
#pragma unroll
    for (int half = 0; half < 8; half += Vector<T>::COUNT) {
        Vector<T> vector;
#pragma unroll
        for (int i = 0; i < Vector<T>::COUNT; i++) vector[i] = from_float<T>(sums[half + i] * share);
        store16(to + half, vector);
    }
}

INLINE float weight_of(float most, float all) { return most == -INFINITY ? 0.0f : power_of_two(most - all); }

// Joins the blocks of a row and key head; only the last of them to come here goes on.
template <typename T, int D, int NQ>
INLINE void join_blocks(const AttentionDecodeParams &p, const DecodePart &part, float *partials) {
    constexpr int EACH = 8 * NQ * (D + 2);
    __shared__ int last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        int *counter = p.counters + blockIdx.z * gridDim.y + blockIdx.y;
        last = atomicAdd(counter, 1) == part.splits - 1;
        if (last) *counter = 0;
    }
    __syncthreads();
    if (!last) return;
    __threadfence();
    const int lane = threadIdx.x % WARP, warps = blockDim.x / WARP;
    for (int piece = threadIdx.x / WARP; piece < 2 * NQ * D / 64; piece += warps) {
        const int query = piece % (2 * NQ) / 2 * 8 + lane % 4 * 2 + piece % 2;
        const int dimension = piece / (2 * NQ) * 64 + lane / 4 * 8;
        if (query >= part.queries || dimension >= p.width) continue;
        float most = -INFINITY, total = 0.0f, sums[8] = {};
#pragma unroll 8
        for (int split = 0; split < part.splits; split++) {
            most = fmaxf(most, load_l2(partials + static_cast<size_t>(split) * EACH + query));
        }
#pragma unroll 4
        for (int split = 0; split < part.splits; split++) {
            const float *from = partials + static_cast<size_t>(split) * EACH;
            const float weight = weight_of(load_l2(from + query), most);
            total += weight * load_l2(from + 8 * NQ + query);
            const float *sum = from + 16 * NQ + query * D + dimension;
            const Vector<float> low = as_vector<float>(load16_l2(sum)), high = as_vector<float>(load16_l2(sum + 4));
#pragma unroll
            for (int i = 0; i < 4; i++) {
                sums[i] += weight * low[i];
                sums[4 + i] += weight * high[i];
            }
        }
        write_decoded<T>(p, part, query, dimension, sums, total);
    }
}

// Joins the warps of the block, and then the blocks. Shared memory: warps · 8 · NQ · (D + 2) floats.
template <typename T, int D, int NQ>
INLINE void join_warps(const AttentionDecodeParams &p, const DecodePart &part, DecodeState<D, NQ> &state) {
    constexpr int REGISTERS = NQ * D / 4, EACH = 8 * NQ * (D + 2);
    DYNAMIC_SHARED(float, shared);
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    float *mosts = shared + warps * REGISTERS * WARP, *totals = mosts + warps * 8 * NQ;
    if (lane < 4) {
#pragma unroll
        for (int q = 0; q < 2 * NQ; q++) {
            const int query = q / 2 * 8 + 2 * lane + q % 2;
            mosts[warp * 8 * NQ + query] = state.most[q / 2][q % 2];
            totals[warp * 8 * NQ + query] = state.total[q / 2][q % 2];
        }
    }
#pragma unroll
    for (int q = 0; q < NQ; q++) {
#pragma unroll
        for (int r = 0; r < D / 4; r++) {
            shared[((warp * NQ + q) * (D / 4) + r) * WARP + lane] = state.sums[q][r / 4][r % 4];
        }
    }
    __syncthreads();
    float *partials = p.partial;
    if (part.splits > 1) {
        partials += static_cast<size_t>(blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x * EACH;
    }
    for (int piece = warp; piece < 2 * NQ * D / 64; piece += warps) {
        const int q = piece % (2 * NQ), query = q / 2 * 8 + lane % 4 * 2 + q % 2;
        const int dimension = piece / (2 * NQ) * 64 + lane / 4 * 8;
        float most = -INFINITY, total = 0.0f, sums[8] = {};
        for (int w = 0; w < warps; w++) most = fmaxf(most, mosts[w * 8 * NQ + query]);
        for (int w = 0; w < warps; w++) {
            const float weight = weight_of(mosts[w * 8 * NQ + query], most);
            total += weight * totals[w * 8 * NQ + query];
            const float *from = shared + ((w * NQ + q / 2) * (D / 4) + piece / (2 * NQ) * 16 + q % 2) * WARP + lane;
#pragma unroll
            for (int i = 0; i < 8; i++) sums[i] += weight * from[i * 2 * WARP];
        }
        if (query >= part.queries || dimension >= p.width) continue;
        if (part.splits == 1) {
            write_decoded<T>(p, part, query, dimension, sums, total);
            continue;
        }
        float *to = partials + static_cast<size_t>(part.split) * EACH;
        if (dimension == 0) {
            to[query] = most;
            to[8 * NQ + query] = total;
        }
        float *sum = to + 16 * NQ + query * D + dimension;
        store16(sum, Vector<float>{{sums[0], sums[1], sums[2], sums[3]}});
        store16(sum + 4, Vector<float>{{sums[4], sums[5], sums[6], sums[7]}});
    }
    if (part.splits > 1) join_blocks<T, D, NQ>(p, part, partials);
}

// ---- half precision ----

// TILES · 16 columns as the registers that multiply them. A lane's 16 bytes of a row of K are the k indices of two
// products, in an order that is the same for the queries. A lane has 8 dimensions of 4 columns of V.
template <int D, int TILES> struct DecodeColumns {
    uint4 keys[TILES][2][D / 32], values[TILES][4][D / 64];
};

// Columns from `end` on repeat the last one, dimensions from the width on repeat others: neither counts.
template <typename T, int D, int TILES, bool EXACT>
INLINE void load_keys(DecodeColumns<D, TILES> &columns, const T *keys, int width, int first, int end) {
    const int lane = threadIdx.x % WARP, j = lane % 4 * 8;
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int column = min(first + tile * 16 + half * 8 + lane / 4, end - 1);
            const T *row = keys + column * (EXACT ? D : width);
#pragma unroll
            for (int slab = 0; slab < D / 32; slab++) {
                const int dimension = slab * 32 + j;
                columns.keys[tile][half][slab] = load16_l2(row + (EXACT ? dimension : min(dimension, width - 8)));
            }
        }
    }
}

template <typename T, int D, int TILES, bool EXACT>
INLINE void load_values(DecodeColumns<D, TILES> &columns, const T *values, int width, int first, int end) {
    const int lane = threadIdx.x % WARP, g = lane / 4 * 8;
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
#pragma unroll
        for (int index = 0; index < 4; index++) {
            const int column = min(first + tile * 16 + lane % 4 * 2 + index / 2 * 8 + index % 2, end - 1);
            const T *row = values + column * (EXACT ? D : width);
#pragma unroll
            for (int slab = 0; slab < D / 64; slab++) {
                const int dimension = slab * 64 + g;
                columns.values[tile][index][slab] = load16_l2(row + (EXACT ? dimension : min(dimension, width - 8)));
            }
        }
    }
}

template <typename T, int D, int NQ, bool EXACT>
INLINE void load_queries(uint4 (&to)[NQ][D / 32], const AttentionDecodeParams &p, const DecodePart &part) {
    const int lane = threadIdx.x % WARP;
    const int head = part.kv * (p.heads / p.kv_heads) + part.first_query;
    const T *from = static_cast<const T *>(p.queries) + static_cast<size_t>(part.row) * p.query_stride + head * p.width;
#pragma unroll
    for (int q = 0; q < NQ; q++) {
        const int query = q * 8 + lane / 4;
#pragma unroll
        for (int slab = 0; slab < D / 32; slab++) {
            const int dimension = slab * 32 + lane % 4 * 8;
            const bool valid = query < part.queries && (EXACT || dimension < p.width);
            to[q][slab] = valid ? load16_l2(from + query * p.width + dimension) : make_uint4(0, 0, 0, 0);
        }
    }
}

// The products of 16 columns and 8 · NQ queries.
template <typename T, int D, int NQ>
INLINE void multiply_keys(float (&scores)[NQ][4], const uint4 (&keys)[2][D / 32], const uint4 (&queries)[NQ][D / 32]) {
#pragma unroll
    for (int q = 0; q < NQ; q++) {
#pragma unroll
        for (int i = 0; i < 4; i++) scores[q][i] = 0.0f;
#pragma unroll
        for (int slab = 0; slab < D / 32; slab++) {
            const uint4 low = keys[0][slab], high = keys[1][slab], query = queries[q][slab];
            mma_16816<T>(scores[q], {low.x, high.x, low.y, high.y}, {query.x, query.y});
            mma_16816<T>(scores[q], {low.z, high.z, low.w, high.w}, {query.z, query.w});
        }
    }
}

INLINE unsigned word_of(const uint4 &bits, int index) {
    return index == 0 ? bits.x : index == 1 ? bits.y : index == 2 ? bits.z : bits.w;
}

// Adds 16 columns of V, times their probabilities.
template <typename T, int D, int NQ>
INLINE void multiply_values(DecodeState<D, NQ> &state, const uint4 (&values)[4][D / 64],
                            const unsigned (&probabilities)[NQ][2]) {
#pragma unroll
    for (int slab = 0; slab < D / 64; slab++) {
#pragma unroll
        for (int word = 0; word < 4; word++) {
            const unsigned v0 = word_of(values[0][slab], word), v1 = word_of(values[1][slab], word);
            const unsigned v8 = word_of(values[2][slab], word), v9 = word_of(values[3][slab], word);
            const unsigned pairs[4] = {lower_halves(v0, v1), upper_halves(v0, v1), lower_halves(v8, v9),
                                       upper_halves(v8, v9)};
#pragma unroll
            for (int q = 0; q < NQ; q++) mma_16816<T>(state.sums[q][slab * 4 + word], pairs, probabilities[q]);
        }
    }
}

// Turns products into probabilities relative to the largest score so far, to which it brings the sums.
template <typename T, int D, int NQ, int TILES>
INLINE void soften(const AttentionDecodeParams &p, const DecodePart &part, DecodeState<D, NQ> &state,
                   float (&scores)[TILES][NQ][4], int first) {
    const int lane = threadIdx.x % WARP;
#pragma unroll
    for (int q = 0; q < NQ; q++) {
#pragma unroll
        for (int odd = 0; odd < 2; odd++) {
            float most = state.most[q][odd];
#pragma unroll
            for (int i = 0; i < 2 * TILES; i++) {
                const int column = first + i * 8 + lane / 4;
                float &s = scores[i / 2][q][i % 2 * 2 + odd];
                s = column < part.end ? score<T>(p, part, s, q * 8 + lane % 4 * 2 + odd, column) * LOG2_E : -INFINITY;
                most = fmaxf(most, s);
            }
            most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, 4));
            most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, 8));
            most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, 16));
            const float shrink = weight_of(state.most[q][odd], most);
            state.most[q][odd] = most;
            state.total[q][odd] *= shrink;
#pragma unroll
            for (int r = 0; r < D / 64 * 4; r++) {
                state.sums[q][r][odd] *= shrink;
                state.sums[q][r][2 + odd] *= shrink;
            }
#pragma unroll
            for (int i = 0; i < 2 * TILES; i++) {
                float &s = scores[i / 2][q][i % 2 * 2 + odd];
                s = power_of_two(s - most);
                state.total[q][odd] += s;
            }
        }
    }
}

// Brings columns first … end − 1 of a head to the L2 cache.
template <typename T> INLINE void prefetch_columns(const T *keys, const T *values, int width, int first, int end) {
    constexpr int LINE = 128 / sizeof(T);
    for (int at = first * width + threadIdx.x % WARP * LINE; at < end * width; at += WARP * LINE) {
        prefetch_l2(keys + at);
        prefetch_l2(values + at);
    }
}

template <typename T, int D, int NQ, int TILES, bool EXACT>
static __device__ __forceinline__ void attention_decode(const AttentionDecodeParams &p) {
    constexpr int COLUMNS = TILES * 16;
    let_next_start();
    // Earlier columns are there before this step begins, so that their loads need not wait for the kernels before this
    // one. The length is there, too, unless the step before is still ending: it is read again after the wait.
    DecodePart part = decode_part<NQ>(p, load_l2(p.length));
    const int own = threadIdx.x / WARP * COLUMNS, step = blockDim.x / WARP * COLUMNS;
    const size_t offset = (static_cast<size_t>(part.row) * p.kv_heads + part.kv) * p.capacity * p.width;
    const T *keys = static_cast<const T *>(p.keys) + offset, *values = static_cast<const T *>(p.values) + offset;
    DecodeColumns<D, TILES> columns;
    int first = part.begin + own;
    const bool ahead = first + COLUMNS <= min(part.past, part.end);
    if (ahead) {
        load_keys<T, D, TILES, EXACT>(columns, keys, p.width, first, part.end);
        load_values<T, D, TILES, EXACT>(columns, values, p.width, first, part.end);
    } else {
        prefetch_columns(keys, values, p.width, first, min(part.past, part.end));
    }
    wait_for_inputs();
    uint4 queries[NQ][D / 32];
    load_queries<T, D, NQ, EXACT>(queries, p, part);
    if (!ahead && first < part.end) {
        load_keys<T, D, TILES, EXACT>(columns, keys, p.width, first, part.end);
        load_values<T, D, TILES, EXACT>(columns, values, p.width, first, part.end);
    }
    const int past = load_l2(p.length);
    if (past != part.past) {
        part = decode_part<NQ>(p, past);
        first = part.begin + own;
        if (first < part.end) {
            load_keys<T, D, TILES, EXACT>(columns, keys, p.width, first, part.end);
            load_values<T, D, TILES, EXACT>(columns, values, p.width, first, part.end);
        }
    }
    if (part.split >= part.splits) return;
    DecodeState<D, NQ> state = {};
#pragma unroll
    for (int q = 0; q < NQ; q++) state.most[q][0] = state.most[q][1] = -INFINITY;
    for (; first < part.end; first += step) {
        float scores[TILES][NQ][4];
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
            multiply_keys<T, D, NQ>(scores[tile], columns.keys[tile], queries);
        }
        const bool more = first + step < part.end;
        if (more) load_keys<T, D, TILES, EXACT>(columns, keys, p.width, first + step, part.end);
        soften<T, D, NQ, TILES>(p, part, state, scores, first);
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
            unsigned probabilities[NQ][2];
#pragma unroll
            for (int q = 0; q < NQ; q++) {
                const float *s = scores[tile][q];
                probabilities[q][0] = transposed_matrix(pack(from_float<T>(s[0]), from_float<T>(s[1])));
                probabilities[q][1] = transposed_matrix(pack(from_float<T>(s[2]), from_float<T>(s[3])));
            }
            multiply_values<T, D, NQ>(state, columns.values[tile], probabilities);
        }
        if (more) load_values<T, D, TILES, EXACT>(columns, values, p.width, first + step, part.end);
    }
#pragma unroll
    for (int q = 0; q < 2 * NQ; q++) {
        float &total = state.total[q / 2][q % 2];
        for (int bit = 4; bit < WARP; bit *= 2) total += __shfl_xor_sync(ALL_LANES, total, bit);
    }
    join_warps<T, D, NQ>(p, part, state);
}

// ---- f32 ----

// A warp takes a column at a time, a lane its dimensions lane, lane + 32, …, and 8 queries: for tests, not for speed.
template <int D> static __device__ __forceinline__ void attention_decode_plain(const AttentionDecodeParams &p) {
    let_next_start();
    wait_for_inputs();
    const DecodePart part = decode_part<1>(p, load_l2(p.length));
    if (part.split >= part.splits) return;
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    const size_t offset = (static_cast<size_t>(part.row) * p.kv_heads + part.kv) * p.capacity * p.width;
    const float *keys = static_cast<const float *>(p.keys) + offset;
    const float *values = static_cast<const float *>(p.values) + offset;
    const int head = part.kv * (p.heads / p.kv_heads) + part.first_query;
    const float *from = static_cast<const float *>(p.queries) + static_cast<size_t>(part.row) * p.query_stride;
    float queries[8][D / 32], sums[8][D / 32] = {}, most[8], total[8] = {};
#pragma unroll
    for (int q = 0; q < 8; q++) {
        most[q] = -INFINITY;
#pragma unroll
        for (int i = 0; i < D / 32; i++) {
            const int dimension = i * 32 + lane;
            const bool valid = q < part.queries && dimension < p.width;
            queries[q][i] = valid ? from[(head + q) * p.width + dimension] : 0.0f;
        }
    }
    for (int column = part.begin + warp; column < part.end; column += warps) {
        float key[D / 32], value[D / 32];
#pragma unroll
        for (int i = 0; i < D / 32; i++) {
            const int dimension = min(i * 32 + lane, p.width - 1);
            key[i] = keys[column * p.width + dimension];
            value[i] = values[column * p.width + dimension];
        }
#pragma unroll
        for (int q = 0; q < 8; q++) {
            float product = 0.0f;
#pragma unroll
            for (int i = 0; i < D / 32; i++) product += queries[q][i] * key[i];
            const float s = score<float>(p, part, warp_sum(product), q, column) * LOG2_E;
            const float larger = fmaxf(most[q], s), shrink = weight_of(most[q], larger), weight = power_of_two(s - larger);
            most[q] = larger;
            total[q] = total[q] * shrink + weight;
#pragma unroll
            for (int i = 0; i < D / 32; i++) sums[q][i] = sums[q][i] * shrink + weight * value[i];
        }
    }
    // to the registers of the joint end, by way of shared memory
    DYNAMIC_SHARED(float, shared);
    float *mine = shared + warp * 8 * (D + 2);
#pragma unroll
    for (int q = 0; q < 8; q++) {
#pragma unroll
        for (int i = 0; i < D / 32; i++) mine[q * D + i * 32 + lane] = sums[q][i];
    }
    __syncwarp();
    DecodeState<D, 1> state;
#pragma unroll
    for (int r = 0; r < D / 4; r++) {
        const int dimension = r / 16 * 64 + lane / 4 * 8 + r % 16 / 4 * 2 + r % 4 / 2;
        state.sums[0][r / 4][r % 4] = mine[(lane % 4 * 2 + r % 2) * D + dimension];
    }
#pragma unroll
    for (int q = 0; q < 8; q++) {
        if (q / 2 != lane % 4) continue;
        state.most[0][q % 2] = most[q];
        state.total[0][q % 2] = total[q];
    }
    __syncthreads();
    join_warps<float, D, 1>(p, part, state);
}

// NAME_T_d128 for that width, NAME_T_w128 for smaller ones that 8 divides; _q16 for groups of more than 8 queries.
#define DECODE(name, T, D, NQ, TILES, EXACT)                                                                           \
    extern "C" __global__ void __launch_bounds__(128) attention_decode_##name(const AttentionDecodeParams p) {         \
        attention_decode<T, D, NQ, TILES, EXACT>(p);                                                                   \
    }
#define DECODE_ALL(name, T)                                                                                            \
    DECODE(name##_d64, T, 64, 1, 4, true)                                                                              \
    DECODE(name##_d64_q16, T, 64, 2, 2, true)                                                                          \
    DECODE(name##_w64, T, 64, 1, 4, false)                                                                             \
    DECODE(name##_w64_q16, T, 64, 2, 2, false)                                                                         \
    DECODE(name##_d128, T, 128, 1, 2, true)                                                                            \
    DECODE(name##_d128_q16, T, 128, 2, 1, true)                                                                        \
    DECODE(name##_w128, T, 128, 1, 2, false)                                                                           \
    DECODE(name##_w128_q16, T, 128, 2, 1, false)                                                                       \
    DECODE(name##_d256, T, 256, 1, 1, true)                                                                            \
    DECODE(name##_w256, T, 256, 1, 1, false)
DECODE_ALL(bf16, bf16_t)
DECODE_ALL(f16, half_t)

#define DECODE_PLAIN(D)                                                                                                \
    extern "C" __global__ void __launch_bounds__(128) attention_decode_f32_w##D(const AttentionDecodeParams p) {       \
        attention_decode_plain<D>(p);                                                                                  \
    }
DECODE_PLAIN(64)
DECODE_PLAIN(128)
DECODE_PLAIN(256)
