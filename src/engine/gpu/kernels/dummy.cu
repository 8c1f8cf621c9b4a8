// Dummy weights, bit for bit the numbers of src/engine/weights/dummy.rs: sums and products there are rounded one by
// one, so that none may be contracted to a fused one here.
#include "common.cuh"

struct DummyParams {
    void *values;
    unsigned long long stream; // where the tensor's sequence of hashes begins
    unsigned long long count;
    int uniform;               // rather than Gaussian
};
static_assert(sizeof(DummyParams) == 32, "as in dummy.rs");

// The finaliser of SplitMix64.
INLINE unsigned long long finalise(unsigned long long counter) {
    unsigned long long z = counter * 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

INLINE float draw_uniform(unsigned long long hash) {
    const float unit = static_cast<float>(static_cast<unsigned>(hash >> 40)) * (1.0f / (1 << 23)) - 1.0f; // exact
    return __fmul_rn(__fmul_rn(unit, 0.02f), 1.7320508f);
}

INLINE float draw_gaussian(unsigned long long hash) {
    const unsigned low = hash, high = hash >> 32;
    const int sum = (low & 0xffff) + (low >> 16) + (high & 0xffff) + (high >> 16);
    const float x = (sum - 2 * 0xffff) * (1.0f / (1 << 16)); // exact
    const float square = __fmul_rn(x, x);
    float polynomial = 0.0053378213f;
    polynomial = __fadd_rn(__fmul_rn(polynomial, square), -0.016922573f);
    polynomial = __fadd_rn(__fmul_rn(polynomial, square), 0.027934048f);
    polynomial = __fadd_rn(__fmul_rn(polynomial, square), 0.04817026f);
    polynomial = __fadd_rn(__fmul_rn(polynomial, square), 1.6668354f);
    return __fmul_rn(__fmul_rn(x, polynomial), 0.02f);
}

template <typename T> INLINE void dummy(const DummyParams &p) {
    constexpr int COUNT = Vector<T>::COUNT;
    let_next_start();
    wait_for_inputs();
    T *const values = static_cast<T *>(p.values);
    const unsigned long long step = static_cast<unsigned long long>(gridDim.x) * blockDim.x * COUNT;
    unsigned long long at = (static_cast<unsigned long long>(blockIdx.x) * blockDim.x + threadIdx.x) * COUNT;
    for (; at < p.count; at += step) {
        Vector<T> drawn;
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            const unsigned long long hash = finalise(p.stream + at + i);
            drawn[i] = from_float<T>(p.uniform ? draw_uniform(hash) : draw_gaussian(hash));
        }
        if (at + COUNT <= p.count) {
            store16(values + at, drawn);
        } else {
#pragma unroll
            for (int i = 0; i < COUNT; i++) {
                if (at + i < p.count) values[at + i] = drawn[i];
            }
        }
    }
}

extern "C" __global__ void dummy_f32(const DummyParams p) { dummy<float>(p); }
extern "C" __global__ void dummy_f16(const DummyParams p) { dummy<half_t>(p); }
extern "C" __global__ void dummy_bf16(const DummyParams p) { dummy<bf16_t>(p); }
