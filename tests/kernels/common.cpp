// The emulator against itself: tensor-core fragments, asynchronous copies and reductions do what the hardware does.
#include "../../src/engine/gpu/kernels/common.cuh"

#include <sys/wait.h>
#include <unistd.h>

#include "reference.h"

struct ProductParams {
    const void *a, *b;
    float *c;
};

// c (16×8) = a (16×16) · b, with b stored as (8, 16) rows of k and read transposed or not from (16, 8).
template <typename T> static __device__ void product(const ProductParams &p) {
    DYNAMIC_SHARED(T, tile);
    T *const b = tile + 16 * 16;
    wait_for_inputs();
    const int lane = threadIdx.x;
    copy_async(tile + 8 * lane, static_cast<const T *>(p.a) + 8 * lane);
    copy_async_commit();
    copy_async(b + 8 * (lane % 16), static_cast<const T *>(p.b) + 8 * (lane % 16));
    copy_async_commit();
    copy_async_wait<0>();
    __syncwarp();
    unsigned left[4], right[4];
    load_matrix_x4(left, tile + lane % 16 * 16 + lane / 16 * 8);
    load_matrix_x4_trans(right, b + lane % 16 * 8);
    float c[4] = {};
    mma_16816<T>(c, left, {right[0], right[1]});
    for (int index = 0; index < 4; index++) {
        p.c[(lane / 4 + index / 2 * 8) * 8 + lane % 4 * 2 + index % 2] = c[index];
    }
}

extern "C" __global__ void product_bf16(const ProductParams p) { product<bf16_t>(p); }
extern "C" __global__ void product_f16(const ProductParams p) { product<half_t>(p); }

struct SumParams {
    const float *x;
    float *sum, *largest;
};

extern "C" __global__ void sum(const SumParams p) {
    __shared__ float scratch[2][WARP];
    wait_for_inputs();
    const float x = p.x[blockIdx.x * blockDim.x + threadIdx.x];
    const float sum = block_sum(x, scratch[0]), largest = block_max(x, scratch[1]);
    p.sum[blockIdx.x * blockDim.x + threadIdx.x] = sum;
    if (threadIdx.x == 0) p.largest[blockIdx.x] = largest;
}

#ifndef __CUDACC__
struct BrokenParams {
    int *out;
    int fault;
};

enum Fault { NO_WAIT, ONE_THREAD_AT_A_BARRIER, WRITE_PAST_THE_END, COPY_NOT_AWAITED, NONE };

// Right but for the one fault.
extern "C" __global__ void broken(const BrokenParams p) {
    DYNAMIC_SHARED(int, shared);
    if (p.fault != NO_WAIT) wait_for_inputs();
    if (p.fault == ONE_THREAD_AT_A_BARRIER && threadIdx.x == 0) __syncthreads();
    if (threadIdx.x == 0) copy_async(shared, p.out);
    copy_async_commit();
    if (p.fault != COPY_NOT_AWAITED) copy_async_wait<0>();
    __syncthreads();
    p.out[threadIdx.x + (p.fault == WRITE_PAST_THE_END)] = shared[0];
}

// Whether a process of its own that runs the kernel ends well.
static bool runs_well(Fault fault) {
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        emulate::Buffer<int> out(64);
        for (int i = 0; i < 64; i++) out[i] = 5;
        LAUNCH(broken, 1, 64, 64, (BrokenParams{out.data, fault}));
        for (int i = 0; i < 64; i++) {
            if (out[i] != 5) _Exit(1);
        }
        out.~Buffer();
        _Exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

#endif

template <typename T> static void test_product(const char *name, void (*kernel)(const ProductParams)) {
    emulate::Buffer<T> a(256), b(128);
    emulate::Buffer<float> c(128);
    for (int i = 0; i < 256; i++) a[i] = from_float<T>(i % 23 - 11);
    for (int i = 0; i < 128; i++) b[i] = from_float<T>(i % 17 - 8);
    emulate::run(name, kernel, 1, 32, 1024, ProductParams{a.data, b.data, c.data});
    std::vector<double> found, expected;
    for (int row = 0; row < 16; row++) {
        for (int column = 0; column < 8; column++) {
            double sum = 0;
            for (int k = 0; k < 16; k++) sum += to_float(a[row * 16 + k]) * to_float(b[k * 8 + column]);
            expected.push_back(sum);
            found.push_back(c[row * 8 + column]);
        }
    }
    emulate::check(name, emulate::distance(found, expected), 1e-12);
}

int main() {
    test_product<bf16_t>("product_bf16", product_bf16);
    test_product<half_t>("product_f16", product_f16);
    for (int threads : {32, 96, 1024}) {
        emulate::Buffer<float> x(2 * threads), sums(2 * threads), largest(2);
        for (int i = 0; i < 2 * threads; i++) x[i] = (i * 37 % 101) - 120;
        LAUNCH(sum, 2, threads, 0, (SumParams{x.data, sums.data, largest.data}));
        std::vector<double> found, expected;
        for (int row = 0; row < 2; row++) {
            double sum = 0, most = -1e9;
            for (int i = 0; i < threads; i++) {
                sum += x[row * threads + i];
                most = std::max<double>(most, x[row * threads + i]);
            }
            for (int i = 0; i < threads; i++) {
                found.push_back(sums[row * threads + i]);
                expected.push_back(sum);
            }
            found.push_back(largest[row]);
            expected.push_back(most);
        }
        emulate::check("sum and maximum of a block", emulate::distance(found, expected), 1e-12);
    }
#ifndef __CUDACC__
    for (Fault fault : {NO_WAIT, ONE_THREAD_AT_A_BARRIER, WRITE_PAST_THE_END, COPY_NOT_AWAITED, NONE}) {
        emulate::check("a fault is found, and only a fault", runs_well(fault) != (fault == NONE), 1);
    }
#endif
    return emulate::failures != 0;
}
