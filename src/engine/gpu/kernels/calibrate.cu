// A pure read of memory, as fast as it goes: what a byte costs when nothing is done with it.
#include "common.cuh"

struct ReadParams {
    const uint4 *from;
    unsigned *to;    // (1), written only if the sums of a thread come to `never`: so that the reads aren't left out
    long long count; // 16-byte words
    unsigned never;
};
static_assert(sizeof(ReadParams) == 32, "as in calibrate.rs");

// Words that a thread has on their way at a time.
constexpr int IN_FLIGHT = 8;

INLINE unsigned folded(uint4 bits) { return bits.x ^ bits.y ^ bits.z ^ bits.w; }

extern "C" __global__ void __launch_bounds__(512) calibrate_read(const ReadParams p) {
    let_next_start();
    wait_for_inputs();
    const long long stride = static_cast<long long>(gridDim.x) * blockDim.x;
    long long at = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    unsigned sum = 0;
    for (; at + (IN_FLIGHT - 1) * stride < p.count; at += IN_FLIGHT * stride) {
        uint4 words[IN_FLIGHT];
#pragma unroll
        for (int i = 0; i < IN_FLIGHT; i++) words[i] = load16_streaming_bits(p.from + at + i * stride);
#pragma unroll
        for (int i = 0; i < IN_FLIGHT; i++) sum ^= folded(words[i]);
    }
    for (; at < p.count; at += stride) sum ^= folded(load16_streaming_bits(p.from + at));
    if (sum == p.never) *p.to = sum;
}
