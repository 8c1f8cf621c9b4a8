#include "../../src/engine/gpu/kernels/norm.cu"

#include "reference.h"

using Values = std::vector<double>;

template <typename T> static Values reference(Values x, int norm, double eps, const Values &weight, const Values &bias) {
    double mean = 0, variance = 0;
    if ((norm & KIND) == LAYER) {
        for (double value : x) mean += value / x.size();
    }
    for (double value : x) variance += (value - mean) * (value - mean) / x.size();
    for (size_t i = 0; i < x.size(); i++) {
        x[i] = (x[i] - mean) / sqrt(variance + eps);
        if (norm & ROUND_FIRST) x[i] = stored<T>(x[i]);
        if (!weight.empty()) x[i] *= weight[i] + (norm & ONE_PLUS ? 1 : 0);
        if (!bias.empty()) x[i] += bias[i];
        x[i] = stored<T>(x[i]);
    }
    return x;
}

struct Case {
    const char *name;
    int rows, width, threads;
    int norm, part_norm;
    bool weight, bias, part1, part2, second;
    float scale;
};

template <typename T> static void test(void (*kernel)(const NormParams), const Case &c) {
    const size_t count = static_cast<size_t>(c.rows) * c.width, width = c.width;
    emulate::Buffer<T> x(count), part1(count), part2(count), x_out(count), y(count), y2(count);
    emulate::Buffer<T> weight(width), bias(width), weight2(width), bias2(width), part_weight(width);
    fill(x);
    fill(part1, 2.0, 0.5);
    fill(part2);
    for (auto *one : {&weight, &weight2, &part_weight}) fill(*one, 0.3, 1.0);
    for (auto *one : {&bias, &bias2}) fill(*one);
    NormParams p = {};
    p.x = x.data;
    if (c.part1) p.part1 = part1.data;
    if (c.part2) p.part2 = part2.data;
    if (c.weight) p.weight = weight.data, p.weight2 = weight2.data, p.part_weight = part_weight.data;
    if (c.bias) p.bias = bias.data, p.bias2 = bias2.data;
    p.x_out = x_out.data;
    p.y_out = y.data;
    if (c.second) p.y2_out = y2.data;
    p.width = c.width;
    p.norm = c.norm;
    p.part_norm = c.part_norm;
    p.eps = 1e-5f;
    p.part_eps = 1e-6f;
    p.residual_scale = c.scale;

    const Values weights = c.weight ? values_of(weight) : Values(), biases = c.bias ? values_of(bias) : Values();
    const Values weights2 = c.weight ? values_of(weight2) : Values(), biases2 = c.bias ? values_of(bias2) : Values();
    Values joined, expected, expected2;
    for (int row = 0; row < c.rows; row++) {
        auto of = [&](const emulate::Buffer<T> &buffer) {
            const Values all = values_of(buffer);
            return Values(all.begin() + row * width, all.begin() + (row + 1) * width);
        };
        Values stream = of(x), part = of(part1), other = of(part2);
        if (c.part_norm) part = reference<T>(part, c.part_norm, 1e-6, c.weight ? values_of(part_weight) : Values(), {});
        for (size_t i = 0; i < width; i++) {
            double add = c.part2 ? stored<T>(part[i] + other[i]) : part[i];
            add = stored<T>(add * c.scale);
            if (c.part1) stream[i] = stored<T>(stream[i] + add);
        }
        joined.insert(joined.end(), stream.begin(), stream.end());
        const Values first = c.norm ? reference<T>(stream, c.norm, 1e-5, weights, biases) : stream;
        expected.insert(expected.end(), first.begin(), first.end());
        const Values second = reference<T>(stream, c.norm, 1e-5, weights2, biases2);
        expected2.insert(expected2.end(), second.begin(), second.end());
    }
    emulate::run(c.name, kernel, c.rows, c.threads, 0, p);
    check(std::string(c.name) + ", stream", x_out, joined);
    check(std::string(c.name), y, expected);
    if (c.second) check(std::string(c.name) + ", second", y2, expected2);
    // over its own input, as in architectures whose stream is the norm's output
    p.x_out = nullptr;
    p.y_out = x.data;
    emulate::run(c.name, kernel, c.rows, c.threads, 0, p);
    check(std::string(c.name) + ", in place", x, expected);
}

template <typename T> static void test_all(void (*narrow)(const NormParams), void (*wide)(const NormParams)) {
    const int llama = RMS | ROUND_FIRST, gemma = RMS | ONE_PLUS;
    test<T>(narrow, {"llama", 3, 512, 128, llama, 0, true, false, false, false, false, 1});
    test<T>(narrow, {"llama, residual", 2, 1000, 256, llama, 0, true, false, true, false, false, 1});
    test<T>(wide, {"llama, wide", 2, 2568, 192, llama, 0, true, false, true, false, false, 1});
    test<T>(narrow, {"granite: scaled residual", 2, 96, 32, llama, 0, true, false, true, false, false, 0.22f});
    test<T>(narrow, {"gemma 2: part normalised", 2, 264, 64, gemma, gemma, true, false, true, false, false, 1});
    test<T>(wide, {"gemma 2: part normalised, wide", 2, 264, 32, gemma, gemma, true, false, true, false, false, 1});
    test<T>(narrow, {"layer norm, parallel, two norms", 2, 320, 96, LAYER, 0, true, true, true, true, true, 1});
    test<T>(wide, {"layer norm, parallel, wide", 2, 320, 32, LAYER, 0, true, true, true, true, true, 0.5f});
    test<T>(narrow, {"layer norm without weights", 2, 8, 32, LAYER, 0, false, false, true, false, false, 1});
    test<T>(narrow, {"no norm", 2, 64, 32, 0, 0, false, false, true, false, false, 1});
    test<T>(narrow, {"layer norm plus one", 1, 64, 32, LAYER | ONE_PLUS, 0, true, true, false, false, false, 1});
}

int main() {
    test_all<float>(norm_f32, norm_wide_f32);
    test_all<half_t>(norm_f16, norm_wide_f16);
    test_all<bf16_t>(norm_bf16, norm_wide_bf16);
    return emulate::failures != 0;
}
