// Shared by all kernels: number types, 16-byte accesses, dependent launches, reductions and tensor-core instructions.
//
// Compiles by nvcc, and by a plain C++ compiler, for which tests/kernels/emulate.h stands in for the GPU. All inline PTX
// is in this file, in functions that the emulator has twins of.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#if !defined(__CUDACC__)
#include "emulate.h"
#endif

#define INLINE static __device__ __forceinline__
#define INLINE_ANYWHERE __host__ __device__ __forceinline__

// Dynamic shared memory of the block as a pointer, aligned to 128 bytes.
#ifdef __CUDACC__
extern __shared__ __align__(128) unsigned char dynamic_shared_bytes[];
#define DYNAMIC_SHARED(type, name) type *const name = reinterpret_cast<type *>(dynamic_shared_bytes)
#else
#define DYNAMIC_SHARED(type, name) type *const name = reinterpret_cast<type *>(emulate::dynamic_shared())
#endif

using half_t = __half;
using bf16_t = __nv_bfloat16;

constexpr int WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;

// ---- numbers ----

INLINE_ANYWHERE float to_float(float x) { return x; }
INLINE_ANYWHERE float to_float(half_t x) { return __half2float(x); }
INLINE_ANYWHERE float to_float(bf16_t x) { return __bfloat162float(x); }

template <typename T> INLINE_ANYWHERE T from_float(float x);
template <> __host__ __device__ __forceinline__ float from_float<float>(float x) { return x; }
template <> __host__ __device__ __forceinline__ half_t from_float<half_t>(float x) { return __float2half_rn(x); }
template <> __host__ __device__ __forceinline__ bf16_t from_float<bf16_t>(float x) { return __float2bfloat16_rn(x); }

// The value after it has been stored as a T.
template <typename T> INLINE_ANYWHERE float rounded(float x) { return to_float(from_float<T>(x)); }

// Two neighbouring values in one register, the first in the lower half.
template <typename T> INLINE unsigned pack(T low, T high) {
    static_assert(sizeof(T) == 2, "two values in 32 bits");
    union { T values[2]; unsigned bits; } both = {{low, high}};
    return both.bits;
}

// The same bits, but the compiler does not know them: for a constant that is to stay in a register. Whole warps call it.
INLINE unsigned opaque(unsigned bits) {
#ifdef __CUDACC__
    unsigned active;
    asm volatile("activemask.b32 %0;" : "=r"(active));
    return bits & active;
#else
    return bits;
#endif
}

// a − b for both of a pair in bf16.
INLINE unsigned subtract_bf16_pair(unsigned a, unsigned b) {
#ifdef __CUDACC__
    unsigned difference;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(difference) : "r"(b), "r"(0xbf80bf80u), "r"(a));
    return difference;
#else
    return emulate::subtract_bf16_pair(a, b);
#endif
}

// ---- 16-byte accesses ----

// 16 bytes of a row: 8 values in half precision, 4 in f32.
template <typename T> struct alignas(16) Vector {
    static constexpr int COUNT = 16 / sizeof(T);
    T values[COUNT];
    __device__ __forceinline__ T &operator[](int index) { return values[index]; }
    __device__ __forceinline__ const T &operator[](int index) const { return values[index]; }
};

template <typename T> INLINE Vector<T> as_vector(uint4 bits) {
    union { uint4 bits; Vector<T> vector; } both = {bits};
    return both.vector;
}

template <typename T> INLINE uint4 as_bits(const Vector<T> &vector) {
    const uint4 *bits = reinterpret_cast<const uint4 *>(&vector);
    return *bits;
}

template <typename T> INLINE Vector<T> load16(const T *from) {
    return as_vector<T>(*reinterpret_cast<const uint4 *>(from));
}

// For what is constant while the kernel runs and read once, such as weights: leaves the L1 cache alone.
// PREFETCH: bytes that the L2 cache fetches from memory with it, 0 (what is asked for), 128 or 256.
template <int PREFETCH = 0> INLINE uint4 load16_streaming_bits(const void *from) {
#ifdef __CUDACC__
#define LOAD_STREAMING(ahead)                                                                                          \
    asm volatile("ld.global.nc.L1::no_allocate" ahead ".v4.u32 {%0, %1, %2, %3}, [%4];"                               \
                 : "=r"(bits.x), "=r"(bits.y), "=r"(bits.z), "=r"(bits.w)                                              \
                 : "l"(from))
    uint4 bits;
    if constexpr (PREFETCH == 256) LOAD_STREAMING(".L2::256B");
    else if constexpr (PREFETCH == 128) LOAD_STREAMING(".L2::128B");
    else LOAD_STREAMING("");
#undef LOAD_STREAMING
    return bits;
#else
    return *reinterpret_cast<const uint4 *>(from);
#endif
}

template <typename T> INLINE Vector<T> load16_streaming(const T *from) {
    return as_vector<T>(load16_streaming_bits(from));
}

template <typename T> INLINE void store16(T *to, const Vector<T> &vector) {
    *reinterpret_cast<uint4 *>(to) = as_bits(vector);
}

// Brings the cache line of an address in global memory to the L2 cache.
INLINE void prefetch_l2(const void *address) {
#ifdef __CUDACC__
    asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
#else
    (void)address;
#endif
}

// Reads past the L1 cache, for what another block of the same kernel wrote before a __threadfence.
INLINE int load_volatile(const int *from) { return *reinterpret_cast<const volatile int *>(from); }

// ---- dependent launches ----

// Blocks until all earlier kernels have ended. Every thread calls it once on every path, before it reads what an
// earlier kernel wrote and before it writes anything; loads of weights may come first.
INLINE void wait_for_inputs() {
#ifdef __CUDACC__
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
#else
    emulate::inputs_awaited();
#endif
}

// Allows the next kernel to start up to its wait_for_inputs.
INLINE void let_next_start() {
#if defined(__CUDACC__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// ---- reductions, the result in every lane or thread ----

template <int LANES = WARP> INLINE float warp_sum(float x) {
#pragma unroll
    for (int step = LANES / 2; step > 0; step /= 2) x += __shfl_xor_sync(ALL_LANES, x, step);
    return x;
}

template <int LANES = WARP> INLINE float warp_max(float x) {
#pragma unroll
    for (int step = LANES / 2; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, step));
    return x;
}

// Over the whole block, whose threads are whole warps. `scratch` is 32 floats of shared memory that nothing else uses
// until the block's next barrier after this call.
INLINE float block_sum(float x, float *scratch) {
    const int warps = blockDim.x / WARP, lane = threadIdx.x % WARP;
    x = warp_sum(x);
    if (warps == 1) return x;
    if (lane == 0) scratch[threadIdx.x / WARP] = x;
    __syncthreads();
    return warp_sum(lane < warps ? scratch[lane] : 0.0f);
}

INLINE float block_max(float x, float *scratch) {
    const int warps = blockDim.x / WARP, lane = threadIdx.x % WARP;
    x = warp_max(x);
    if (warps == 1) return x;
    if (lane == 0) scratch[threadIdx.x / WARP] = x;
    __syncthreads();
    return warp_max(lane < warps ? scratch[lane] : scratch[0]);
}

INLINE unsigned warp_max_bits(unsigned x) {
#ifdef __CUDACC__
    return __reduce_max_sync(ALL_LANES, x);
#else
    for (int step = WARP / 2; step > 0; step /= 2) {
        const unsigned other = __shfl_xor_sync(ALL_LANES, x, step);
        x = x > other ? x : other;
    }
    return x;
#endif
}

INLINE unsigned warp_min_bits(unsigned x) { return ~warp_max_bits(~x); }

// The lanes that hold the same value as this one.
INLINE unsigned lanes_with_same(int x) {
#ifdef __CUDACC__
    return __match_any_sync(ALL_LANES, x);
#else
    unsigned same = 0;
    for (int lane = 0; lane < WARP; lane++) same |= (__shfl_sync(ALL_LANES, x, lane) == x ? 1u : 0u) << lane;
    return same;
#endif
}

// ---- asynchronous copies of 16 bytes from global to shared memory ----

INLINE unsigned shared_address(const void *pointer) {
#ifdef __CUDACC__
    return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
#else
    (void)pointer;
    return 0;
#endif
}

// Past the L1 cache; zeros if `valid` is false, and then `from` is not read. PREFETCH as for load16_streaming_bits.
template <int PREFETCH = 0> INLINE void copy_async(void *to, const void *from, bool valid = true) {
#ifdef __CUDACC__
#define COPY_ASYNC(ahead)                                                                                              \
    asm volatile("cp.async.cg.shared.global" ahead " [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),        \
                 "r"(bytes)                                                                                            \
                 : "memory")
    const int bytes = valid ? 16 : 0;
    if constexpr (PREFETCH == 256) COPY_ASYNC(".L2::256B");
    else if constexpr (PREFETCH == 128) COPY_ASYNC(".L2::128B");
    else COPY_ASYNC("");
#undef COPY_ASYNC
#else
    emulate::copy_async(to, from, valid);
#endif
}

// Closes the group of the copies since the last call.
INLINE void copy_async_commit() {
#ifdef __CUDACC__
    asm volatile("cp.async.commit_group;" ::: "memory");
#else
    emulate::copy_async_commit();
#endif
}

// Waits until at most the PENDING newest groups of this thread are under way. Others see the data after a barrier.
template <int PENDING> INLINE void copy_async_wait() {
#ifdef __CUDACC__
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#else
    emulate::copy_async_wait(PENDING);
#endif
}

// ---- tensor cores ----

// Four 8×8 matrices of 16-bit values. Lane l gives the address of row l % 8 of matrix l / 8 (16 bytes) and gets of
// each matrix the values 2 · (l % 4) and the next of row l / 4: the A operand of mma_16816 if the matrices are those of
// rows 0–7 and 8–15 of columns 0–7, then of columns 8–15.
INLINE void load_matrix_x4(unsigned (&to)[4], const void *row) {
#ifdef __CUDACC__
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
#else
    emulate::load_matrix_x4(to, row, false);
#endif
}

// The same with each matrix transposed.
INLINE void load_matrix_x4_trans(unsigned (&to)[4], const void *row) {
#ifdef __CUDACC__
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
#else
    emulate::load_matrix_x4(to, row, true);
#endif
}

// c (16×8, f32) += a (16×16) · b (16×8). With g = lane / 4 and t = 2 · (lane % 4), registers hold
// a: (g, t…), (g + 8, t…), (g, t + 8…), (g + 8, t + 8…); b: rows t… and t + 8… of column g;
// c: (g, t), (g, t + 1), (g + 8, t), (g + 8, t + 1).
template <typename T> INLINE void mma_16816(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]);

#ifdef __CUDACC__
#define MMA_16816(type, name)                                                                                          \
    template <>                                                                                                        \
    __device__ __forceinline__ void mma_16816<type>(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {   \
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." name "." name ".f32 {%0, %1, %2, %3}, "                  \
                     "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                                                   \
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                                  \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                              \
    }
#else
#define MMA_16816(type, name)                                                                                          \
    template <> inline void mma_16816<type>(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {           \
        emulate::mma_16816<type>(c, a, b, to_float);                                                                   \
    }
#endif
MMA_16816(half_t, "f16")
MMA_16816(bf16_t, "bf16")
#undef MMA_16816

// c + the products of four signed bytes.
INLINE int dot_bytes(int a, int b, int c) {
#ifdef __CUDACC__
    return __dp4a(a, b, c);
#else
    for (int shift = 0; shift < 32; shift += 8) {
        c += static_cast<signed char>(a >> shift) * static_cast<signed char>(b >> shift);
    }
    return c;
#endif
}

// An 8×8 matrix of 16-bit values in the lanes' registers, transposed: lane l gives the values 2 · (l % 4) and the next of
// row l / 4, and gets those of column l / 4.
INLINE unsigned transposed_matrix(unsigned rows) {
#ifdef __CUDACC__
    unsigned columns;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(columns) : "r"(rows));
    return columns;
#else
    return emulate::transposed_matrix(rows);
#endif
}

// The lower halves of two registers, or the upper ones.
INLINE unsigned lower_halves(unsigned first, unsigned second) {
#ifdef __CUDACC__
    return __byte_perm(first, second, 0x5410);
#else
    return (first & 0xffff) | second << 16;
#endif
}

INLINE unsigned upper_halves(unsigned first, unsigned second) {
#ifdef __CUDACC__
    return __byte_perm(first, second, 0x7632);
#else
    return first >> 16 | (second & 0xffff0000);
#endif
}

// ---- for attention ----

constexpr float LOG2_E = 1.4426950408889634f;

// A product q · k as the softmax takes it, rounded where transformers' eager attention rounds; softcap 0 is none.
template <typename T> INLINE float attention_score(float product, float scale, float softcap) {
    const float s = rounded<T>(rounded<T>(product) * scale);
    return softcap > 0.0f ? rounded<T>(rounded<T>(tanhf(rounded<T>(s / softcap))) * softcap) : s;
}

// 2 to the x, to 2 units in the last place; 0 for −∞.
INLINE float power_of_two(float x) {
#ifdef __CUDACC__
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return exp2f(x);
#endif
}

// Past the L1 cache, for what another kernel or block may have written while this kernel runs.
INLINE uint4 load16_l2(const void *from) {
#ifdef __CUDACC__
    uint4 bits;
    asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(bits.x), "=r"(bits.y), "=r"(bits.z), "=r"(bits.w)
                 : "l"(from));
    return bits;
#else
    return *reinterpret_cast<const uint4 *>(from);
#endif
}

INLINE int load_l2(const int *from) {
#ifdef __CUDACC__
    int x;
    asm volatile("ld.global.cg.s32 %0, [%1];" : "=r"(x) : "l"(from));
    return x;
#else
    return *from;
#endif
}

INLINE float load_l2(const float *from) {
#ifdef __CUDACC__
    float x;
    asm volatile("ld.global.cg.f32 %0, [%1];" : "=f"(x) : "l"(from));
    return x;
#else
    return *from;
#endif
}
