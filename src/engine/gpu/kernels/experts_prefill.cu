// Products of experts with many pairs each, which the tensor cores bound.
#include "experts.cuh"

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
        if (across * 64 >= item.z) return;
#pragma unroll
        for (int k = 0; k < DEPTH / 16; k++) {
            unsigned a[4][4], b[4][4];
#pragma unroll
            for (int j = 0; j < 4; j++) {
                load_matrix_x4(b[j], w + place(along * 64 + j * 16 + lane / 16 * 8 + lane % 8, k * 2 + lane / 8 % 2));
            }
#pragma unroll
            for (int i = 0; i < 4; i++) {
                load_matrix_x4(a[i], x + place(across * 64 + i * 16 + lane % 16, k * 2 + lane / 16));
            }
#pragma unroll
            for (int i = 0; i < 4; i++) {
#pragma unroll
                for (int j = 0; j < 8; j++) {
                    mma_16816<T>(sums[i][j], a[i], {b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]});
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
    wait_for_inputs();
    let_next_start();
    const int4 item = p.items[1 + blockIdx.y];
    if (static_cast<int>(blockIdx.y) < p.items[0].x) Tile<T, GATE_UP>(p, item, ring).run();
}

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
