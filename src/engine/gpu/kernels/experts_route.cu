// Tokens choose experts on the device.
//
// The router sorts (token, slot) pairs by expert and cuts each expert's list into items of at most `tile` pairs. A grid
// of products has room for as many items as there can be; a block whose item does not exist ends at once. So the host
// need not know what was chosen, and weights that several tokens of a batch use are read once.
#include "common.cuh"

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
        if (p.m == 1) {
            // no two pairs share an expert: their order is of no matter
            p.pairs[lane] = lane;
            p.items[1 + lane] = make_int4(expert, lane, 1, 0);
            if (lane == 0) p.items[0] = make_int4(p.slots, 0, 0, 0);
        }
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

// Where each expert's pairs and items begin, by one warp, a lane for some neighbouring experts; writes the items.
INLINE void list_items(const RouteParams &p, int *starts) {
    const int lane = threadIdx.x % WARP, each = (p.experts + WARP - 1) / WARP;
    const int first = min(lane * each, p.experts), last = min(first + each, p.experts);
    int pairs = 0, items = 0;
    for (int expert = first; expert < last; expert++) {
        pairs += starts[expert];
        items += (starts[expert] + p.tile - 1) / p.tile;
    }
    const int pairs_to = warp_scan(pairs), items_to = warp_scan(items);
    int begin = pairs_to - pairs, item = 1 + items_to - items;
    for (int expert = first; expert < last; expert++) {
        const int count = starts[expert];
        starts[expert] = begin;
        for (int done = 0; done < count; done += p.tile) {
            p.items[item++] = make_int4(expert, begin + done, min(p.tile, count - done), 0);
        }
        begin += count;
    }
    if (lane == WARP - 1) p.items[0] = make_int4(items_to, 0, 0, 0);
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
    const unsigned lower = (1u << lane) - 1;
    constexpr int AHEAD = 4; // loads on their way
    for (int first = begin; first < end; first += AHEAD * WARP) {
        int experts[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            const int at = first + i * WARP + lane;
            experts[i] = at < end ? chosen[at] : -1;
        }
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            const unsigned same = lanes_with_same(experts[i]);
            if (experts[i] >= 0 && (same & lower) == 0) mine[experts[i]] += __popc(same);
            __syncwarp();
        }
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
    for (int first = begin; first < end; first += AHEAD * WARP) {
        int experts[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            const int at = first + i * WARP + lane;
            experts[i] = at < end ? chosen[at] : -1;
        }
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            const int expert = experts[i];
            const unsigned same = lanes_with_same(expert), before = same & lower;
            if (expert >= 0) p.pairs[starts[expert] + mine[expert] + __popc(before)] = first + i * WARP + lane;
            __syncwarp();
            if (expert >= 0 && before == 0) mine[expert] += __popc(same);
            __syncwarp();
        }
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
    if (p.m == 1) return;
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
