// Products of a few rows of activations with a weight matrix, y = x·Wᵀ, at the speed of reading W once.
//
// A warp multiplies 16·R rows of W with a few rows of x on the tensor cores (mma m16n8k16; W is the operand with 16
// rows). Within a block of k, the order of the elements is free as long as both operands agree on it, so a lane's 16
// contiguous bytes of a row are what it needs for two multiplications. The warps of a block take turns along k; their
// sums meet in shared memory once a tile of 16·R rows and are added in a fixed order, so the result has the same bits
// on every run.
//
// Weights don't depend on an earlier kernel. So DEPTH stages of a block's weights are on their way before it waits for
// its inputs, and those of its next tile before it has finished one: memory stays busy between tiles and between
// kernels. Where eight lanes load 128 contiguous bytes, a line of the caches, reading costs less energy than by halves
// of lines.
#include "common.cuh"

#include "activation.cuh"

struct ProductParams {
    const void *inputs; // (m, k)
    const void *weights; // (n, k)
    const void *bias; // (n), or null
    void *outputs; // (m, n), or (m, n / 2) of the gated variants
    int m;
    int n;
    int k;
    int activation;  // of the gated variants
};
static_assert(sizeof(ProductParams) == 48, "as in products.rs");

// Where weights in flight are: in registers, each lane's own; or in shared memory, whole lines that a warp shares.
enum Kind { REGISTERS, LINE_RING };

constexpr int CHUNK = 64;  // elements of k in a stage: 128 bytes of a row, a line of L2

// Writes output (column, row) of a plain product.
template <typename T>
__device__ __forceinline__ void store_output(const ProductParams &p, int row, int column, float sum) {
    if (row >= p.n || column >= p.m) return;
    if (p.bias) sum += to_float(static_cast<const T *>(p.bias)[row]);
    static_cast<T *>(p.outputs)[static_cast<size_t>(column) * p.n + row] = from_float<T>(sum);
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
    const float active = rounded<T>(activated(rounded<T>(gate), p.activation));
    static_cast<T *>(p.outputs)[static_cast<size_t>(column) * inner + row] = from_float<T>(active * rounded<T>(up));
}

// COLUMNS: up to how many rows of inputs: 2, 4, or a multiple of 8. HINT: bytes that the L2 cache fetches at a time.
//
// With 4, a 16-byte piece of one row of W is an operand as it is: the registers that hold "row g" get its elements 0,
// 1, 4 and 5, those of "row g + 8" its elements 2, 3, 6 and 7. Inputs row c is column 2c with elements 0, 1, 4 and 5,
// and column 2c + 1 with the others. The sums of (g, 2c) and (g + 8, 2c + 1) are the result's two halves; the other
// sums mean nothing.
//
// With 2, an operand is moreover a whole line of each of 4 rows as eight lanes have loaded it: "row" 2j is the first
// half of row j's line and 2j + 1 the second, and columns 4c and 4c + 1 have the inputs for the one, 4c + 2 and 4c + 3
// for the other.
template <typename T, int WARPS, int COLUMNS, int R, int DEPTH, int KIND, int HINT, bool GATED>
struct Product {
    static constexpr bool RING = KIND == LINE_RING;
    static constexpr bool TWICE = COLUMNS == 2;            // folded twice
    static constexpr bool FOLDED = COLUMNS == 4;
    static constexpr int C = COLUMNS < 8 ? 1 : COLUMNS / 8;     // fragments along the inputs' rows
    static constexpr int FRAGMENTS = TWICE ? 4 * R : FOLDED ? 2 * R : R * C;
    static constexpr int SUMS = COLUMNS < 8 ? R : 2 * R * C;    // float2 of sums of a lane in shared memory
    static constexpr int BUFFERS = R * C > 2 ? 1 : 2;      // of sums: with two, one barrier a tile is enough
    static constexpr int STEP = WARPS * CHUNK;             // from a warp's stage to its next one along k
    static constexpr int GROUP = STEP * DEPTH;             // of a block's stages in flight
    static constexpr bool EARLY = C <= 4;                  // inputs are loaded a stage ahead, where registers allow it

    const ProductParams &p;
    const int warp, lane, g, t;  // lane 4g + t holds rows g and g + 8 of a fragment
    const int groups, tiles;
    uint4 *ring;
    float2 *partial;
    uint4 held[RING ? 1 : DEPTH][4 * R];
    uint4 x[EARLY ? 2 : 1][C][2];
    float sums[FRAGMENTS][4];
    const T *input_rows[C];  // at this lane's elements of the group
    int inputs_left;
    bool inputs_full;
    // the loads of weights that come next
    const T *rows[4 * R];  // at each piece; without lines, the second piece of a row is at the first one's address + 32
    int load_tile, load_group;
    bool more, full;

    __device__ __forceinline__ Product(const ProductParams &params, unsigned char *shared)
        : p(params), warp(threadIdx.x / WARP), lane(threadIdx.x % WARP), g(lane / 4), t(lane % 4),
          groups((params.k + GROUP - 1) / GROUP),
          tiles(GATED ? (params.n / 2 + 8 * R - 1) / (8 * R) : (params.n + 16 * R - 1) / (16 * R)) {
        ring = reinterpret_cast<uint4 *>(shared);
        partial = reinterpret_cast<float2 *>(ring + (RING ? WARPS * DEPTH * 4 * R * WARP : 0));
        ring += warp * DEPTH * 4 * R * WARP;
    }

    static constexpr bool WHOLE_LINES = RING || TWICE;  // eight lanes load a row's 128 bytes

    // A lane's first element of a chunk of W.
    __device__ __forceinline__ int first() const { return WHOLE_LINES ? lane % 8 * 8 : t * 8; }

    // Row of W for row i of a tile's fragment r. Rows past the end repeat the last one; their sums are never stored.
    __device__ __forceinline__ const T *row_start(int tile, int r, int i) const {
        const int inner = p.n / 2;
        const int row = GATED ? min(tile * 8 * R + r * 8 + i % 8, inner - 1) + (i < 8 ? 0 : inner)
                              : min(tile * 16 * R + r * 16 + i, p.n - 1);
        return static_cast<const T *>(p.weights) + static_cast<size_t>(row) * p.k;
    }

    __device__ __forceinline__ void enter_tile(int tile) {
        load_tile = tile;
        load_group = 0;
        more = tile < tiles;
        full = GROUP <= p.k;
        if (!more) return;
#pragma unroll
        for (int i = 0; i < 4 * R; i++) {
            if (!WHOLE_LINES && i % 2 == 1) continue;
            const int row = WHOLE_LINES ? i % 4 * 4 + lane / 8 : g + i % 4 * 4;
            rows[i] = row_start(tile, i / 4, row) + warp * CHUNK + first();
        }
    }

    __device__ __forceinline__ void next_group() {
        if (load_group + 1 == groups) return enter_tile(load_tile + gridDim.x);
        load_group++;
        full = (load_group + 1) * GROUP <= p.k;
#pragma unroll
        for (int i = 0; i < 4 * R; i++) {
            if (WHOLE_LINES || i % 2 == 0) rows[i] += GROUP;
        }
    }

    // Where a piece of a stage is in the ring: for lines, a row after the other, with odd rows' halves exchanged, so
    // that eight lanes that read two rows' halves meet no bank twice.
    __device__ __forceinline__ uint4 *place(int slot, int index) const { return ring + slot * 4 * R * WARP + index; }

    __device__ __forceinline__ void load_piece(int slot, int piece, const T *source, bool valid) {
        if (RING) {
            copy_async<HINT>(place(slot, piece * WARP + (lane ^ (lane >> 1 & 4))), source, valid);
        } else {
            uint4 bits = make_uint4(0, 0, 0, 0);
            if (valid) bits = load16_streaming_bits<HINT>(source);
            held[RING ? 0 : slot][piece] = bits;
        }
    }

    __device__ __forceinline__ const T *source(int slot, int piece) const {
        return (WHOLE_LINES ? rows[piece] : rows[piece - piece % 2] + piece % 2 * 32) + slot * STEP;
    }

    // Starts the loads of a stage. Past the last tile it only closes an empty group of copies.
    __device__ __forceinline__ void fetch(int slot) {
        if (more && full) {
#pragma unroll
            for (int i = 0; i < 4 * R; i++) load_piece(slot, i, source(slot, i), true);
        } else if (more) {
            const int left = p.k - load_group * GROUP - warp * CHUNK - first() - slot * STEP;
#pragma unroll
            for (int i = 0; i < 4 * R; i++) load_piece(slot, i, source(slot, i), (WHOLE_LINES ? 0 : i % 2 * 32) < left);
        }
        if (RING) copy_async_commit();
    }

    // The inputs of the stages of `group` come next.
    __device__ __forceinline__ void enter_inputs(int group) {
        inputs_full = (group + 1) * GROUP <= p.k;
        inputs_left = p.k - group * GROUP - warp * CHUNK - input_first();
#pragma unroll
        for (int c = 0; c < C; c++) input_rows[c] += group == 0 ? (1 - groups) * GROUP : GROUP;
    }

    __device__ __forceinline__ int input_row(int c) const { return TWICE ? g / 4 : FOLDED ? g / 2 : c * 8 + g; }
    __device__ __forceinline__ int input_first() const { return t * 8 + (TWICE ? g / 2 % 2 * 32 : 0); }
    __device__ __forceinline__ bool has_inputs(int c) const { return input_row(c) < p.m; }

    // A lane whose column has no inputs never loads and keeps zeros.
    __device__ __forceinline__ void load_inputs(int buffer, int slot) {
        const int offset = slot * STEP;
#pragma unroll
        for (int c = 0; c < C; c++) {
            const uint4 *from = reinterpret_cast<const uint4 *>(input_rows[c] + offset);
            uint4 *to = x[buffer][c];
            if (inputs_full) {
                if (has_inputs(c)) to[0] = from[0];
                if (has_inputs(c) && !TWICE) to[1] = from[4];
            } else {
                to[0] = has_inputs(c) && offset < inputs_left ? from[0] : make_uint4(0, 0, 0, 0);
                if (!TWICE) to[1] = has_inputs(c) && offset + 32 < inputs_left ? from[4] : make_uint4(0, 0, 0, 0);
            }
        }
    }

    // Ready to enter group 0, with all inputs zero.
    __device__ __forceinline__ void start_inputs() {
#pragma unroll
        for (int c = 0; c < C; c++) {
            const size_t row = has_inputs(c) ? input_row(c) : 0;
            input_rows[c] = static_cast<const T *>(p.inputs) + row * p.k + warp * CHUNK + input_first() +
                            (groups - 1) * GROUP;
#pragma unroll
            for (int i = 0; i < (EARLY ? 4 : 2); i++) x[i / 2][c][i % 2] = make_uint4(0, 0, 0, 0);
        }
    }

    __device__ __forceinline__ uint4 weights(int slot, int piece) const {
        if (RING) {  // piece 2 · half + q of fragment r is row g + 8 · half, 16-byte piece 4q + t
            const int row = piece / 4 * 16 + piece / 2 % 2 * 8 + g;
            return *place(slot, row * 8 + ((piece % 2 * 4 + t) ^ (g % 2 * 4)));
        }
        return held[RING ? 0 : slot][piece];
    }

    __device__ __forceinline__ void multiply(int slot, const uint4 (&inputs)[C][2]) {
        const bool odd = g & 1;
        if constexpr (TWICE) {
            const uint4 &b = inputs[0][0];
            const unsigned first = odd ? b.y : b.x, second = odd ? b.w : b.z;
#pragma unroll
            for (int i = 0; i < 4 * R; i++) {
                const uint4 piece = weights(slot, i);
                mma_16816<T>(sums[i], {piece.x, piece.y, piece.z, piece.w}, {first, second});
            }
        } else {
#pragma unroll
            for (int i = 0; i < 2 * R; i++) {
                const int r = i / 2, q = i % 2;
                const uint4 upper = weights(slot, 4 * r + q), lower = weights(slot, 4 * r + 2 + q);
                if constexpr (FOLDED) {
                    const uint4 &b = inputs[0][q];
                    const unsigned first = odd ? b.y : b.x, second = odd ? b.w : b.z;
                    mma_16816<T>(sums[2 * r], {upper.x, upper.y, upper.z, upper.w}, {first, second});
                    mma_16816<T>(sums[2 * r + 1], {lower.x, lower.y, lower.z, lower.w}, {first, second});
                } else {
#pragma unroll
                    for (int c = 0; c < C; c++) {
                        const uint4 &b = inputs[c][q];
                        mma_16816<T>(sums[r * C + c], {upper.x, lower.x, upper.y, lower.y}, {b.x, b.y});
                        mma_16816<T>(sums[r * C + c], {upper.z, lower.z, upper.w, lower.w}, {b.z, b.w});
                    }
                }
            }
        }
    }

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int i = 0; i < FRAGMENTS * 4; i++) sums[i / 4][i % 4] = 0.0f;
    }

    // The sums of (row g, row g + 8) of fragment r for one row of inputs.
    __device__ __forceinline__ void store(int tile, int r, int column, float2 sum) const {
        if (GATED) return store_gated<T>(p, tile * 8 * R + r * 8 + g, column, sum.x, sum.y);
        const int row = tile * 16 * R + r * 16 + g;
        store_output<T>(p, row, column, sum.x);
        store_output<T>(p, row + 8, column, sum.y);
    }

    // Adds the warps' sums in order and writes a tile's outputs. Another warp does so at each turn, so that none lags.
    __device__ __forceinline__ void finish(int tile, int turn) {
        float2 *buffer = partial + (BUFFERS == 2 ? turn % 2 : 0) * WARPS * SUMS * WARP;
        if constexpr (TWICE) {  // rows 4i + g / 2 of fragments; lanes with an even g and t hold inputs row t / 2
            float *const floats = reinterpret_cast<float *>(buffer);
#pragma unroll
            for (int i = 0; i < 4 * R; i++) {
                const float half = sums[i][0] + sums[i][3], whole = half + __shfl_xor_sync(ALL_LANES, half, 5);
                const int row = i % 4 * 4 + g / 2, column = t / 2;  // as lane 4 · (row % 8) + column has them
                if (g % 2 == 0 && t % 2 == 0) {
                    floats[((i / 4 * WARPS + warp) * WARP + row % 8 * 4 + column) * 2 + row / 8] = whole;
                }
            }
        } else
#pragma unroll
        for (int i = 0; i < SUMS; i++) {
            const float *s = sums[FOLDED ? 2 * i : i / 2], *other = sums[(FOLDED ? 2 * i + 1 : 0) % FRAGMENTS];
            buffer[(i * WARPS + warp) * WARP + lane] =
                FOLDED ? make_float2(s[0] + s[3], other[0] + other[3]) : make_float2(s[i % 2], s[2 + i % 2]);
        }
        __syncthreads();
        for (int i = (warp + turn) % WARPS; i < SUMS; i += WARPS) {
            float2 sum = buffer[i * WARPS * WARP + lane];
#pragma unroll
            for (int w = 1; w < WARPS; w++) {
                const float2 other = buffer[(i * WARPS + w) * WARP + lane];
                sum.x += other.x, sum.y += other.y;
            }
            if (COLUMNS < 8) store(tile, i, t, sum);
            else store(tile, i / 2 / C, i / 2 % C * 8 + 2 * t + i % 2, sum);
        }
        if (BUFFERS == 1) __syncthreads();
    }

    __device__ __forceinline__ void run() {
        let_next_start();
        enter_tile(blockIdx.x);
#pragma unroll
        for (int slot = 0; slot < DEPTH; slot++) fetch(slot);
        wait_for_inputs();
        start_inputs();
        enter_inputs(0);
        if (EARLY) load_inputs(0, 0);
        int turn = 0;
        for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
            clear();
            for (int group = 0; group < groups; group++) {
                next_group();
#pragma unroll
                for (int slot = 0; slot < DEPTH; slot++) {
                    if (!EARLY) load_inputs(0, slot);
                    if (slot + 1 == DEPTH) enter_inputs(group + 1 == groups ? 0 : group + 1);
                    if (EARLY) load_inputs((slot + 1) % 2, (slot + 1) % DEPTH);
                    if (RING) copy_async_wait<DEPTH - 1>();
                    if (RING) __syncwarp();
                    multiply(slot, x[EARLY ? slot % 2 : 0]);
                    if (RING) __syncwarp();  // all have read the slot
                    fetch(slot);
                }
            }
            finish(tile, turn++);
        }
    }
};

template <typename T, int WARPS, int COLUMNS, int R, int DEPTH, int KIND, int HINT, bool GATED>
__device__ __forceinline__ void product(const ProductParams &p) {
    static_assert(DEPTH % 2 == 0, "inputs alternate between two buffers");
    DYNAMIC_SHARED(unsigned char, shared);
    Product<T, WARPS, COLUMNS, R, DEPTH, KIND, HINT, GATED>(p, shared).run();
}

// ---- f32: exact, by plain multiplications ----

// A warp takes one output row at a time and 8 rows of inputs.
template <bool GATED> __device__ __forceinline__ void product_in_f32(const ProductParams &p) {
    constexpr int WARPS = 8, COLUMNS = 8;
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, width = GATED ? p.n / 2 : p.n;
    const float *inputs = static_cast<const float *>(p.inputs);
    let_next_start();
    wait_for_inputs();
    for (int first = 0; first < p.m; first += COLUMNS) {
        for (int row = blockIdx.x * WARPS + warp; row < width; row += gridDim.x * WARPS) {
            const float *weights = static_cast<const float *>(p.weights) + static_cast<size_t>(row) * p.k;
            const float *up = weights + static_cast<size_t>(GATED ? width : 0) * p.k;
            float sums[COLUMNS] = {}, up_sums[COLUMNS] = {};
            for (int i = lane * 4; i < p.k; i += WARP * 4) {
                const Vector<float> w = load16(weights + i), u = load16(up + i);
#pragma unroll
                for (int c = 0; c < COLUMNS; c++) {
                    if (first + c >= p.m) continue;
                    const Vector<float> x = load16(inputs + static_cast<size_t>(first + c) * p.k + i);
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        sums[c] += w[e] * x[e];
                        if (GATED) up_sums[c] += u[e] * x[e];
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
#define PRODUCT(name, WARPS, COLUMNS, R, DEPTH, KIND, HINT, GATED)                                                     \
    extern "C" __global__ void __launch_bounds__(WARPS * 32) name##_bf16(const ProductParams p) {                      \
        product<bf16_t, WARPS, COLUMNS, R, DEPTH, KIND, HINT, GATED>(p);                                               \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(WARPS * 32) name##_f16(const ProductParams p) {                       \
        product<half_t, WARPS, COLUMNS, R, DEPTH, KIND, HINT, GATED>(p);                                               \
    }
#define PRODUCTS(suffix, ...)                                                                                          \
    PRODUCT(product_##suffix, __VA_ARGS__, false)                                                                      \
    PRODUCT(product_gated_##suffix, __VA_ARGS__, true)
// Of the same names as in products.rs, which says when each is best.
PRODUCTS(m2, 8, 2, 1, 4, REGISTERS, 0)
PRODUCTS(m4, 8, 4, 1, 4, REGISTERS, 256)
PRODUCTS(m2_long, 16, 2, 1, 2, REGISTERS, 0)
PRODUCTS(m4_long, 16, 4, 1, 4, LINE_RING, 0)
#undef PRODUCTS
#undef PRODUCT

extern "C" __global__ void __launch_bounds__(256) product_f32(const ProductParams p) { product_in_f32<false>(p); }
extern "C" __global__ void __launch_bounds__(256) product_gated_f32(const ProductParams p) { product_in_f32<true>(p); }
#endif
