// The end of a step: scaling and capping of logits, and the first index of the largest one of each row.
#include "common.cuh"

constexpr int CHOOSE_THREADS = 256, MOST_CHUNK = 16384;

struct ChooseParams {
    const void *logits;              // (b, pitch)
    const unsigned *ends;            // (end_count): ids that end a sequence
    unsigned long long *best;        // scratch (b, splits, 2)
    unsigned *counters;              // scratch (b + 1), zero between launches
    unsigned *chosen;                // (steps, b, 2): of all ids, of all but the ends
    unsigned *next;                  // (b)
    int *length, *step;
    int vocabulary, pitch, chunk;    // chunk: ids that a block looks at, a multiple of 8, at most MOST_CHUNK
    int end_count;
    int fixed_length;                // the next ids are those that don't end a sequence
    int advance;                     // columns that this pass has added to the cache
};
static_assert(sizeof(ChooseParams) == 88, "as in choose.rs");

// Grows with the value; 0 for what is not a number.
INLINE unsigned rank(float x) {
    if (x != x) return 0;
    const unsigned bits = __float_as_uint(x + 0.0f); // the two zeros are equal
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

struct Best {
    unsigned rank = 0, index = 0;
    __device__ __forceinline__ void offer(unsigned other, int at) {
        if (other > rank) {
            rank = other;
            index = at;
        }
    }
    // Larger for a larger value, then for a smaller index; 0 for none.
    __device__ __forceinline__ unsigned long long key() const {
        return rank == 0 ? 0 : static_cast<unsigned long long>(rank) << 32 | ~index;
    }
};

INLINE unsigned long long larger(unsigned long long a, unsigned long long b) { return a > b ? a : b; }

INLINE unsigned long long warp_largest(unsigned long long key) {
#pragma unroll
    for (int step = WARP / 2; step > 0; step /= 2) key = larger(key, __shfl_xor_sync(ALL_LANES, key, step));
    return key;
}

// In the first thread: the largest key of the block.
INLINE unsigned long long block_largest(unsigned long long key, unsigned long long *scratch) {
    key = warp_largest(key);
    if (threadIdx.x % WARP == 0) scratch[threadIdx.x / WARP] = key;
    __syncthreads();
    return warp_largest(threadIdx.x % WARP < CHOOSE_THREADS / WARP ? scratch[threadIdx.x % WARP] : 0);
}

// Marks the ends among the ids of a chunk: bit i of byte n is id first + 8 n + i.
INLINE void mark_ends(unsigned *marks, const ChooseParams &p, int first) {
    for (int word = threadIdx.x; word < MOST_CHUNK / 32; word += CHOOSE_THREADS) marks[word] = 0;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int end = 0; end < p.end_count; end++) {
            const unsigned at = p.ends[end] - first;
            if (at < static_cast<unsigned>(p.chunk)) marks[at / 32] |= 1u << at % 32;
        }
    }
    __syncthreads();
}

// The largest of all and of all but the ends, of a thread's share of the chunk.
template <typename T>
INLINE void scan(const T *row, const ChooseParams &p, int first, const unsigned *marks, Best *best) {
    constexpr int COUNT = Vector<T>::COUNT;
    const int last = min(first + p.chunk, p.vocabulary);
    const bool aligned = p.pitch % COUNT == 0;
#pragma unroll 2
    for (int index = first + threadIdx.x * COUNT; index < last; index += CHOOSE_THREADS * COUNT) {
        const int at = index - first;
        const unsigned ends = marks[at / 32] >> at % 32;
        Vector<T> values;
        if (aligned) {
            values = load16(row + index);
        } else {
#pragma unroll
            for (int i = 0; i < COUNT; i++) values[i] = row[min(index + i, last - 1)];
        }
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            const unsigned value = index + i < last ? rank(to_float(values[i])) : 0;
            best[0].offer(value, index + i);
            if (!(ends >> i & 1)) best[1].offer(value, index + i);
        }
    }
}

INLINE unsigned index_of(unsigned long long key, int vocabulary) {
    return key == 0 ? vocabulary : ~static_cast<unsigned>(key);
}

// By the first warp of the last block of a row: the row's choice. The last row to be chosen moves the step on.
INLINE void finish(const ChooseParams &p) {
    const unsigned row = blockIdx.y, splits = gridDim.x, rows = gridDim.y;
    unsigned long long all = 0, inner = 0;
    for (unsigned split = threadIdx.x; split < splits; split += WARP) {
        const volatile unsigned long long *best = p.best + (row * splits + split) * 2;
        all = larger(all, best[0]);
        inner = larger(inner, best[1]);
    }
    all = warp_largest(all);
    inner = warp_largest(inner);
    if (threadIdx.x != 0) return;
    const unsigned any = index_of(all, p.vocabulary), not_end = index_of(inner, p.vocabulary);
    unsigned *const chosen = p.chosen + (static_cast<size_t>(*p.step) * rows + row) * 2;
    chosen[0] = any;
    chosen[1] = not_end;
    p.next[row] = p.fixed_length ? not_end : any;
    p.counters[row] = 0;
    __threadfence(); // the step has been read before this row counts as chosen
    if (atomicAdd(p.counters + rows, 1u) != rows - 1) return;
    p.counters[rows] = 0;
    *p.length += p.advance;
    *p.step += 1;
}

template <typename T> INLINE void choose(const ChooseParams &p) {
    __shared__ unsigned marks[MOST_CHUNK / 32];
    __shared__ unsigned long long scratch[2][CHOOSE_THREADS / WARP];
    __shared__ bool is_last;
    const int first = blockIdx.x * p.chunk;
    let_next_start();
    mark_ends(marks, p, first);
    wait_for_inputs();
    Best best[2];
    scan(static_cast<const T *>(p.logits) + static_cast<size_t>(blockIdx.y) * p.pitch, p, first, marks, best);
    const unsigned long long all = block_largest(best[0].key(), scratch[0]);
    const unsigned long long inner = block_largest(best[1].key(), scratch[1]);
    if (threadIdx.x == 0) {
        unsigned long long *const to = p.best + (static_cast<size_t>(blockIdx.y) * gridDim.x + blockIdx.x) * 2;
        to[0] = all;
        to[1] = inner;
        __threadfence();
        is_last = atomicAdd(p.counters + blockIdx.y, 1u) == gridDim.x - 1;
        __threadfence();
    }
    __syncthreads();
    if (is_last && threadIdx.x < WARP) finish(p);
}

#define CHOOSE(type, suffix)                                                                                           \
    extern "C" __global__ void __launch_bounds__(CHOOSE_THREADS) choose_##suffix(const ChooseParams p) {               \
        choose<type>(p);                                                                                               \
    }
CHOOSE(float, f32)
CHOOSE(half_t, f16)
CHOOSE(bf16_t, bf16)

struct CapParams {
    void *logits;    // (count), changed in place
    long long count;
    float scale;     // 1: none
    float cap;       // l becomes c · tanh(l / c); not above 0: none
};
static_assert(sizeof(CapParams) == 24, "as in choose.rs");

// Each operation's result is stored in T, as in transformers, and as there a division by c is a product with 1 / c.
template <typename T> INLINE T capped(T logit, const CapParams &p) {
    float value = to_float(logit);
    if (p.scale != 1.0f) value = rounded<T>(value * p.scale);
    if (p.cap > 0.0f) value = rounded<T>(tanhf(rounded<T>(value * (1.0f / p.cap)))) * p.cap;
    return from_float<T>(value);
}

template <typename T> INLINE void cap(const CapParams &p) {
    constexpr int COUNT = Vector<T>::COUNT;
    let_next_start();
    wait_for_inputs();
    const long long at = (static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x) * COUNT;
    T *const logits = static_cast<T *>(p.logits) + at;
    if (at + COUNT <= p.count) {
        Vector<T> values = load16(logits);
#pragma unroll
        for (int i = 0; i < COUNT; i++) values[i] = capped(values[i], p);
        store16(logits, values);
    } else {
        for (int i = 0; at + i < p.count; i++) logits[i] = capped(logits[i], p);
    }
}

extern "C" __global__ void cap_f32(const CapParams p) { cap<float>(p); }
extern "C" __global__ void cap_f16(const CapParams p) { cap<half_t>(p); }
extern "C" __global__ void cap_bf16(const CapParams p) { cap<bf16_t>(p); }
