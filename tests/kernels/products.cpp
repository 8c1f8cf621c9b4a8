// Products of a few rows of activations with a weight matrix: every variant against sums in double precision.
#include "../../src/engine/gpu/kernels/products.cu"

struct Case {
    int m, n, k, grid, activation;
    bool gated, bias;
};

static std::mt19937 random_numbers{7};

template <typename T> static void fill(emulate::Buffer<T> &buffer, double deviation, double mean = 0) {
    std::normal_distribution<double> normal(mean, deviation);
    for (size_t i = 0; i < buffer.count; i++) buffer[i] = from_float<T>(normal(random_numbers));
}

template <typename T> static double in_type(double x) { return rounded<T>(static_cast<float>(x)); }

template <typename T> static double act(double gate, int activation) {
    switch (activation) {
    case 0: return gate / (1 + exp(-gate));
    case 1: return gate * 0.5 * (1 + erf(gate / sqrt(2.0)));
    case 2: return gate * 0.5 * (1 + tanh(sqrt(2 / M_PI) * (gate + 0.044715 * gate * gate * gate)));
    case 3: return std::max(gate, 0.0);
    default: return pow(std::max(gate, 0.0), 2);
    }
}

template <typename T>
static void test(const char *name, void (*kernel)(const ProductParams), int threads, int shared, double limit, Case c) {
    const int width = c.gated ? c.n / 2 : c.n;
    emulate::Buffer<T> x(size_t(c.m) * c.k), w(size_t(c.n) * c.k), bias(c.n),
        y(size_t(c.m) * width);
    fill(x, 1.5), fill(w, 1 / sqrt(c.k)), fill(bias, 1);
    ProductParams p = {x.data, w.data, c.bias ? bias.data : nullptr, y.data, c.m, c.n, c.k, c.activation};
    emulate::run(name, kernel, c.grid, threads, shared, p);
    std::vector<double> found, expected;
    for (int row = 0; row < c.m; row++) {
        std::vector<double> inputs(c.k), sums(c.n);
        for (int i = 0; i < c.k; i++) inputs[i] = to_float(x[size_t(row) * c.k + i]);
        for (int j = 0; j < c.n; j++) {
            for (int i = 0; i < c.k; i++) sums[j] += inputs[i] * to_float(w[size_t(j) * c.k + i]);
            sums[j] = in_type<T>(sums[j] + (c.bias ? to_float(bias[j]) : 0));
        }
        for (int j = 0; j < width; j++) {
            expected.push_back(c.gated ? in_type<T>(act<T>(sums[j], c.activation)) * sums[width + j] : sums[j]);
            found.push_back(to_float(y[size_t(row) * width + j]));
        }
    }
    char label[160];
    snprintf(label, sizeof(label), "%s %d×%d×%d%s", name, c.m, c.n, c.k, c.bias ? " bias" : "");
    emulate::check(label, emulate::distance(found, expected), limit);
}

// Shared memory of a variant; mirrors the launcher.
static int shared_bytes(int warps, int columns, int r, int depth, bool ring) {
    const int c = (columns + 7) / 8, sums = columns < 8 ? r : 2 * r * c;
    return (ring ? warps * depth * r * 2048 : 0) + (r * c > 2 ? 1 : 2) * warps * sums * 256;
}

// Sizes with and without a rest, of rows, tiles, chunks and groups; one block and several.
#define TEST(name, warps, columns, r, depth, ring)                                                                     \
    for (const Case &size : std::vector<Case>{{columns, 80, 4096, 3, 0, false, false},                                 \
                                              {1, 48, 1024, 2, 0, false, true},                                        \
                                              {columns - columns / 3, 37, 200, 2, 0, false, true},                     \
                                              {(columns + 1) / 2, 9, 8, 1, 0, false, false},                           \
                                              {columns, 33, 3080, 1, 0, false, true}}) {                               \
        const int shared = shared_bytes(warps, columns, r, depth, ring);                                               \
        test<bf16_t>("product_" #name "_bf16", product_##name##_bf16, 32 * warps, shared, 5e-3, size);                 \
        test<half_t>("product_" #name "_f16", product_##name##_f16, 32 * warps, shared, 1e-3, size);                   \
        Case gated = size;                                                                                             \
        gated.n = 2 * size.n, gated.gated = true, gated.activation = activation++ % 5;                                 \
        test<bf16_t>("product_gated_" #name "_bf16", product_gated_##name##_bf16, 32 * warps, shared, 5e-3, gated);    \
        test<half_t>("product_gated_" #name "_f16", product_gated_##name##_f16, 32 * warps, shared, 1e-3, gated);      \
    }

int main() {
    int activation = 0;
    TEST(m2, 8, 2, 1, 4, false)
    TEST(m4, 8, 4, 1, 4, false)
    TEST(m2_long, 16, 2, 1, 2, false)
    TEST(m4_long, 16, 4, 1, 4, true)
    test<float>("product_f32", product_f32, 256, 0, 1e-5, {1, 37, 132, 2, 0, false, true});
    test<float>("product_f32", product_f32, 256, 0, 1e-5, {13, 24, 512, 2, 0, false, false});
    test<float>("product_gated_f32", product_gated_f32, 256, 0, 1e-5, {9, 34, 260, 2, 0, true, true});
    return emulate::failures != 0;
}
