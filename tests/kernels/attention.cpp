// Attention over the cache, of one token a row and of many, against sums in double precision.
#include "../../src/engine/gpu/kernels/attention_decode.cu"
#include "../../src/engine/gpu/kernels/attention_prefill.cu"
#include "reference.h"

struct Shape {
    int rows, heads, kv_heads, width, past, tokens, splits, warps;
    int window = 0;
    float softcap = 0.0f;
    bool alibi = false;

    Shape(int rows, int heads, int kv_heads, int width, int past, int tokens, int splits = 1, int warps = 4)
        : rows(rows), heads(heads), kv_heads(kv_heads), width(width), past(past), tokens(tokens), splits(splits),
          warps(warps) {}
};

template <typename T> struct Inputs {
    Shape shape;
    int capacity, stride;
    float scale;
    emulate::Buffer<T> queries, keys, values, output;
    emulate::Buffer<int> starts, length;
    emulate::Buffer<float> alibi;

    explicit Inputs(const Shape &s)
        : shape(s), capacity(s.past + s.tokens + 3), stride((s.heads + 2 * s.kv_heads) * s.width),
          scale(1.0f / sqrtf(s.width)), queries(size_t(s.rows) * s.tokens * stride),
          keys(size_t(s.rows) * s.kv_heads * capacity * s.width), values(keys.count),
          output(size_t(s.rows) * s.tokens * s.heads * s.width), starts(s.rows), length(1),
          alibi(size_t(s.heads) * capacity) {
        fill(queries, 1.5);
        // beyond the columns written so far, the cache is not a number
        std::normal_distribution<float> normal;
        for (size_t head = 0; head < size_t(s.rows) * s.kv_heads; head++) {
            for (size_t i = 0; i < size_t(s.past + s.tokens) * s.width; i++) {
                keys[head * capacity * s.width + i] = from_float<T>(normal(numbers));
                values[head * capacity * s.width + i] = from_float<T>(normal(numbers) + 0.5f);
            }
        }
        for (int row = 0; row < s.rows; row++) starts[row] = row == 0 ? 0 : row * 7 % (s.past + s.tokens);
        length[0] = s.past;
        for (int head = 0; head < s.heads; head++) {
            for (int i = 0; i < capacity; i++) alibi[head * capacity + i] = (head + 1) * 0.05f * i;
        }
    }

    double score(double product, int head, int distance) const {
        double x = rounded<T>(product);
        if (shape.alibi) return x * scale + alibi[head * capacity + distance];
        x = rounded<T>(float(x) * scale);
        if (shape.softcap == 0.0f) return x;
        return rounded<T>(rounded<T>(tanh(rounded<T>(float(x) / shape.softcap))) * shape.softcap);
    }

    // Distance of the output from the reference; 1 if a value isn't finite.
    double error() const {
        std::vector<double> found, expected;
        const Shape &s = shape;
        for (int token = 0; token < s.rows * s.tokens; token++) {
            const int row = token / s.tokens, column = s.past + token % s.tokens;
            for (int head = 0; head < s.heads; head++) {
                const size_t at = (size_t(row) * s.kv_heads + head / (s.heads / s.kv_heads)) * capacity * s.width;
                const size_t out = (size_t(token) * s.heads + head) * s.width;
                for (int i = 0; i < s.width; i++) {
                    if (!(fabsf(to_float(output[out + i])) < 1e9f)) return 1;
                }
                if (column < starts[row]) continue;
                std::vector<double> weights;
                double most = -1e30, total = 0;
                const int first = std::max(starts[row], s.window ? column - s.window + 1 : 0);
                for (int c = first; c <= column; c++) {
                    double product = 0;
                    for (int i = 0; i < s.width; i++) {
                        product += double(to_float(queries[size_t(token) * stride + head * s.width + i])) *
                                   to_float(keys[at + size_t(c) * s.width + i]);
                    }
                    weights.push_back(score(product, head, c - starts[row]));
                    most = std::max(most, weights.back());
                }
                for (double &weight : weights) total += weight = exp(weight - most);
                for (int i = 0; i < s.width; i++) {
                    double sum = 0;
                    for (int c = first; c <= column; c++) {
                        sum += weights[c - first] * to_float(values[at + size_t(c) * s.width + i]);
                    }
                    expected.push_back(sum / total);
                    found.push_back(to_float(output[out + i]));
                }
            }
        }
        return emulate::distance(found, expected);
    }
};

template <typename T> struct Kernels;
#define KERNELS(type, suffix)                                                                                          \
    template <> struct Kernels<type> {                                                                                 \
        static constexpr const char *NAME = #suffix;                                                                   \
        static auto decode(int width, bool wide) {                                                                     \
            if (width == 64) return wide ? attention_decode_##suffix##_d64_q16 : attention_decode_##suffix##_d64;      \
            if (width < 64) return wide ? attention_decode_##suffix##_w64_q16 : attention_decode_##suffix##_w64;       \
            if (width == 128) return wide ? attention_decode_##suffix##_d128_q16 : attention_decode_##suffix##_d128;   \
            if (width < 128) return wide ? attention_decode_##suffix##_w128_q16 : attention_decode_##suffix##_w128;    \
            return width == 256 ? attention_decode_##suffix##_d256 : attention_decode_##suffix##_w256;                 \
        }                                                                                                              \
        static auto prefill(int width, bool small) {                                                                   \
            if (width <= 64) return small ? attention_prefill_##suffix##_w64_small : attention_prefill_##suffix##_w64; \
            if (width <= 96) return small ? attention_prefill_##suffix##_w96_small : attention_prefill_##suffix##_w96; \
            if (width <= 128) {                                                                                        \
                return small ? attention_prefill_##suffix##_w128_small : attention_prefill_##suffix##_w128;            \
            }                                                                                                          \
            return small ? attention_prefill_##suffix##_w256_small : attention_prefill_##suffix##_w256;                \
        }                                                                                                              \
    };
KERNELS(bf16_t, bf16)
KERNELS(half_t, f16)
template <> struct Kernels<float> {
    static constexpr const char *NAME = "f32";
    static auto decode(int width, bool) {
        if (width <= 64) return attention_decode_f32_w64;
        return width <= 128 ? attention_decode_f32_w128 : attention_decode_f32_w256;
    }
    static auto prefill(int width, bool) {
        if (width <= 64) return attention_prefill_f32_w64;
        return width <= 128 ? attention_prefill_f32_w128 : attention_prefill_f32_w256;
    }
};

// Probabilities are rounded before they are divided by their sum, in the reference not at all.
template <typename T> double limit() {
    return std::is_same<T, float>::value ? 1e-5 : std::is_same<T, half_t>::value ? 1e-3 : 5e-3;
}

template <typename T> static void test_decode(const Shape &s) {
    Inputs<T> in(s);
    const int group = s.heads / s.kv_heads, padded = s.width <= 64 ? 64 : s.width <= 128 ? 128 : 256;
    const bool wide = sizeof(T) == 2 && group > 8 && padded < 256;
    const int queries = wide ? 16 : 8, chunks = (group + queries - 1) / queries;
    emulate::Buffer<int> counters(s.rows * s.kv_heads * chunks);
    for (size_t i = 0; i < counters.count; i++) counters[i] = 0;
    emulate::Buffer<float> partial(counters.count * s.splits * queries * (padded + 2));
    const AttentionDecodeParams params = {in.queries.data, in.keys.data, in.values.data, in.output.data, in.starts.data,
                                          in.length.data, s.alibi ? in.alibi.data : nullptr, partial.data, counters.data,
                                          s.heads, s.kv_heads, s.width, in.capacity, in.stride, in.capacity, s.window, 16,
                                          in.scale, s.softcap};
    const size_t shared = size_t(s.warps) * queries * (padded + 2) * 4;
    double error = 0;
    for (int time = 0; time < 2; time++) {
        for (size_t i = 0; i < in.output.count; i++) in.output[i] = from_float<T>(NAN);
        emulate::run(Kernels<T>::NAME, Kernels<T>::decode(s.width, wide), dim3(s.splits, s.kv_heads * chunks, s.rows),
                     s.warps * 32, shared, params);
        error = std::max(error, in.error());
    }
    char name[200];
    snprintf(name, sizeof name, "decode %s b=%d h=%d kv=%d d=%d past=%d window=%d cap=%g alibi=%d splits=%d warps=%d",
             Kernels<T>::NAME, s.rows, s.heads, s.kv_heads, s.width, s.past, s.window, s.softcap, s.alibi, s.splits,
             s.warps);
    emulate::check(name, error, limit<T>());
}

static void test_decode_everywhere(const Shape &shape) {
    test_decode<float>(shape);
    test_decode<bf16_t>(shape);
    test_decode<half_t>(shape);
}

static void test_decodes() {
    for (int width : {8, 16, 40, 64, 80, 96, 128, 200, 256}) test_decode_everywhere({3, 4, 2, width, 70, 1, 3});
    for (int past : {0, 1, 15, 16, 17, 63, 64, 130}) {
        for (int splits : {1, 2, 5}) test_decode<bf16_t>({2, 2, 1, 16, past, 1, splits});
    }
    for (int group : {1, 3, 7, 8, 9, 16, 17, 40}) test_decode<half_t>({2, 2 * group, 2, 64, 37, 1, 2, 2});
    for (int width : {64, 128, 256}) {
        Shape shape(3, 12, 1, width, 90, 1, 2);
        shape.window = 20;
        test_decode_everywhere(shape);
        shape.softcap = 5.0f;
        test_decode_everywhere(shape);
        shape.window = 0, shape.softcap = 0.0f, shape.alibi = true;
        test_decode_everywhere(shape);
    }
}

template <typename T> static void test_prefill(const Shape &s, bool small) {
    Inputs<T> in(s);
    const AttentionPrefillParams params = {in.queries.data, in.keys.data, in.values.data, in.output.data, in.starts.data,
                                           in.length.data, s.alibi ? in.alibi.data : nullptr, s.heads, s.kv_heads,
                                           s.width, in.capacity, in.stride, in.capacity, s.window, s.tokens, in.scale,
                                           s.softcap};
    const int pitch = (s.width + 63) / 64 * 64, padded = pitch == 192 ? 256 : pitch;
    const int block = sizeof(T) == 4 ? 16 : small ? 64 : 128, columns = padded == 256 ? 32 : 64;
    const int threads = sizeof(T) == 2 && padded == 256 && !small ? 256 : 128;
    emulate::run(Kernels<T>::NAME, Kernels<T>::prefill(s.width, small),
                 dim3(s.heads, s.rows, (s.tokens + block - 1) / block), threads,
                 sizeof(T) == 2 ? size_t(block + 2 * columns) * padded * 2 : 0, params);
    char name[200];
    snprintf(name, sizeof name, "prefill %s%s b=%d h=%d kv=%d d=%d past=%d t=%d window=%d cap=%g alibi=%d",
             Kernels<T>::NAME, small ? " small" : "", s.rows, s.heads, s.kv_heads, s.width, s.past, s.tokens, s.window,
             s.softcap, s.alibi);
    emulate::check(name, in.error(), limit<T>());
}

static void test_prefill_everywhere(const Shape &shape) {
    test_prefill<float>(shape, false);
    test_prefill<bf16_t>(shape, false);
    test_prefill<half_t>(shape, true);
}

static void test_prefills() {
    for (int width : {8, 16, 40, 64, 80, 96, 128, 200, 256}) test_prefill_everywhere({2, 4, 2, width, 5, 21});
    for (int tokens : {1, 2, 15, 17, 64, 65, 128, 129}) {
        for (int past : {0, 70}) test_prefill_everywhere({2, 2, 1, 16, past, tokens});
    }
    for (int width : {64, 96, 128, 256}) {
        Shape shape(2, 2, 1, width, 40, width == 64 ? 150 : 33);
        shape.window = 20;
        shape.softcap = 5.0f;
        test_prefill_everywhere(shape);
        shape.softcap = 0.0f;
        test_prefill_everywhere(shape);
        shape.window = 0, shape.alibi = true;
        test_prefill_everywhere(shape);
    }
}

int main() {
    test_decodes();
    test_prefills();
    return emulate::failures != 0;
}
