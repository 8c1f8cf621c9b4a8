// Mixtures of experts: tokens choose experts on the device, and the products run over the experts that were chosen.
//
// The router sorts (token, slot) pairs by expert and cuts each expert's list into items of at most `tile` pairs. A grid
// of products has room for as many items as there can be; a block whose item does not exist ends at once. So the host
// need not know what was chosen, and weights that several tokens of a batch use are read once.
//
// Few pairs an item (decode): `experts_gate_up` and `experts_down` are bound by reading weights. A block multiplies 16
// rows of an expert's matrix with up to 32 pairs; its warps take turns along k, each lane loading 16 bytes of a row at a
// time for two tensor-core multiplications (the order of k is free as long as both operands agree on it).
//
// Rounding is that of transformers: gate, up, their activation and product, the expert's output and its share of it are
// rounded to T; the sum over a token's experts is in f32, in the order of slots.
#include "common.cuh"

#include "activation.cuh"

// ---- the router ----

struct RouteParams {
    const void *logits; // (m, experts)
    float *shares;      // (m, slots): weight of a token's experts
    int *chosen;        // (m, slots): a token's experts, the most probable first
    int *pairs;         // (m·slots): token·slots + slot, by expert, in order of tokens
    int4 *items;        // (1 + most): how many; then expert, its first place in pairs, count, 0
    int m;
    int experts;
    int slots;
    int tile;         // most pairs of an item
    int normalise;    // shares of a token sum to 1
    int round_shares; // to T
    int sorts;        // one block routes all tokens and sorts, too
};

static_assert(sizeof(RouteParams) == 72, "as in experts.rs");

constexpr int MOST_EXPERTS = 512;

// Chooses the experts of one token by a warp. The first of equal experts wins.
template <typename T> INLINE void route_token(const RouteParams &p, int token, int *chosen) {
    constexpr int HELD = MOST_EXPERTS / WARP;
    const int lane = threadIdx.x % WARP;
    const T *logits = static_cast<const T *>(p.logits) + static_cast<size_t>(token) * p.experts;
    float x[HELD];
    float largest = -INFINITY, sum = 0.0f;
#pragma unroll
    for (int i = 0; i < HELD; i++) {
        if (i * WARP >= p.experts) break;
        x[i] = i * WARP + lane < p.experts ? to_float(logits[i * WARP + lane]) : -INFINITY;
        largest = fmaxf(largest, x[i]);
    }
    largest = warp_max(largest);
#pragma unroll
    for (int i = 0; i < HELD; i++) {
        if (i * WARP >= p.experts) break;
        x[i] = expf(x[i] - largest);
        sum += x[i];
    }
    sum = warp_sum(sum);
    // as bits, probabilities are in the same order; 0 is left for what is taken or not there
    unsigned keys[HELD];
#pragma unroll
    for (int i = 0; i < HELD; i++) {
        if (i * WARP >= p.experts) break;
        keys[i] = i * WARP + lane < p.experts ? (__float_as_uint(x[i] / sum) & 0x7fffffff) + 1 : 0;
    }
    float share = 0.0f;
    int expert = 0;
    for (int slot = 0; slot < p.slots; slot++) {
        unsigned best = 0, index = ~0u;
#pragma unroll
        for (int i = 0; i < HELD; i++) {
            if (i * WARP >= p.experts) break;
            if (keys[i] > best) {
                best = keys[i];
                index = i * WARP + lane;
            }
        }
        const unsigned most = warp_max_bits(best);
        index = warp_min_bits(best == most ? index : ~0u);
#pragma unroll
        for (int i = 0; i < HELD; i++) {
            if (i * WARP >= p.experts) break;
            if (static_cast<unsigned>(i * WARP + lane) == index) keys[i] = 0;
        }
        if (lane == slot) {
            share = __uint_as_float(most - 1);
            expert = index;
        }
    }
    const float whole = p.normalise ? warp_sum(share) : 1.0f;
    if (lane < p.slots) {
        share /= whole;
        p.shares[token * p.slots + lane] = p.round_shares ? rounded<T>(share) : share;
        p.chosen[token * p.slots + lane] = expert;
        if (chosen) chosen[token * p.slots + lane] = expert;
    }
}

// Adds the lanes before this one.
INLINE int warp_scan(int x) {
    const int lane = threadIdx.x % WARP;
#pragma unroll
    for (int step = 1; step < WARP; step *= 2) {
        const int other = __shfl_up_sync(ALL_LANES, x, step);
        if (lane >= step) x += other;
    }
    return x;
}

// Where each expert's pairs and items begin, by one warp; writes the items.
INLINE void list_items(const RouteParams &p, int *starts) {
    const int lane = threadIdx.x % WARP;
    int pairs = 0, items = 0;
    for (int first = 0; first < p.experts; first += WARP) {
        const int expert = first + lane;
        const int count = expert < p.experts ? starts[expert] : 0, parts = (count + p.tile - 1) / p.tile;
        const int pairs_to = warp_scan(count), items_to = warp_scan(parts);
        const int begin = pairs + pairs_to - count;
        if (expert < p.experts) starts[expert] = begin;
        for (int part = 0; part < parts; part++) {
            p.items[1 + items + items_to - parts + part] =
                make_int4(expert, begin + part * p.tile, min(p.tile, count - part * p.tile), 0);
        }
        pairs += __shfl_sync(ALL_LANES, pairs_to, WARP - 1);
        items += __shfl_sync(ALL_LANES, items_to, WARP - 1);
    }
    if (lane == 0) p.items[0] = make_int4(items, 0, 0, 0);
}

// Sorts pairs by expert in one block, keeping their order: each warp counts a stretch of pairs, and puts them in their
// places once it is known how many come before. `counts` is (warps + 1, experts).
INLINE void sort_pairs(const RouteParams &p, const int *chosen, int *counts) {
    const int warps = blockDim.x / WARP, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int total = p.m * p.slots, stretch = (total + blockDim.x - 1) / blockDim.x * WARP;
    const int begin = min(warp * stretch, total), end = min(begin + stretch, total);
    int *const mine = counts + warp * p.experts, *const starts = counts + warps * p.experts;
    for (int i = threadIdx.x; i < warps * p.experts; i += blockDim.x) counts[i] = 0;
    __syncthreads();
    for (int at = begin; at < end; at += WARP) {
        const int expert = at + lane < end ? chosen[at + lane] : -1;
        const unsigned same = lanes_with_same(expert);
        if (expert >= 0 && (same & ((1u << lane) - 1)) == 0) mine[expert] += __popc(same);
        __syncwarp();
    }
    __syncthreads();
    const int used = (total + stretch - 1) / stretch;
    for (int expert = threadIdx.x; expert < p.experts; expert += blockDim.x) {
        int sum = 0;
        for (int i = 0; i < used; i++) {
            const int count = counts[i * p.experts + expert];
            counts[i * p.experts + expert] = sum;
            sum += count;
        }
        starts[expert] = sum;
    }
    __syncthreads();
    if (warp == 0) list_items(p, starts);
    __syncthreads();
    for (int at = begin; at < end; at += WARP) {
        const int expert = at + lane < end ? chosen[at + lane] : -1;
        const unsigned same = lanes_with_same(expert), before = same & ((1u << lane) - 1);
        if (expert >= 0) p.pairs[starts[expert] + mine[expert] + __popc(before)] = at + lane;
        __syncwarp();
        if (expert >= 0 && before == 0) mine[expert] += __popc(same);
        __syncwarp();
    }
}

// A warp a token; with `sorts`, of one block, whose dynamic shared memory is m·slots + (warps + 1)·experts ints.
template <typename T> INLINE void route(const RouteParams &p) {
    let_next_start();
    wait_for_inputs();
    const int warps = blockDim.x / WARP, warp = threadIdx.x / WARP;
    if (!p.sorts) {
        const int token = blockIdx.x * warps + warp;
        if (token < p.m) route_token<T>(p, token, nullptr);
        return;
    }
    DYNAMIC_SHARED(int, chosen);
    for (int token = warp; token < p.m; token += warps) route_token<T>(p, token, chosen);
    __syncthreads();
    sort_pairs(p, chosen, chosen + p.m * p.slots);
}

extern "C" __global__ void __launch_bounds__(1024) experts_route_f32(const RouteParams p) { route<float>(p); }
extern "C" __global__ void __launch_bounds__(1024) experts_route_f16(const RouteParams p) { route<half_t>(p); }
extern "C" __global__ void __launch_bounds__(1024) experts_route_bf16(const RouteParams p) { route<bf16_t>(p); }

// The sort alone, after a route over many blocks. One block; dynamic shared memory: (warps + 1)·experts ints.
extern "C" __global__ void __launch_bounds__(1024) experts_sort(const RouteParams p) {
    let_next_start();
    wait_for_inputs();
    DYNAMIC_SHARED(int, counts);
    sort_pairs(p, p.chosen, counts);
}

// ---- products of few rows ----

struct ExpertsParams {
    const void *inputs;  // gate and up: (m, k), rows gathered by token; down: (pairs, k), in the order of `pairs`
    const void *weights; // gate and up: (experts, 2·n, k); down: (experts, n, k)
    const int4 *items;
    const int *pairs;
    void *outputs; // gate and up: (pairs, n), in the order of `pairs`; down: (m·slots, n)
    // down alone: of the sum over slots, if the last block of a stretch of rows is to form it
    const float *shares;
    const void *shared;      // (m, n): output of the expert that every token goes through, or null
    const void *shared_gate; // (m): its gate before the sigmoid
    void *sums;              // (m, n)
    int *counters;           // (n / 16, rounded up): zeros before and after; null: no sum
    int m;
    int n;
    int k;
    int slots;
    int activation;
    int rounds;     // an expert's share of the output is rounded to T
};
static_assert(sizeof(ExpertsParams) == 104, "as in experts.rs");

constexpr int WARPS = 4; // of a block of the products below

// act(gate)·up from sums in f32, with the roundings of T.
template <typename T> INLINE T gated(float gate, float up, int activation) {
    const float active = rounded<T>(activated(rounded<T>(gate), activation));
    return from_float<T>(active * rounded<T>(up));
}

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

// ---- products of many rows ----

// 128 pairs of an item by 128 rows of weights; for gate and up 8 rows of gate, the same 8 of up, and so on, so that a lane
// has both. Four warps have 64×64 each. Stages of 64 columns go through a ring in shared memory, where the 16-byte
// pieces of a row change places so that 8 rows fall into different banks.
template <typename T, bool GATE_UP> struct Tile {
    static constexpr int SIDE = 128, DEPTH = 64, STAGES = 3, MATRIX = SIDE * DEPTH * 2, STAGE = 2 * MATRIX;
    static constexpr int COPIES = SIDE * DEPTH / 8 / (WARPS * WARP), STEP = SIDE / COPIES; // rows from copy to copy

    const ExpertsParams &p;
    const int4 item;
    const int lane, across, along; // the warp's place among pairs and among rows of weights
    const int row, piece;          // of the thread's first copy
    unsigned char *ring;
    const T *weights; // of the thread's first copy
    size_t step;      // from copy to copy
    int weight_rows;  // that there are from the first copy on
    size_t inputs[COPIES];
    float sums[4][8][4];

    __device__ __forceinline__ Tile(const ExpertsParams &params, int4 of, unsigned char *shared)
        : p(params), item(of), lane(threadIdx.x % WARP), across(threadIdx.x / WARP / 2), along(threadIdx.x / WARP % 2),
          row(threadIdx.x / 8), piece(threadIdx.x % 8), ring(shared) {
        const T *expert = static_cast<const T *>(p.weights) + static_cast<size_t>(item.x) * (GATE_UP ? 2 : 1) * p.n * p.k;
        const int first = blockIdx.x * (GATE_UP ? SIDE / 2 : SIDE) + (GATE_UP ? row % 8 : row);
        weights = expert + static_cast<size_t>(first + (GATE_UP && row >= 8 ? p.n : 0)) * p.k + piece * 8;
        step = static_cast<size_t>(GATE_UP ? STEP / 2 : STEP) * p.k;
        weight_rows = p.n - first;
#pragma unroll
        for (int i = 0; i < COPIES; i++) {
            const int at = item.y + min(row + i * STEP, item.z - 1);
            inputs[i] = static_cast<size_t>(GATE_UP ? p.pairs[at] / p.slots : at) * p.k + piece * 8;
        }
    }

    __device__ __forceinline__ static int place(int row, int piece) { return row * DEPTH * 2 + (piece ^ row % 8) * 16; }

    __device__ __forceinline__ void fetch(int at, int slot) {
        const bool inside = at + piece * 8 < p.k;
        unsigned char *const stage = ring + slot * STAGE;
#pragma unroll
        for (int i = 0; i < COPIES; i++) {
            copy_async(stage + place(row + i * STEP, piece), static_cast<const T *>(p.inputs) + inputs[i] + at,
                       inside && row + i * STEP < item.z);
            copy_async(stage + MATRIX + place(row + i * STEP, piece), weights + i * step + at,
                       inside && i * (GATE_UP ? STEP / 2 : STEP) < weight_rows);
        }
    }

    __device__ __forceinline__ void multiply(int slot) {
        const unsigned char *const x = ring + slot * STAGE, *const w = x + MATRIX;
#pragma unroll
        for (int k = 0; k < DEPTH / 16; k++) {
            unsigned b[4][4];
#pragma unroll
            for (int j = 0; j < 4; j++) {
                load_matrix_x4(b[j], w + place(along * 64 + j * 16 + lane / 16 * 8 + lane % 8, k * 2 + lane / 8 % 2));
            }
#pragma unroll
            for (int i = 0; i < 4; i++) {
                if (across * 64 + i * 16 >= item.z) break;
                unsigned a[4];
                load_matrix_x4(a, x + place(across * 64 + i * 16 + lane % 16, k * 2 + lane / 16));
#pragma unroll
                for (int j = 0; j < 8; j++) {
                    mma_16816<T>(sums[i][j], a, {b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]});
                }
            }
        }
    }

    __device__ __forceinline__ void store() const {
        T *const outputs = static_cast<T *>(p.outputs);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const int at = across * 64 + i * 8 + lane / 4, half = i % 2 * 2;
            if (at >= item.z) break;
            const size_t to = static_cast<size_t>(GATE_UP ? item.y + at : p.pairs[item.y + at]) * p.n;
#pragma unroll
            for (int j = 0; j < (GATE_UP ? 4 : 8); j++) {
                const int column = blockIdx.x * (GATE_UP ? 64 : 128) + along * (GATE_UP ? 32 : 64) + j * 8 + lane % 4 * 2;
                if (column >= p.n) break;
                unsigned pair;
                if constexpr (GATE_UP) {
                    const float *const gate = sums[i / 2][2 * j] + half, *const up = sums[i / 2][2 * j + 1] + half;
                    pair = pack(gated<T>(gate[0], up[0], p.activation), gated<T>(gate[1], up[1], p.activation));
                } else {
                    const float *const sum = sums[i / 2][j] + half;
                    pair = pack(from_float<T>(sum[0]), from_float<T>(sum[1]));
                }
                *reinterpret_cast<unsigned *>(outputs + to + column) = pair;
            }
        }
    }

    __device__ __forceinline__ void run() {
        const int steps = (p.k + DEPTH - 1) / DEPTH;
#pragma unroll
        for (int i = 0; i < 128; i++) sums[i / 32][i / 4 % 8][i % 4] = 0.0f;
#pragma unroll
        for (int slot = 0; slot < STAGES - 1; slot++) {
            if (slot < steps) fetch(slot * DEPTH, slot);
            copy_async_commit();
        }
        int slot = 0, next = STAGES - 1;
        for (int done = 0; done < steps; done++) {
            copy_async_wait<STAGES - 2>();
            __syncthreads();
            if (done + STAGES - 1 < steps) fetch((done + STAGES - 1) * DEPTH, next);
            copy_async_commit();
            multiply(slot);
            next = slot;
            slot = slot + 1 == STAGES ? 0 : slot + 1;
        }
        store();
    }
};

// A block of 128 threads for 64 or 128 outputs of item blockIdx.y; dynamic shared memory: Tile::STAGES · Tile::STAGE.
template <typename T, bool GATE_UP> INLINE void tile(const ExpertsParams &p) {
    DYNAMIC_SHARED(unsigned char, ring);
    let_next_start();
    wait_for_inputs();
    const int4 item = p.items[1 + blockIdx.y];
    if (static_cast<int>(blockIdx.y) < p.items[0].x) Tile<T, GATE_UP>(p, item, ring).run();
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

#define TILES(type, suffix)                                                                                            \
    extern "C" __global__ void __launch_bounds__(WARPS *WARP, 2) experts_gate_up_##suffix##_128(const ExpertsParams p) { \
        tile<type, true>(p);                                                                                           \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(WARPS *WARP, 2) experts_down_##suffix##_128(const ExpertsParams p) {  \
        tile<type, false>(p);                                                                                          \
    }
TILES(half_t, f16)
TILES(bf16_t, bf16)
#undef TILES

extern "C" __global__ void __launch_bounds__(256) experts_combine_f32(const ExpertsParams p) { combine<float>(p); }
extern "C" __global__ void __launch_bounds__(256) experts_combine_f16(const ExpertsParams p) { combine<half_t>(p); }
extern "C" __global__ void __launch_bounds__(256) experts_combine_bf16(const ExpertsParams p) { combine<bf16_t>(p); }
