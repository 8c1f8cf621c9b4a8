// Products with quantised matrices against the dequantised matrix in double precision.
#include "../../src/engine/gpu/kernels/quantised.cu"

#include "quantised_formats.h"

static std::mt19937 random_bits{11};

struct Kernels {
    void (*few)(const QuantisedParams), (*eight)(const QuantisedParams), (*sixteen)(const QuantisedParams);
    void (*to_f32)(const DequantiseParams), (*to_bf16)(const DequantiseParams), (*to_f16)(const DequantiseParams);
    int shared[3];
};

#define KERNELS(name, type)                                                                                            \
    {                                                                                                                  \
        quantised_##name##_4, quantised_##name##_8, quantised_##name##_16, dequantise_##name##_f32,                    \
            dequantise_##name##_bf16, dequantise_##name##_f16, {                                                       \
            Product<type, 1, 1>::SHARED, Product<type, 2, WIDE_ROWS<type>>::SHARED,                                  \
                Product<type, 4, WIDE_ROWS<type>>::SHARED                                                            \
        }                                                                                                              \
    }
static const Kernels KERNELS_OF[] = {KERNELS(q8_0, Q8_0), KERNELS(q4_0, Q4_0), KERNELS(q4_1, Q4_1), KERNELS(q5_0, Q5_0),
                                     KERNELS(q5_1, Q5_1), KERNELS(q2_k, Q2_K), KERNELS(q3_k, Q3_K), KERNELS(q4_k, Q4_K),
                                     KERNELS(q5_k, Q5_K), KERNELS(q6_k, Q6_K)};

static void test_product(const formats::Format &format, const Kernels &kernels, int m, int n, int k, int splits,
                         int blocks, bool bias) {
    const int groups = m <= 4 ? 1 : m <= 8 ? 2 : 4, size = m <= 4 ? 0 : m <= 8 ? 1 : 2;
    const size_t row = k / format.columns * format.bytes;
    emulate::Buffer<uint8_t> weights(n * row);
    emulate::Buffer<float> x(m * k), y(m * (n + 3)), added(n);
    emulate::Buffer<uint4> operands(k / 32 * groups * 32), unit_sums((k + 255) / 256 * groups * 32);
    formats::fill(format, weights.data, n * k / format.columns, random_bits);
    std::normal_distribution<float> normal;
    for (int i = 0; i < m * k; i++) x[i] = normal(random_bits);
    for (int i = 0; i < n; i++) added[i] = normal(random_bits);
    const QuantisedParams params = {
        x.data, weights.data, operands.data, k % 256 == 0 ? unit_sums.data : nullptr, bias ? added.data : nullptr,
        y.data, m, n, k, n + 3, groups, splits};
    LAUNCH(quantised_inputs, (k * groups + 255) / 256, 256, 0, params);
    const auto kernel = size == 0 ? kernels.few : size == 1 ? kernels.eight : kernels.sixteen;
    emulate::run(format.name, kernel, blocks, 256, kernels.shared[size], params);
    std::vector<double> found, expected;
    for (int token = 0; token < m; token++) {
        for (int r = 0; r < n; r++) {
            double sum = bias ? added[r] : 0;
            for (int i = 0; i < k; i++) {
                const uint8_t *block = weights.data + r * row + i / format.columns * format.bytes;
                sum += static_cast<double>(format.value(block, i % format.columns)) * x[token * k + i];
            }
            expected.push_back(sum);
            found.push_back(y[token * (n + 3) + r]);
        }
    }
    char name[80];
    snprintf(name, sizeof(name), "%s: %d × %d, %d rows, %d warps along k", format.name, n, k, m, splits);
    emulate::check(name, emulate::distance(found, expected), 1e-5);
}

template <typename T>
static void test_values(const formats::Format &format, void (*kernel)(const DequantiseParams), double limit) {
    const int n = 5, k = 512;
    const size_t row = k / format.columns * format.bytes;
    emulate::Buffer<uint8_t> weights(n * row);
    emulate::Buffer<T> values(n * k);
    formats::fill(format, weights.data, n * k / format.columns, random_bits);
    emulate::run(format.name, kernel, (n * k / 8 + 255) / 256, 256, 0, DequantiseParams{weights.data, values.data, n, k});
    std::vector<double> found, expected;
    for (int i = 0; i < n * k; i++) {
        expected.push_back(format.value(weights.data + i / format.columns * format.bytes, i % format.columns));
        found.push_back(to_float(values[i]));
    }
    char name[80];
    snprintf(name, sizeof(name), "%s dequantised to %d bytes", format.name, static_cast<int>(sizeof(T)));
    emulate::check(name, emulate::distance(found, expected), limit);
}

// Rows come back from f16 as they were, also those that are too large for it.
static void test_rows() {
    const int m = 3, k = 600;
    emulate::Buffer<float> x(m * k), scales(m), bias(k), back(m * (k + 1));
    emulate::Buffer<half_t> values(m * k);
    std::normal_distribution<float> normal;
    for (int i = 0; i < m * k; i++) x[i] = normal(random_bits) * (i / k == 1 ? 1e6f : 1.0f);
    for (int i = 0; i < k; i++) bias[i] = normal(random_bits);
    LAUNCH(quantised_rows, m, 256, 0, (RowsParams{x.data, values.data, scales.data, k}));
    for (int i = 0; i < m * k; i++) back[i / k * (k + 1) + i % k] = to_float(values[i]);
    LAUNCH(quantised_finish, m, 256, 0, (FinishParams{back.data, scales.data, bias.data, k, k + 1}));
    for (int row = 0; row < m; row++) {
        std::vector<double> found, expected;
        for (int i = 0; i < k; i++) {
            expected.push_back(x[row * k + i] + bias[i]);
            found.push_back(back[row * (k + 1) + i]);
        }
        emulate::check("a row in f16 and back", emulate::distance(found, expected), 1e-3);
    }
}

int main() {
    test_rows();
    for (size_t i = 0; i < formats::ALL.size(); i++) {
        const formats::Format &format = formats::ALL[i];
        const Kernels &kernels = KERNELS_OF[i];
        test_product(format, kernels, 1, 40, 1024, 8, 2, false);
        test_product(format, kernels, 4, 200, 512, 1, 1, true);
        test_product(format, kernels, 7, 70, 768, 4, 2, false);
        test_product(format, kernels, 16, 33, 2816, 2, 1, true);
        // rows that begin anywhere
        if (format.columns == 32) test_product(format, kernels, 2, 50, 7 * 32, 2, 2, false);
        test_values<float>(format, kernels.to_f32, 1e-6);
        test_values<half_t>(format, kernels.to_f16, 1e-3);
        test_values<bf16_t>(format, kernels.to_bf16, 5e-3);
    }
    return emulate::failures != 0;
}
