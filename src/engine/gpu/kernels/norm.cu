// Residual additions and the norms that follow them: one block a row.
//
// x' = x + s · part, with a part that may be normalised first or be the sum of two; y = norm(x') · w + b, and a second
// one with other weights. Each value that transformers stores in T is rounded to T.
#include "common.cuh"

enum Norm {
    RMS = 1,
    LAYER = 2,
    KIND = 3,
    ONE_PLUS = 4,    // 1 is added to the weights, in f32
    ROUND_FIRST = 8, // the normalised value is rounded before it is multiplied by the weight, as in Llama
};

struct NormParams {
    const void *x;                         // (m, width)
    const void *part1, *part2;             // (m, width) or null
    const void *part_weight, *part_bias;   // of part1's own norm: (width) or null
    const void *weight, *bias;             // (width) or null
    const void *weight2, *bias2;
    void *x_out, *y_out, *y2_out;          // (m, width); x_out and y2_out may be null; any may be an input
    int width;
    int part_norm, norm;                   // 0, or RMS or LAYER with ONE_PLUS and ROUND_FIRST
    float part_eps, eps, residual_scale;
};
static_assert(sizeof(NormParams) == 120, "as in norm.rs");

// A thread's values of a row: vectors that lie blockDim.x vectors apart.
template <typename T, int VALUES> struct Row {
    static constexpr int COUNT = Vector<T>::COUNT, VECTORS = VALUES / COUNT;
    Vector<T> vectors[VECTORS];
    int width;

    // Calls f(number of the vector, index of its first value) for the vectors of this thread.
    template <typename F> __device__ __forceinline__ void each(F f) const {
#pragma unroll
        for (int v = 0; v < VECTORS; v++) {
            const int index = (v * blockDim.x + threadIdx.x) * COUNT;
            if (index < width) f(v, index);
        }
    }

    __device__ __forceinline__ void load(const void *from, size_t begin = 0) {
        if (from == nullptr) return;
        each([&](int v, int index) { vectors[v] = load16(static_cast<const T *>(from) + begin + index); });
    }

    __device__ __forceinline__ void store(void *to, size_t begin) const {
        if (to == nullptr) return;
        each([&](int v, int index) { store16(static_cast<T *>(to) + begin + index, vectors[v]); });
    }

    // Into the cache, for what is needed late.
    __device__ __forceinline__ void prefetch(const void *from) const {
        if (from == nullptr) return;
        each([&](int, int index) { prefetch_l2(static_cast<const T *>(from) + index); });
    }
};

struct Statistics {
    float mean, inverse;
};

template <typename T, int VALUES>
INLINE Statistics statistics(const Row<T, VALUES> &x, int norm, float eps, float (*scratch)[WARP]) {
    float mean = 0.0f, sum = 0.0f;
    if ((norm & KIND) == LAYER) {
        x.each([&](int v, int) {
#pragma unroll
            for (int i = 0; i < Vector<T>::COUNT; i++) sum += to_float(x.vectors[v][i]);
        });
        mean = block_sum(sum, scratch[0]) / x.width;
        sum = 0.0f;
    }
    x.each([&](int v, int) {
#pragma unroll
        for (int i = 0; i < Vector<T>::COUNT; i++) {
            const float apart = to_float(x.vectors[v][i]) - mean;
            sum += apart * apart;
        }
    });
    return {mean, rsqrtf(block_sum(sum, scratch[1]) / x.width + eps)};
}

// A norm's weights in registers if there is room: read before the inputs are there.
template <typename T, int VALUES> struct Affine {
    static constexpr bool KEPT = VALUES <= 8;
    const T *weight, *bias;
    Row<T, KEPT ? VALUES : Vector<T>::COUNT> kept;

    __device__ __forceinline__ Affine(const void *weights, const void *biases, int width)
        : weight(static_cast<const T *>(weights)), bias(static_cast<const T *>(biases)), kept({{}, width}) {
        if (KEPT) {
            kept.load(weight);
            kept.prefetch(bias);
        }
    }

    // Vector `v` of a row, normalised.
    __device__ __forceinline__ Vector<T> apply(const Vector<T> &x, Statistics s, int norm, int v, int index) const {
        Vector<T> scale = {}, shift = {}, y;
        if (weight != nullptr) scale = KEPT ? kept.vectors[v] : load16(weight + index);
        if (bias != nullptr) shift = load16(bias + index);
#pragma unroll
        for (int i = 0; i < Vector<T>::COUNT; i++) {
            float value = (to_float(x[i]) - s.mean) * s.inverse;
            if (norm & ROUND_FIRST) value = rounded<T>(value);
            if (weight != nullptr) value *= norm & ONE_PLUS ? 1.0f + to_float(scale[i]) : to_float(scale[i]);
            if (bias != nullptr) value += to_float(shift[i]);
            y[i] = from_float<T>(value);
        }
        return y;
    }
};

// a + b, stored.
template <typename T> INLINE Vector<T> sum(Vector<T> a, const Vector<T> &b) {
#pragma unroll
    for (int i = 0; i < Vector<T>::COUNT; i++) a[i] = from_float<T>(to_float(a[i]) + to_float(b[i]));
    return a;
}

template <typename T> INLINE Vector<T> scaled(Vector<T> a, float scale) {
#pragma unroll
    for (int i = 0; i < Vector<T>::COUNT; i++) a[i] = from_float<T>(to_float(a[i]) * scale);
    return a;
}

template <typename T, int VALUES> INLINE void norm(const NormParams &p) {
    __shared__ float scratch[4][WARP];
    const size_t begin = static_cast<size_t>(blockIdx.x) * p.width;
    let_next_start();
    const Affine<T, VALUES> first(p.weight, p.bias, p.width);
    Row<T, VALUES> x = {{}, p.width}, part = x;
    x.prefetch(p.part_weight);
    x.prefetch(p.weight2);
    wait_for_inputs();

    x.load(p.x, begin);
    if (p.part1 != nullptr) {
        part.load(p.part1, begin);
        if (p.part_norm) {
            const Statistics s = statistics(part, p.part_norm, p.part_eps, scratch);
            const Affine<T, VALUES> own(p.part_weight, p.part_bias, p.width);
            part.each([&](int v, int at) { part.vectors[v] = own.apply(part.vectors[v], s, p.part_norm, v, at); });
        }
        x.each([&](int v, int index) {
            Vector<T> add = part.vectors[v];
            if (p.part2 != nullptr) add = sum(add, load16(static_cast<const T *>(p.part2) + begin + index));
            if (p.residual_scale != 1.0f) add = scaled(add, p.residual_scale);
            x.vectors[v] = sum(x.vectors[v], add);
        });
    }
    x.store(p.x_out, begin);
    if (p.norm == 0) return x.store(p.y_out, begin);

    const Statistics s = statistics(x, p.norm, p.eps, scratch + 2);
    x.each([&](int v, int index) {
        store16(static_cast<T *>(p.y_out) + begin + index, first.apply(x.vectors[v], s, p.norm, v, index));
    });
    if (p.y2_out == nullptr) return;
    const Affine<T, VALUES> second(p.weight2, p.bias2, p.width);
    x.each([&](int v, int index) {
        store16(static_cast<T *>(p.y2_out) + begin + index, second.apply(x.vectors[v], s, p.norm, v, index));
    });
}

// Rows of up to 8 and, for `wide`, 16 values a thread.
#define NORM(type, suffix)                                                                                             \
    extern "C" __global__ void __launch_bounds__(1024) norm_##suffix(const NormParams p) { norm<type, 8>(p); }         \
    extern "C" __global__ void __launch_bounds__(1024) norm_wide_##suffix(const NormParams p) { norm<type, 16>(p); }
NORM(float, f32)
NORM(half_t, f16)
NORM(bf16_t, bf16)
