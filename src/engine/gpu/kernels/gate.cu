// The activation of the feed-forward: act(gate) · up, or act alone. A thread for each 16 bytes of the output.
#include "common.cuh"
#include "activation.cuh"

struct GateParams {
    const void *x; // (m, 2 · inner): gate and up; or (m, inner)
    void *y;       // (m, inner)
    long long count; // m · inner
    int inner;
    int activation;
    int gated;
};
static_assert(sizeof(GateParams) == 40, "as in gate.rs");

template <typename T> INLINE void gate(const GateParams &p) {
    constexpr int COUNT = Vector<T>::COUNT;
    let_next_start();
    wait_for_inputs();
    const long long at = (static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x) * COUNT;
    if (at >= p.count) return;
    const long long row = at / p.inner;
    const T *const x = static_cast<const T *>(p.x) + at + (p.gated ? row * p.inner : 0);
    const Vector<T> gates = load16(x);
    Vector<T> ups = {}, y;
    if (p.gated) ups = load16(x + p.inner);
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        y[i] = from_float<T>(activated(to_float(gates[i]), p.activation));
        if (p.gated) y[i] = from_float<T>(to_float(y[i]) * to_float(ups[i]));
    }
    store16(static_cast<T *>(p.y) + at, y);
}

extern "C" __global__ void gate_f32(const GateParams p) { gate<float>(p); }
extern "C" __global__ void gate_f16(const GateParams p) { gate<half_t>(p); }
extern "C" __global__ void gate_bf16(const GateParams p) { gate<bf16_t>(p); }
