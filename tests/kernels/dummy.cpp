#include "../../src/engine/gpu/kernels/dummy.cu"

#include "reference.h"

// src/engine/weights/dummy.rs, line by line.
static unsigned long long hash_of(unsigned long long counter) {
    unsigned long long z = counter * 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static float expected(unsigned long long stream, unsigned long long index, bool uniform) {
    const unsigned long long hash = hash_of(stream + index);
    const float deviation = 0.02f;
    if (uniform) {
        const float unit = static_cast<float>(hash >> 40) / static_cast<float>(1 << 23) - 1.0f;
        const float scaled = unit * deviation;
        return scaled * sqrtf(3.0f);
    }
    const unsigned long long lanes = 0x0000ffff0000ffffull;
    const float coefficients[] = {0.0053378213f, -0.016922573f, 0.027934048f, 0.04817026f, 1.6668354f};
    const unsigned long long pairs = (hash & lanes) + ((hash >> 16) & lanes);
    const int sum = static_cast<int>((pairs & 0xffffffffull) + (pairs >> 32));
    const float x = static_cast<float>(sum - 2 * 0xffff) / static_cast<float>(1 << 16);
    const volatile float square = x * x;
    volatile float polynomial = coefficients[0];
    for (int power = 1; power < 5; power++) {
        const volatile float product = polynomial * square;
        polynomial = product + coefficients[power];
    }
    const volatile float shaped = x * polynomial;
    return shaped * deviation;
}

template <typename T> static void test(void (*kernel)(const DummyParams), int uniform, size_t count) {
    const unsigned long long stream = 0xfffffffffffffe00ull; // the sequence passes the end of its counter
    emulate::Buffer<T> values(count);
    emulate::run("dummy", kernel, 5, 64, 0, DummyParams{values.data, stream, count, uniform});
    int wrong = 0;
    for (size_t index = 0; index < count; index++) {
        const T value = from_float<T>(expected(stream, index, uniform));
        wrong += memcmp(&values[index], &value, sizeof(T)) != 0;
    }
    const std::string line = std::string(uniform ? "uniform_" : "gaussian_") + TypeName<T>::NAME;
    emulate::check(line.c_str(), wrong, 1);
}

int main() {
    for (int uniform : {0, 1}) {
        for (size_t count : {100003, 7}) {
            test<float>(dummy_f32, uniform, count);
            test<half_t>(dummy_f16, uniform, count);
            test<bf16_t>(dummy_bf16, uniform, count);
        }
    }
    // the numbers that a test of dummy.rs expects of "a.weight" with seed 42
    unsigned long long hash = 0xcbf29ce484222325ull;
    for (const char *byte = "a.weight"; *byte; byte++) hash = (hash ^ *byte) * 0x100000001b3ull;
    emulate::Buffer<float> values(4);
    for (int uniform : {0, 1}) {
        LAUNCH(dummy_f32, 1, 32, 0, (DummyParams{values.data, hash_of(42 ^ hash), 4, uniform}));
        const float gaussian[] = {-1.0548806e-2f, 8.549305e-3f, 1.9141423e-2f, 1.712283e-2f};
        const float flat[] = {-6.9833254e-3f, 1.2300658e-2f, -6.2178634e-3f, -2.286859e-2f};
        emulate::check("as on the host", memcmp(values.data, uniform ? flat : gaussian, 16) != 0, 1);
    }
    return emulate::failures != 0;
}
