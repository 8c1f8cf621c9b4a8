// The emulator's interface on a GPU: the same tests, compiled by `nvcc -x cu -arch=native -I tests/kernels`.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <type_traits>
#include <vector>

#include "compare.h"

namespace emulate {

inline void require(cudaError_t result, const char *what) {
    if (result == cudaSuccess) return;
    printf("%s: %s\n", what, cudaGetErrorString(result));
    exit(1);
}

template <typename P>
void run(const char *name, void (*kernel)(const P), dim3 grid, dim3 block, size_t shared, const P &params) {
    cudaLaunchAttribute overlap = {};
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared;
    config.attrs = &overlap;
    config.numAttrs = 1;
    const auto limit = cudaFuncAttributeMaxDynamicSharedMemorySize;
    require(cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel), limit, shared), name);
    require(cudaLaunchKernelEx(&config, kernel, params), name);
    require(cudaDeviceSynchronize(), name);
}

template <typename T> struct Buffer {
    T *data;
    size_t count;
    explicit Buffer(size_t count) : count(count) {
        require(cudaMallocManaged(&data, count * sizeof(T) + GUARD), "memory");
        memset(static_cast<void *>(data), 0xff, count * sizeof(T) + GUARD);
    }
    Buffer(const Buffer &) = delete;
    ~Buffer() {
        const unsigned char *end = reinterpret_cast<unsigned char *>(data + count);
        failures += std::any_of(end, end + GUARD, [](unsigned char byte) { return byte != 0xff; });
        cudaFree(data);
    }
    T &operator[](size_t index) { return data[index]; }
    const T &operator[](size_t index) const { return data[index]; }
    static constexpr size_t GUARD = 256;
};

} // namespace emulate

#define LAUNCH(kernel, grid, block, shared, params) emulate::run(#kernel, kernel, grid, block, shared, params)
