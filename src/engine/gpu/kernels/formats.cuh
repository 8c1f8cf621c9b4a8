// The block formats of GGUF: how a lane turns its part of a block into numbers that tensor cores take.
#pragma once

#include "common.cuh"

INLINE unsigned short read_u16(const unsigned char *from) { return *reinterpret_cast<const unsigned short *>(from); }
INLINE float read_f16(const unsigned char *from) { return to_float(*reinterpret_cast<const half_t *>(from)); }

// 4 bytes at an address that ALIGNMENT divides.
template <int ALIGNMENT> INLINE unsigned read_u32(const unsigned char *from) {
    if (ALIGNMENT >= 4) return *reinterpret_cast<const unsigned *>(from);
    return read_u16(from) | static_cast<unsigned>(read_u16(from + 2)) << 16;
}

// An unsigned byte of a word as a float.
INLINE float byte_as_float(unsigned word, int index) {
    return __uint_as_float((word >> 8 * index & 0xff) | 0x4b000000) - 8388608.0f;
}

// bits | 128 in bf16 for a pair of integers below 128: 128 + the integer.
constexpr unsigned OFFSET_PAIR = 0x43004300;

// Subtracts an integer that bf16 has from a pair.
template <int BY> INLINE unsigned less(unsigned pair) {
    static_assert(BY == 128 || BY == 132 || BY == 136 || BY == 144 || BY == 160, "in the table");
    constexpr unsigned BITS = BY == 128 ? 0x4300 : BY == 132 ? 0x4304 : BY == 136 ? 0x4308 : BY == 144 ? 0x4310 : 0x4320;
    return subtract_bf16_pair(pair, BITS | BITS << 16);
}

// What a lane multiplies in 32 columns ("unit") of a row: columns 4t to 4t + 3 and 16 + 4t to 16 + 4t + 3, as pairs of
// bf16 (0, 2), (1, 3) of each four; value = scale·w − minimum, per half of the unit if HALVES is 2.
template <int HALVES> struct Unit {
    unsigned w[4];
    float scale[HALVES], minimum[HALVES];
};

// Formats: COLUMNS and BYTES of a block, CHUNK columns of a stage, what divides addresses of blocks (ALIGNMENT). With
// SIX_BITS, scales and minima are those of the block's head, and w is 128 more than the integer. `offset` is OFFSET_PAIR.

struct Q4_0 {
    static constexpr int COLUMNS = 32, BYTES = 18, CHUNK = 256, ALIGNMENT = 2, HALVES = 1;
    static constexpr bool MINIMUM = false, SIX_BITS = false;
    INLINE void unit(const unsigned char *chunk, int u, int t, unsigned offset, Unit<1> &to) {
        const unsigned char *block = chunk + u * BYTES;
        const unsigned q = read_u32<2>(block + 2 + 4 * t);
        to.scale[0] = read_f16(block);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            to.w[i] = less<136>((q >> (i / 2 * 4 + i % 2 * 8) & 0x000f000f) | offset);
        }
    }
};

struct Q4_1 {
    static constexpr int COLUMNS = 32, BYTES = 20, CHUNK = 256, ALIGNMENT = 4, HALVES = 1;
    static constexpr bool MINIMUM = true, SIX_BITS = false;
    INLINE void unit(const unsigned char *chunk, int u, int t, unsigned offset, Unit<1> &to) {
        const unsigned char *block = chunk + u * BYTES;
        const unsigned q = read_u32<4>(block + 4 + 4 * t);
        to.scale[0] = read_f16(block);
        to.minimum[0] = 128.0f * to.scale[0] - read_f16(block + 2);
#pragma unroll
        for (int i = 0; i < 4; i++) to.w[i] = (q >> (i / 2 * 4 + i % 2 * 8) & 0x000f000f) | offset;
    }
};

// The fifth bits of a pair of a lane's elements, from those of 32 columns.
INLINE unsigned fifth_bits(unsigned bits, int pair) {
    const int first = pair / 2 * 16 + pair % 2;
    return (bits >> first & 1) << 4 | (bits >> (first + 2) & 1) << 20;
}

struct Q5_0 {
    static constexpr int COLUMNS = 32, BYTES = 22, CHUNK = 256, ALIGNMENT = 2, HALVES = 1;
    static constexpr bool MINIMUM = false, SIX_BITS = false;
    INLINE void unit(const unsigned char *chunk, int u, int t, unsigned offset, Unit<1> &to) {
        const unsigned char *block = chunk + u * BYTES;
        const unsigned high = read_u32<2>(block + 2) >> 4 * t, q = read_u32<2>(block + 6 + 4 * t);
        to.scale[0] = read_f16(block);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            to.w[i] = less<144>((q >> (i / 2 * 4 + i % 2 * 8) & 0x000f000f) | fifth_bits(high, i) | offset);
        }
    }
};

struct Q5_1 {
    static constexpr int COLUMNS = 32, BYTES = 24, CHUNK = 256, ALIGNMENT = 4, HALVES = 1;
    static constexpr bool MINIMUM = true, SIX_BITS = false;
    INLINE void unit(const unsigned char *chunk, int u, int t, unsigned offset, Unit<1> &to) {
        const unsigned char *block = chunk + u * BYTES;
        const unsigned high = read_u32<4>(block + 4) >> 4 * t, q = read_u32<4>(block + 8 + 4 * t);
        to.scale[0] = read_f16(block);
        to.minimum[0] = 128.0f * to.scale[0] - read_f16(block + 2);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            to.w[i] = (q >> (i / 2 * 4 + i % 2 * 8) & 0x000f000f) | fifth_bits(high, i) | offset;
        }
    }
};

struct Q8_0 {
    static constexpr int COLUMNS = 32, BYTES = 34, CHUNK = 128, ALIGNMENT = 2, HALVES = 1;
    static constexpr bool MINIMUM = false, SIX_BITS = false;
    INLINE void unit(const unsigned char *chunk, int u, int t, unsigned offset, Unit<1> &to) {
        const unsigned char *block = chunk + u * BYTES;
        to.scale[0] = read_f16(block);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const unsigned q = read_u32<2>(block + 2 + i / 2 * 16 + 4 * t);
            // 128 + the lower 7 bits, less 128, or 256 if the sign bit is set: the sign bit is bf16's next exponent
            const unsigned pair = i % 2 ? q >> 8 : q;
            to.w[i] = subtract_bf16_pair((pair & 0x007f007f) | offset, (pair & 0x00800080) | offset);
        }
    }
};

// Scale and minimum of each of 8 sub-blocks in 6 bits, as Q4_K and Q5_K have them in the block's first 16 bytes: those of
// sub-blocks 2t and 2t + 1 in the lower two bytes.
struct SixBits {
    unsigned scales, minima;
    __device__ __forceinline__ SixBits(const unsigned char *block, int t) {
        const unsigned low = read_u32<4>(block + 4), middle = read_u32<4>(block + 8), high = read_u32<4>(block + 12);
        scales = t < 2 ? low & 0x3f3f3f3f : (high & 0x0f0f0f0f) | (low >> 2 & 0x30303030);
        minima = t < 2 ? middle & 0x3f3f3f3f : (high >> 4 & 0x0f0f0f0f) | (middle >> 2 & 0x30303030);
        scales >>= t % 2 * 16;
        minima >>= t % 2 * 16;
    }
};

// The lower two bytes as a pair in bf16.
INLINE unsigned byte_pair(unsigned bytes, unsigned offset) {
    return less<128>((bytes & 0xff) | (bytes << 8 & 0x00ff0000) | offset);
}

struct Q4_K {
    static constexpr int COLUMNS = 256, BYTES = 144, CHUNK = 256, ALIGNMENT = 16, HALVES = 1;
    static constexpr bool MINIMUM = false, SIX_BITS = true;
    INLINE void unit(const unsigned char *block, int u, int t, unsigned offset, Unit<1> &to) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const unsigned q = read_u32<4>(block + 16 + u / 2 * 32 + i / 2 * 16 + 4 * t);
            to.w[i] = (q >> (u % 2 * 4 + i % 2 * 8) & 0x000f000f) | offset;
        }
    }
};

struct Q5_K {
    static constexpr int COLUMNS = 256, BYTES = 176, CHUNK = 256, ALIGNMENT = 16, HALVES = 1;
    static constexpr bool MINIMUM = false, SIX_BITS = true;
    INLINE void unit(const unsigned char *block, int u, int t, unsigned offset, Unit<1> &to) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const unsigned high = read_u32<4>(block + 16 + i / 2 * 16 + 4 * t);
            const unsigned q = read_u32<4>(block + 48 + u / 2 * 32 + i / 2 * 16 + 4 * t);
            const int down = u + i % 2 * 8 - 4; // brings the bit to the fifth
            to.w[i] = (q >> (u % 2 * 4 + i % 2 * 8) & 0x000f000f) |
                      ((down > 0 ? high >> down : high << -down) & 0x00100010) | offset;
        }
    }
};

struct Q6_K {
    static constexpr int COLUMNS = 256, BYTES = 210, CHUNK = 256, ALIGNMENT = 2, HALVES = 2;
    static constexpr bool MINIMUM = false, SIX_BITS = false;
    INLINE void unit(const unsigned char *block, int u, int t, unsigned offset, Unit<2> &to) {
        const float d = read_f16(block + 208);
        const unsigned scales = read_u16(block + 192 + 2 * u);
        to.scale[0] = d * static_cast<signed char>(scales);
        to.scale[1] = d * static_cast<signed char>(scales >> 8);
        const unsigned char *low = block + u / 4 * 64 + u % 2 * 32 + 4 * t, *high = block + 128 + u / 4 * 32 + 4 * t;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const unsigned q = read_u32<2>(low + i / 2 * 16) >> (u % 4 / 2 * 4 + i % 2 * 8);
            const unsigned more = read_u32<2>(high + i / 2 * 16);
            const int down = u % 4 * 2 + i % 2 * 8 - 4; // brings the two bits to the fifth
            to.w[i] = less<160>((q & 0x000f000f) | ((down > 0 ? more >> down : more << -down) & 0x00300030) | offset);
        }
    }
};

struct Q2_K {
    static constexpr int COLUMNS = 256, BYTES = 84, CHUNK = 256, ALIGNMENT = 4, HALVES = 2;
    static constexpr bool MINIMUM = true, SIX_BITS = false;
    INLINE void unit(const unsigned char *block, int u, int t, unsigned offset, Unit<2> &to) {
        const float d = read_f16(block + 80), least = read_f16(block + 82);
        const unsigned scales = read_u16(block + 2 * u);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            to.scale[half] = d * byte_as_float(scales & 0x0f0f, half);
            to.minimum[half] = 128.0f * to.scale[half] + least * byte_as_float(scales >> 4 & 0x0f0f, half);
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const unsigned q = read_u32<4>(block + 16 + u / 4 * 32 + i / 2 * 16 + 4 * t);
            to.w[i] = (q >> (u % 4 * 2 + i % 2 * 8) & 0x00030003) | offset;
        }
    }
};

struct Q3_K {
    static constexpr int COLUMNS = 256, BYTES = 110, CHUNK = 256, ALIGNMENT = 2, HALVES = 2;
    static constexpr bool MINIMUM = false, SIX_BITS = false;
    INLINE void unit(const unsigned char *block, int u, int t, unsigned offset, Unit<2> &to) {
        // scale s of 16: 4 lower bits in byte s % 8, 2 upper bits in byte 8 + s % 4; less 32
        const float d = read_f16(block + 108);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int s = 2 * u + half;
            const int low = block[96 + s % 8] >> s / 8 * 4 & 15, high = block[104 + s % 4] >> s / 4 * 2 & 3;
            to.scale[half] = d * ((low | high << 4) - 32);
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const unsigned q = read_u32<2>(block + 32 + u / 4 * 32 + i / 2 * 16 + 4 * t);
            const unsigned high = read_u32<2>(block + i / 2 * 16 + 4 * t) >> (u + i % 2 * 8) & 0x00010001;
            to.w[i] = less<132>((q >> (u % 4 * 2 + i % 2 * 8) & 0x00030003) | high << 2 | offset);
        }
    }
};
