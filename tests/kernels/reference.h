// References in double precision, rounded to T where transformers stores a value in T.
#pragma once

#include <string>

#ifdef __CUDACC__
#include "on_gpu.h"
#endif

template <typename T> double stored(double x) { return to_float(from_float<T>(static_cast<float>(x))); }

template <typename T> struct TypeName;
template <> struct TypeName<float> { static constexpr const char *NAME = "f32"; };
template <> struct TypeName<half_t> { static constexpr const char *NAME = "f16"; };
template <> struct TypeName<bf16_t> { static constexpr const char *NAME = "bf16"; };

// Below what one rounding that is left out or added would change, above what f32 in place of f64 does.
template <typename T> double rounding_limit() {
    return std::is_same_v<T, float> ? 1e-6 : std::is_same_v<T, half_t> ? 7e-5 : 4e-4;
}

inline std::mt19937 numbers{7};

// Fresh normal numbers as T.
template <typename T> void fill(emulate::Buffer<T> &buffer, double deviation = 1.0, double mean = 0.0) {
    std::normal_distribution<double> normal(mean, deviation);
    for (size_t index = 0; index < buffer.count; index++) buffer[index] = from_float<T>(normal(numbers));
}

template <typename T> std::vector<double> values_of(const emulate::Buffer<T> &buffer) {
    std::vector<double> values(buffer.count);
    for (size_t index = 0; index < buffer.count; index++) values[index] = to_float(buffer[index]);
    return values;
}

template <typename T>
void check(const std::string &name, const emulate::Buffer<T> &found, const std::vector<double> &expected,
           double limit = rounding_limit<T>()) {
    const std::string line = name + "_" + TypeName<T>::NAME;
    emulate::check(line.c_str(), emulate::distance(values_of(found), expected), limit);
}
