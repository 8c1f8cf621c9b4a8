// Products of a few rows of activations with a weight matrix: every variant against sums in double precision.
#include "../../src/engine/gpu/kernels/products.cu"

struct Case {
    int m, n, k, grid, activation;
    bool gated, norm, bias, residual, unit_offset;
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
    emulate::Buffer<T> x(size_t(c.m) * c.k), w(size_t(c.n) * c.k), bias(c.n), residual(size_t(c.m) * width), scale(c.k),
        y(size_t(c.m) * width);
    fill(x, 1.5), fill(w, 1 / sqrt(c.k)), fill(bias, 1), fill(residual, 2), fill(scale, 0.3, c.unit_offset ? 0 : 1);
    ProductParams p = {x.data, w.data, c.bias ? bias.data : nullptr, c.residual ? residual.data : nullptr, scale.data,
                       y.data, c.m, c.n, c.k, 3000, c.activation, c.unit_offset, 1e-5f};
    emulate::run(name, kernel, c.grid, threads, shared, p);
    std::vector<double> found, expected;
    for (int row = 0; row < c.m; row++) {
        std::vector<double> inputs(c.k), sums(c.n);
        double squares = 0;
        for (int i = 0; i < c.k; i++) inputs[i] = to_float(x[size_t(row) * c.k + i]), squares += inputs[i] * inputs[i];
        for (int i = 0; i < c.k && c.norm; i++) {
            const double normal = inputs[i] / sqrt(squares / c.k + 1e-5), weight = to_float(scale[i]);
            inputs[i] = in_type<T>(c.unit_offset ? normal * (1 + weight) : in_type<T>(normal) * weight);
        }
        for (int j = 0; j < c.n; j++) {
            for (int i = 0; i < c.k; i++) sums[j] += inputs[i] * to_float(w[size_t(j) * c.k + i]);
            sums[j] = in_type<T>(sums[j] + (c.bias ? to_float(bias[j]) : 0));
        }
        for (int j = 0; j < width; j++) {
            const double before = c.residual && !c.gated ? to_float(residual[size_t(row) * width + j]) : 0;
            expected.push_back(c.gated ? in_type<T>(act<T>(sums[j], c.activation)) * sums[width + j] : before + sums[j]);
            found.push_back(to_float(y[size_t(row) * width + j]));
        }
    }
    char label[160];
    snprintf(label, sizeof(label), "%s %d×%d×%d%s%s", name, c.m, c.n, c.k, c.bias ? " bias" : "", c.residual ? " residual" : "");
    emulate::check(label, emulate::distance(found, expected), limit);
}

// Shared memory of a variant; mirrors the launcher.
static int shared_bytes(int warps, int columns, int r, int depth, bool ring, bool norm, int m, int k) {
    const int c = (columns + 7) / 8, sums = columns < 8 ? r : 2 * r * c;
    const int buffers = r * c > 2 ? 1 : 2;
    return (ring ? warps * depth * r * 2048 : 0) + buffers * warps * sums * 256 +
           (norm ? columns * warps * 4 + m * (k + 32) * 2 : 0);
}

#define TEST(...) TEST_VARIANT(__VA_ARGS__)
#define TEST_VARIANT(variant, warps, columns, r, depth, ring, ...)                                                            \
    do {                                                                                                               \
        const Case a = __VA_ARGS__;                                                                                    \
        const int shared = shared_bytes(warps, columns, r, depth, ring, a.norm, a.m, a.k);                             \
        test<bf16_t>(#variant "_bf16", variant##_bf16, 32 * warps, shared, 5e-3, a);                                   \
        test<half_t>(#variant "_f16", variant##_f16, 32 * warps, shared, 1e-3, a);                                     \
    } while (0)

#define M2 8, 2, 1, 2, false
#define M4 8, 4, 1, 4, false
#define M8 8, 8, 1, 4, true
#define M16 8, 16, 2, 2, true
#define M32 4, 32, 2, 2, true

template <typename Run> static void test_small(const Run &run) {
    // m, n, k, grid, activation, gated, norm, bias, residual, unit_offset
    run(0, Case{1, 48, 1024, 2, 0, false, false, false, false, false});
    run(0, Case{4, 64, 4096, 3, 0, false, false, true, true, false});
    run(0, Case{3, 37, 200, 2, 0, false, false, true, false, false});
    run(0, Case{2, 9, 8, 1, 0, false, false, false, true, false});
    run(0, Case{2, 33, 3080, 1, 0, false, false, false, true, false});
    for (int activation = 0; activation < 5; activation++) {
        run(1, Case{1 + activation % 4, 96, 520, 4, activation, true, false, activation == 1, false, false});
    }
    run(1, Case{4, 44, 2048, 1, 0, true, false, false, false, false});
    run(2, Case{1, 40, 2048, 2, 0, false, true, false, false, false});
    run(2, Case{4, 40, 4096, 2, 0, false, true, true, false, false});
    run(2, Case{3, 16, 72, 1, 0, false, true, true, true, true});
    run(3, Case{4, 80, 2048, 2, 0, true, true, false, false, false});
    run(3, Case{2, 20, 328, 2, 2, true, true, false, false, true});
}

int main() {
    test_small([](int form, Case c) {
        c.m = (c.m + 1) / 2;
        if (form == 0) TEST(product_m2, M2, c);
        if (form == 1) TEST(product_gated_m2, M2, c);
    });
    test_small([](int form, Case c) {
        if (form == 0) TEST(product_m4, M4, c);
        if (form == 1) TEST(product_gated_m4, M4, c);
        if (form == 2) TEST(product_norm_m4, M4, c);
        if (form == 3) TEST(product_gated_norm_m4, M4, c);
    });
    test_small([](int form, Case c) {
        c.m = c.m * 2 - c.bias;
        if (form == 0) TEST(product_m8, M8, c);
        if (form == 1) TEST(product_gated_m8, M8, c);
        if (form == 2) TEST(product_norm_m8, M8, c);
        if (form == 3) TEST(product_gated_norm_m8, M8, c);
    });
    TEST(product_m16, M16, {16, 96, 2048, 2, 0, false, false, false, true, false});
    TEST(product_m16, M16, {11, 45, 600, 1, 0, false, false, true, false, false});
    TEST(product_gated_m16, M16, {13, 90, 1024, 2, 0, true, false, false, false, false});
    TEST(product_m32, M32, {32, 160, 1024, 2, 0, false, false, true, true, false});
    TEST(product_m32, M32, {19, 77, 328, 1, 0, false, false, false, false, false});
    TEST(product_gated_m32, M32, {27, 100, 512, 2, 0, true, false, false, false, false});
    test<float>("product_f32", product_f32, 256, 0, 1e-5, {1, 37, 132, 2, 0, false, false, true, true, false});
    test<float>("product_f32", product_f32, 256, 0, 1e-5, {13, 24, 512, 2, 0, false, false, false, false, false});
    test<float>("product_gated_f32", product_gated_f32, 256, 0, 1e-5, {9, 34, 260, 2, 0, true, false, true, false, false});
    test<float>("product_norm_f32", product_norm_f32, 256, 0, 1e-5, {16, 34, 260, 1, 0, false, true, true, true, true});
    test<float>("product_gated_norm_f32", product_gated_norm_f32, 256, 0, 1e-5,
                {3, 34, 260, 1, 1, true, true, false, false, false});
    return emulate::failures != 0;
}
