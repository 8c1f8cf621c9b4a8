#include "../../src/engine/gpu/kernels/gate.cu"

#include "reference.h"

static double reference(double x, int activation) {
    switch (activation) {
    case SILU: return x / (1 + exp(-x));
    case GELU: return 0.5 * x * erfc(-x / sqrt(2.0));
    case GELU_TANH: return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case RELU: return std::max(x, 0.0);
    default: return std::max(x, 0.0) * std::max(x, 0.0);
    }
}

template <typename T> static void test(void (*kernel)(const GateParams)) {
    const char *const names[] = {"silu", "gelu", "gelu_tanh", "relu", "relu_squared"};
    for (int activation = SILU; activation <= RELU_SQUARED; activation++) {
        for (bool gated : {true, false}) {
            const int rows = 3, inner = 200;
            emulate::Buffer<T> x(rows * inner * (gated ? 2 : 1)), y(rows * inner);
            fill(x, 2.0);
            x[0] = from_float<T>(-60000.0f);
            x[1] = from_float<T>(200.0f);
            std::vector<double> expected;
            for (int at = 0; at < rows * inner; at++) {
                const int row = at / inner, in = gated ? row * 2 * inner + at % inner : at;
                const double value = stored<T>(reference(to_float(x[in]), activation));
                expected.push_back(gated ? stored<T>(value * to_float(x[in + inner])) : value);
            }
            if (activation == RELU_SQUARED) x[0] = x[1] = from_float<T>(0.0f), expected[0] = expected[1] = 0;
            emulate::run(names[activation], kernel, 3, 96, 0,
                         GateParams{x.data, y.data, rows * inner, inner, activation, gated});
            if (activation < RELU) { // the large values apart, so that they don't hide the others
                const double apart = std::abs(to_float(y[0])) + std::abs(to_float(y[1]) / expected[1] - 1);
                emulate::check("large values", apart, 1e-6);
                y[1] = from_float<T>(0.0f);
                expected[1] = 0;
            }
            check(std::string(names[activation]) + (gated ? ", gated" : ""), y, expected);
        }
    }
}

int main() {
    test<float>(gate_f32);
    test<half_t>(gate_f16);
    test<bf16_t>(gate_bf16);
    return emulate::failures != 0;
}
