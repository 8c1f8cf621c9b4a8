// GGUF's block formats, element by element, as their description gives them: the reference for the kernels.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

namespace formats {

using Bytes = const uint8_t *;

inline float f16(Bytes from) {
    const unsigned bits = from[0] | from[1] << 8, exponent = bits >> 10 & 31, fraction = bits & 1023;
    const float size = exponent ? ldexpf(1024 + fraction, int(exponent) - 25) : ldexpf(fraction, -24);
    return bits >> 15 ? -size : size;
}

// Value i of a block.
inline float q4_0(Bytes b, int i) { return f16(b) * ((i < 16 ? b[2 + i] & 15 : b[2 + i - 16] >> 4) - 8); }
inline float q4_1(Bytes b, int i) { return f16(b) * (i < 16 ? b[4 + i] & 15 : b[4 + i - 16] >> 4) + f16(b + 2); }

inline int fifth(Bytes bits, int i) { return (bits[i / 8] >> i % 8 & 1) << 4; }
inline float q5_0(Bytes b, int i) {
    return f16(b) * (((i < 16 ? b[6 + i] & 15 : b[6 + i - 16] >> 4) | fifth(b + 2, i)) - 16);
}
inline float q5_1(Bytes b, int i) {
    return f16(b) * ((i < 16 ? b[8 + i] & 15 : b[8 + i - 16] >> 4) | fifth(b + 4, i)) + f16(b + 2);
}
inline float q8_0(Bytes b, int i) { return f16(b) * static_cast<int8_t>(b[2 + i]); }

inline float q2_k(Bytes b, int i) {
    const int q = b[16 + i / 128 * 32 + i % 32] >> i % 128 / 32 * 2 & 3, scale = b[i / 16];
    return f16(b + 80) * (scale & 15) * q - f16(b + 82) * (scale >> 4);
}
inline float q3_k(Bytes b, int i) {
    const int s = i / 16, high = b[i % 32] >> i / 32 & 1;
    const int q = (b[32 + i / 128 * 32 + i % 32] >> i % 128 / 32 * 2 & 3) - (high ? 0 : 4);
    const int scale = (s < 8 ? b[96 + s] & 15 : b[96 + s - 8] >> 4) | (b[104 + s % 4] >> s / 4 * 2 & 3) << 4;
    return f16(b + 108) * (scale - 32) * q;
}

inline int six_bits(Bytes scales, int s, bool minimum) {
    Bytes q = scales + (minimum ? 4 : 0);
    if (s < 4) return q[s] & 63;
    const int low = minimum ? scales[s + 4] >> 4 : scales[s + 4] & 15;
    return low | q[s - 4] >> 6 << 4;
}
inline float q4_k(Bytes b, int i) {
    const int s = i / 32, byte = b[16 + i / 64 * 32 + i % 32], q = s % 2 ? byte >> 4 : byte & 15;
    return f16(b) * six_bits(b + 4, s, false) * q - f16(b + 2) * six_bits(b + 4, s, true);
}
inline float q5_k(Bytes b, int i) {
    const int s = i / 32, byte = b[48 + i / 64 * 32 + i % 32];
    const int q = (s % 2 ? byte >> 4 : byte & 15) | (b[16 + i % 32] >> s & 1) << 4;
    return f16(b) * six_bits(b + 4, s, false) * q - f16(b + 2) * six_bits(b + 4, s, true);
}
inline float q6_k(Bytes b, int i) {
    const int n = i / 128, l = i % 32, part = i % 128 / 32;
    const int byte = b[n * 64 + l + part % 2 * 32], low = part < 2 ? byte & 15 : byte >> 4;
    const int q = (low | (b[128 + n * 32 + l] >> 2 * part & 3) << 4) - 32;
    return f16(b + 208) * static_cast<int8_t>(b[192 + i / 16]) * q;
}

struct Format {
    const char *name;
    int columns, bytes;
    float (*value)(Bytes, int);
    std::vector<int> halves; // where numbers in f16 are
};

inline const std::vector<Format> ALL = {
    {"q8_0", 32, 34, q8_0, {0}},       {"q4_0", 32, 18, q4_0, {0}},          {"q4_1", 32, 20, q4_1, {0, 2}},
    {"q5_0", 32, 22, q5_0, {0}},       {"q5_1", 32, 24, q5_1, {0, 2}},       {"q2_k", 256, 84, q2_k, {80, 82}},
    {"q3_k", 256, 110, q3_k, {108}},   {"q4_k", 256, 144, q4_k, {0, 2}},     {"q5_k", 256, 176, q5_k, {0, 2}},
    {"q6_k", 256, 210, q6_k, {208}},
};

// Random blocks: any integers, scales between 2⁻⁸ and 2⁻⁶ in size.
inline void fill(const Format &format, uint8_t *to, size_t blocks, std::mt19937 &random) {
    for (size_t i = 0; i < blocks * format.bytes; i++) to[i] = random() >> 8;
    for (size_t block = 0; block < blocks; block++) {
        for (int at : format.halves) {
            uint8_t *half = to + block * format.bytes + at;
            half[1] = (half[1] & 0x83) | (7 + half[1] / 4 % 2) << 2;
        }
    }
}

} // namespace formats
