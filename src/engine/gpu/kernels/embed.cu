// Rows of tables by index: token embeddings with their learned positions. One block a token.
#include "common.cuh"

struct EmbedParams {
    const unsigned *ids;           // (m)
    const void *table;             // (vocabulary, width)
    const void *positions;         // (rows, width) or null
    const int *starts, *length;    // only read for positions
    void *x;                       // (m, width)
    int tokens;                    // of a row of the batch
    int width, vocabulary;
    int offset;                    // row of position 0
    float scale;
};
static_assert(sizeof(EmbedParams) == 72, "as in embed.rs");

template <typename T> INLINE void embed(const EmbedParams &p) {
    constexpr int COUNT = Vector<T>::COUNT;
    let_next_start();
    wait_for_inputs();
    const size_t token = blockIdx.x;
    // an id past the end means that a row of logits had no largest value: the host reports it
    const size_t id = min(static_cast<int>(p.ids[token]), p.vocabulary - 1);
    const T *const row = static_cast<const T *>(p.table) + id * p.width;
    const T *learned = nullptr;
    if (p.positions != nullptr) {
        const int position = *p.length + static_cast<int>(token) % p.tokens - p.starts[token / p.tokens];
        learned = static_cast<const T *>(p.positions) + static_cast<size_t>(max(position, 0) + p.offset) * p.width;
    }
    for (int index = threadIdx.x * COUNT; index < p.width; index += blockDim.x * COUNT) {
        Vector<T> x = load16(row + index), add = {};
        if (learned != nullptr) add = load16(learned + index);
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            if (p.scale != 1.0f) x[i] = from_float<T>(to_float(x[i]) * p.scale);
            if (learned != nullptr) x[i] = from_float<T>(to_float(x[i]) + to_float(add[i]));
        }
        store16(static_cast<T *>(p.x) + token * p.width + index, x);
    }
}

extern "C" __global__ void embed_f32(const EmbedParams p) { embed<float>(p); }
extern "C" __global__ void embed_f16(const EmbedParams p) { embed<half_t>(p); }
extern "C" __global__ void embed_bf16(const EmbedParams p) { embed<bf16_t>(p); }
