#include "../../src/engine/gpu/kernels/rope.cu"

#include "reference.h"

using Values = std::vector<double>;

struct Case {
    const char *name;
    int heads, kv_heads, width, pairs;
    int norm, span, neighbours;
    bool bias, in_place;
    float clip;
    int splits, threads;
};

constexpr int BATCH = 2, TOKENS = 3, PAST = 5, CAPACITY = 11, STARTS[BATCH] = {0, 6};

static void normalise_reference(double *x, int count, int norm, double eps) {
    double mean = 0, variance = 0;
    for (int i = 0; i < count; i++) mean += (norm & KIND) == LAYER ? x[i] / count : 0;
    for (int i = 0; i < count; i++) variance += (x[i] - mean) * (x[i] - mean) / count;
    for (int i = 0; i < count; i++) x[i] = (x[i] - mean) / sqrt(variance + eps);
}

template <typename T>
static void weigh(double *x, int count, int norm, const T *weight, const T *bias) {
    for (int i = 0; i < count; i++) {
        if (norm & ROUND_FIRST) x[i] = stored<T>(x[i]);
        x[i] *= to_float(weight[i]) + (norm & ONE_PLUS ? 1 : 0);
        x[i] = stored<T>(x[i] + (bias ? to_float(bias[i]) : 0));
    }
}

template <typename T> static void rotate_reference(double *x, const Case &c, const float *cos, const float *sin) {
    const Values before(x, x + c.width);
    for (int pair = 0; pair < c.pairs; pair++) {
        const int a = c.neighbours ? 2 * pair : pair, b = c.neighbours ? a + 1 : pair + c.pairs;
        const double cosine = stored<T>(cos[pair]), sine = stored<T>(sin[pair]);
        x[a] = stored<T>(stored<T>(before[a] * cosine) + stored<T>(-before[b] * sine));
        x[b] = stored<T>(stored<T>(before[b] * cosine) + stored<T>(before[a] * sine));
    }
}

template <typename T> static void test(void (*kernel)(const RopeParams), const Case &c) {
    const int total = c.heads + 2 * c.kv_heads, rows = BATCH * TOKENS, d = c.width;
    const int weights = c.span == SHARED_BY_HEADS ? d : c.heads * d;
    emulate::Buffer<T> qkv(rows * total * d), q(rows * c.heads * d), query_weight(weights), key_weight(weights);
    emulate::Buffer<T> query_bias(weights), key_bias(weights);
    emulate::Buffer<T> keys(BATCH * c.kv_heads * CAPACITY * d), values(BATCH * c.kv_heads * CAPACITY * d);
    emulate::Buffer<float> cos(CAPACITY * std::max(c.pairs, 1)), sin(CAPACITY * std::max(c.pairs, 1));
    emulate::Buffer<int> starts(BATCH), length(1);
    fill(qkv, 2.0);
    for (auto *one : {&query_weight, &key_weight}) fill(*one, 0.3, 1.0);
    for (auto *one : {&query_bias, &key_bias}) fill(*one);
    fill(keys);
    fill(values);
    for (int position = 0; position < CAPACITY; position++) {
        for (int pair = 0; pair < c.pairs; pair++) {
            cos[position * c.pairs + pair] = ::cos(position * pow(100.0, -1.0 * pair / c.pairs));
            sin[position * c.pairs + pair] = ::sin(position * pow(100.0, -1.0 * pair / c.pairs));
        }
    }
    for (int row = 0; row < BATCH; row++) starts[row] = STARTS[row];
    length[0] = PAST;
    RopeParams p = {};
    p.qkv = qkv.data;
    if (c.pairs) p.cos = cos.data, p.sin = sin.data;
    if (c.norm) p.query_weight = query_weight.data, p.key_weight = key_weight.data;
    if (c.bias) p.query_bias = query_bias.data, p.key_bias = key_bias.data;
    p.starts = starts.data, p.length = length.data;
    p.q = c.in_place ? qkv.data : q.data, p.keys = keys.data, p.values = values.data;
    p.tokens = TOKENS, p.heads = c.heads, p.kv_heads = c.kv_heads, p.width = d, p.pairs = c.pairs;
    p.capacity = CAPACITY, p.q_pitch = (c.in_place ? total : c.heads) * d;
    p.norm = c.norm, p.span = c.span, p.neighbours = c.neighbours;
    p.eps = 1e-5f, p.clip = c.clip;

    Values all = values_of(qkv), expected_q, expected_keys = values_of(keys), expected_values = values_of(values);
    for (int row = 0; row < rows; row++) {
        double *const x = all.data() + row * total * d;
        const int sequence = row / TOKENS, column = PAST + row % TOKENS;
        const int position = std::max(column - STARTS[sequence], 0);
        const int rotated = c.heads + c.kv_heads;
        if (c.norm && c.span == ALL_HEADS) {
            normalise_reference(x, c.heads * d, c.norm, 1e-5);
            normalise_reference(x + c.heads * d, c.kv_heads * d, c.norm, 1e-5);
        }
        for (int head = 0; head < total; head++) {
            double *const one = x + head * d;
            const bool query = head < c.heads;
            const int apart = c.span == SHARED_BY_HEADS ? 0 : (query ? head : head - c.heads) * d;
            if (c.norm && head < rotated) {
                if (c.span != ALL_HEADS) normalise_reference(one, d, c.norm, 1e-5);
                weigh<T>(one, d, c.norm, (query ? query_weight : key_weight).data + apart,
                         c.bias ? (query ? query_bias : key_bias).data + apart : nullptr);
            }
            const double clip = c.clip > 0 ? c.clip : INFINITY;
            for (int i = 0; i < d; i++) one[i] = std::min(std::max(one[i], -clip), clip);
            if (head < rotated) {
                rotate_reference<T>(one, c, cos.data + position * c.pairs, sin.data + position * c.pairs);
            }
            if (query) {
                expected_q.insert(expected_q.end(), one, one + d);
                continue;
            }
            const int of_cache = head < rotated ? head - c.heads : head - rotated;
            Values &cache = head < rotated ? expected_keys : expected_values;
            std::copy(one, one + d, cache.begin() + ((sequence * c.kv_heads + of_cache) * CAPACITY + column) * d);
        }
    }
    emulate::run(c.name, kernel, dim3(rows, c.splits), c.threads, 0, p);
    if (c.in_place) {
        for (int row = 0; row < rows; row++) {
            for (int i = 0; i < c.heads * d; i++) q[row * c.heads * d + i] = qkv[row * total * d + i];
        }
    }
    check(std::string(c.name) + ", queries", q, expected_q);
    check(std::string(c.name) + ", keys", keys, expected_keys);
    check(std::string(c.name) + ", values", values, expected_values, 1e-9);
}

template <typename T> static void test_all(void (*kernel)(const RopeParams)) {
    const int qwen = 1 | ROUND_FIRST, gemma = 1 | ONE_PLUS;
    test<T>(kernel, {"llama", 4, 2, 64, 32, 0, 0, 0, false, false, 0, 3, 128});
    test<T>(kernel, {"llama, in place, one block", 4, 2, 128, 64, 0, 0, 0, false, true, 0, 1, 128});
    test<T>(kernel, {"width 8, neighbours", 4, 4, 8, 4, 0, 0, 1, false, true, 0, 1, 32});
    test<T>(kernel, {"width 16, a part rotated", 3, 1, 16, 4, 0, 0, 0, false, true, 0, 1, 64});
    test<T>(kernel, {"width 80, a part rotated, neighbours", 2, 2, 80, 16, 0, 0, 1, false, false, 0, 2, 128});
    test<T>(kernel, {"width 256, norm plus one", 2, 1, 256, 128, gemma, SHARED_BY_HEADS, 0, false, true, 0, 1, 128});
    test<T>(kernel, {"norm shared by heads", 4, 2, 128, 64, qwen, SHARED_BY_HEADS, 0, false, true, 0, 4, 128});
    test<T>(kernel, {"norm of each head", 4, 2, 96, 48, LAYER, EACH_HEAD, 0, false, true, 0, 2, 64});
    test<T>(kernel, {"norm with bias", 2, 2, 64, 16, LAYER, SHARED_BY_HEADS, 0, true, true, 0, 1, 64});
    test<T>(kernel, {"norm of all heads", 6, 3, 64, 32, qwen, ALL_HEADS, 0, false, true, 0, 1, 256});
    test<T>(kernel, {"layer norm of all heads, clipped", 6, 3, 64, 32, LAYER, ALL_HEADS, 0, true, true, 1.5f, 1, 512});
    test<T>(kernel, {"no rotation, clipped", 2, 1, 64, 0, 0, 0, 0, false, false, 2.5f, 1, 128});
}

int main() {
    test_all<float>(rope_f32);
    test_all<half_t>(rope_f16);
    test_all<bf16_t>(rope_bf16);
    return emulate::failures != 0;
}
