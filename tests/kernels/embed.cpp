#include "../../src/engine/gpu/kernels/embed.cu"

#include "reference.h"

template <typename T> static void test(const char *name, void (*kernel)(const EmbedParams), bool learned, float scale) {
    const int batch = 2, tokens = 4, width = 88, vocabulary = 50, past = 3;
    emulate::Buffer<T> table(vocabulary * width), positions(20 * width), x(batch * tokens * width);
    emulate::Buffer<unsigned> ids(batch * tokens);
    emulate::Buffer<int> starts(batch), length(1);
    fill(table);
    fill(positions);
    starts[0] = 0, starts[1] = 5, length[0] = past;
    std::vector<double> expected;
    for (int token = 0; token < batch * tokens; token++) {
        ids[token] = token == 6 ? vocabulary : token * 7 % vocabulary; // no choice: any finite row
        const int position = std::max(past + token % tokens - starts[token / tokens], 0);
        for (int i = 0; i < width; i++) {
            double value = to_float(table[std::min<int>(ids[token], vocabulary - 1) * width + i]);
            value = stored<T>(value * scale);
            expected.push_back(learned ? stored<T>(value + to_float(positions[(position + 2) * width + i])) : value);
        }
    }
    const EmbedParams p = {ids.data, table.data, learned ? positions.data : nullptr, starts.data, length.data, x.data,
                           tokens,   width,      vocabulary, 2, scale};
    emulate::run(name, kernel, batch * tokens, 32, 0, p);
    check(name, x, expected);
}

template <typename T> static void test_all(void (*kernel)(const EmbedParams)) {
    test<T>("embed", kernel, false, 1);
    test<T>("embed, scaled", kernel, false, 9.375f);
    test<T>("embed, learned positions", kernel, true, 1);
}

// Rows of words: `length` columns of each part come from the row that the index names, the others stay as they were.
int main() {
    test_all<float>(embed_f32);
    test_all<half_t>(embed_f16);
    test_all<bf16_t>(embed_bf16);
    return emulate::failures != 0;
}
