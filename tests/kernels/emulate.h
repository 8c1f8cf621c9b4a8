// A GPU for tests: kernels compiled by a C++ compiler run here, one block after another, each thread of a block a fiber
// with a stack of its own.
//
// It shows wrong indices, missing barriers and wrong roundings, not speed. Threads run in a random order up to their
// next barrier or warp operation; copies to shared memory arrive at the last moment that is allowed; shared memory is
// not a number at first; a block whose threads wait for each other is reported with the places. Blocks run one after
// another, so a block must not wait for another one.
#pragma once

#include <math.h>
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <type_traits>
#include <vector>

#include "compare.h"

#undef __shared__
#define __shared__ static
#define __launch_bounds__(...)

inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;

namespace emulate {

struct Copy {
    void *to;
    const void *from;
    bool valid;
    int group;
};

struct Fiber {
    std::unique_ptr<char[]> stack;
    ucontext_t start;
    jmp_buf place;
    bool started = false, ended = false, awaited_inputs = false;
    const char *waits_for = nullptr;
    std::vector<Copy> copies;
    int group = 0;
};

// Threads that meet: the last to come lets all go on. Each hands over some bytes for the others to read.
struct Meeting {
    unsigned key = 0, expected = 0, arrived = 0, turn = 0;
    std::vector<unsigned> members;
    unsigned char bytes[2][32][32];
};

inline constexpr size_t STACK = 256 << 10, SHARED = 232 << 10;
inline std::vector<Fiber> fibers;
inline std::vector<std::vector<Meeting>> warps;
inline std::vector<Meeting> barriers;
inline unsigned current, threads;
inline jmp_buf scheduler;
inline void (*body)(const void *);
inline const void *arguments;
inline const char *kernel_name;
inline std::mt19937 order{1};
alignas(128) inline unsigned char shared_bytes[SHARED];
inline size_t shared_size;

[[noreturn]] inline void fail(const char *what) {
    printf("%s, block (%u, %u, %u), thread %u: %s\n", kernel_name, blockIdx.x, blockIdx.y, blockIdx.z, current, what);
    fflush(stdout);
    _Exit(1); // without destructors: the stack of a fiber is one of the things they free
}

inline unsigned char *dynamic_shared() {
    if (shared_size == 0) fail("uses dynamic shared memory that it was not launched with");
    return shared_bytes;
}

inline void inputs_awaited() { fibers[current].awaited_inputs = true; }

// Lets other threads run until `meeting` has taken place.
[[gnu::noinline]] inline void suspend(const char *reason) {
    Fiber &fiber = fibers[current];
    fiber.waits_for = reason;
    if (_setjmp(fiber.place) == 0) _longjmp(scheduler, 1);
}

inline void meet(Meeting &meeting, unsigned expected, const char *reason) {
    if (meeting.arrived == 0) meeting.expected = expected;
    if (meeting.expected != expected) fail("another thread expects a different number at the same barrier");
    meeting.members.push_back(current);
    meeting.arrived++;
    if (meeting.arrived < expected) return suspend(reason);
    for (unsigned member : meeting.members) fibers[member].waits_for = nullptr;
    meeting.members.clear();
    meeting.arrived = 0;
    meeting.turn++;
}

inline Meeting &meeting_of(std::vector<Meeting> &meetings, unsigned key) {
    for (Meeting &meeting : meetings)
        if (meeting.key == key) return meeting;
    if (meetings.size() == meetings.capacity()) fail("too many different lane masks or barriers");
    meetings.emplace_back().key = key;
    return meetings.back();
}

// Barrier `id` of the hardware's 16 for `count` threads.
inline void barrier(unsigned id, unsigned count) { meet(meeting_of(barriers, id), count, "a barrier of the block"); }

inline unsigned lane() { return current % 32; }

// What the lanes of `mask` handed over, by lane.
template <typename V> struct Handed {
    V values[32];
};

template <typename V> Handed<V> exchange(unsigned mask, const V &mine) {
    static_assert(sizeof(V) <= 32, "more than a meeting carries");
    if (!(mask >> lane() & 1)) fail("calls a warp operation whose mask leaves it out");
    Meeting &meeting = meeting_of(warps[current / 32], mask);
    const unsigned turn = meeting.turn % 2;
    memcpy(meeting.bytes[turn][lane()], &mine, sizeof(V));
    meet(meeting, __builtin_popcount(mask), "the other lanes of its warp");
    Handed<V> handed;
    for (int other = 0; other < 32; other++) memcpy(&handed.values[other], meeting.bytes[turn][other], sizeof(V));
    return handed;
}

template <typename V> V from_lane(unsigned mask, const V &mine, unsigned other) {
    const Handed<V> handed = exchange(mask, mine);
    if (other < 32 && !(mask >> other & 1)) fail("shuffles from a lane outside of the mask");
    return other < 32 ? handed.values[other] : mine;
}

// ---- copies ----

inline void copy_async(void *to, const void *from, bool valid) {
    if (reinterpret_cast<size_t>(to) % 16 || reinterpret_cast<size_t>(from) % 16) fail("copies to or from an address "
                                                                                       "that 16 doesn't divide");
    memset(to, 0xff, 16);
    fibers[current].copies.push_back({to, from, valid, fibers[current].group});
}

inline void copy_async_commit() { fibers[current].group++; }

inline void copy_async_wait(int pending) {
    Fiber &fiber = fibers[current];
    std::vector<Copy> left;
    for (const Copy &copy : fiber.copies) {
        if (copy.group >= fiber.group - pending)
            left.push_back(copy);
        else if (copy.valid)
            memcpy(copy.to, copy.from, 16);
        else
            memset(copy.to, 0, 16);
    }
    fiber.copies = left;
}

// ---- tensor cores ----

inline void load_matrix_x4(unsigned (&to)[4], const void *row, bool transposed) {
    const Handed<const void *> rows = exchange(~0u, row);
    for (int matrix = 0; matrix < 4; matrix++) {
        unsigned short pair[2];
        for (int i = 0; i < 2; i++) {
            const int r = lane() / 4, c = 2 * (lane() % 4) + i;
            const void *address = rows.values[8 * matrix + (transposed ? c : r)];
            if (reinterpret_cast<size_t>(address) % 16) fail("ldmatrix of an address that 16 doesn't divide");
            memcpy(&pair[i], static_cast<const unsigned short *>(address) + (transposed ? r : c), 2);
        }
        to[matrix] = pair[0] | static_cast<unsigned>(pair[1]) << 16;
    }
}

inline unsigned transposed_matrix(unsigned rows) {
    const Handed<unsigned> all = exchange(~0u, rows);
    unsigned columns = 0;
    for (int i = 0; i < 2; i++) {
        const unsigned row = 2 * (lane() % 4) + i, column = lane() / 4;
        columns |= (all.values[row * 4 + column / 2] >> 16 * (column % 2) & 0xffff) << 16 * i;
    }
    return columns;
}

template <typename T>
void mma_16816(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2], float (*to_float)(T)) {
    struct Registers {
        unsigned a[4], b[2];
    };
    const Handed<Registers> all = exchange(~0u, Registers{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}});
    auto half = [&](unsigned bits, int which) {
        const unsigned short raw = bits >> 16 * which;
        T value;
        memcpy(static_cast<void *>(&value), &raw, 2);
        return to_float(value);
    };
    for (int index = 0; index < 4; index++) {
        const int row = lane() / 4 + 8 * (index / 2), column = 2 * (lane() % 4) + index % 2;
        float sum = c[index];
        for (int k = 0; k < 16; k++) {
            const Registers &left = all.values[row % 8 * 4 + k % 8 / 2], &right = all.values[column * 4 + k % 8 / 2];
            sum += half(left.a[row / 8 + 2 * (k / 8)], k % 2) * half(right.b[k / 8], k % 2);
        }
        c[index] = sum;
    }
}

inline unsigned subtract_bf16_pair(unsigned a, unsigned b) {
    unsigned difference = 0;
    for (int which = 0; which < 2; which++) {
        float values[2];
        for (int i = 0; i < 2; i++) {
            const unsigned bits = (i ? b : a) >> 16 * which << 16;
            memcpy(&values[i], &bits, 4);
        }
        const __nv_bfloat16 rounded = __float2bfloat16_rn(values[0] - values[1]);
        unsigned short bits;
        memcpy(&bits, &rounded, 2);
        difference |= static_cast<unsigned>(bits) << 16 * which;
    }
    return difference;
}

// ---- launches ----

inline void fiber_main() {
    body(arguments);
    if (!fibers[current].awaited_inputs) fail("ends without wait_for_inputs");
    fibers[current].ended = true;
    _longjmp(scheduler, 1);
}

inline void resume(unsigned thread) {
    Fiber &fiber = fibers[thread];
    current = thread;
    threadIdx.x = thread % blockDim.x;
    threadIdx.y = thread / blockDim.x % blockDim.y;
    threadIdx.z = thread / blockDim.x / blockDim.y;
    if (_setjmp(scheduler) != 0) return;
    if (fiber.started) _longjmp(fiber.place, 1);
    fiber.started = true;
    setcontext(&fiber.start);
}

inline void run_block() {
    for (unsigned thread = 0; thread < threads; thread++) {
        Fiber &fiber = fibers[thread];
        fiber.started = fiber.ended = fiber.awaited_inputs = false;
        fiber.waits_for = nullptr;
        fiber.copies.clear();
        fiber.group = 0;
        getcontext(&fiber.start);
        fiber.start.uc_stack.ss_sp = fiber.stack.get();
        fiber.start.uc_stack.ss_size = STACK;
        makecontext(&fiber.start, fiber_main, 0);
    }
    warps.assign((threads + 31) / 32, {});
    for (auto &warp : warps) warp.reserve(64);
    barriers.clear();
    barriers.reserve(16);
    memset(shared_bytes, 0xff, shared_size);
    std::vector<unsigned> turns(threads);
    for (unsigned thread = 0; thread < threads; thread++) turns[thread] = thread;
    for (unsigned left = threads; left > 0;) {
        bool progress = false;
        std::shuffle(turns.begin(), turns.end(), order);
        for (unsigned thread : turns) {
            if (fibers[thread].ended || fibers[thread].waits_for) continue;
            resume(thread);
            left -= fibers[thread].ended;
            progress = true;
        }
        if (progress) continue;
        for (unsigned thread : turns)
            if (!fibers[thread].ended) printf("thread %u waits for %s\n", thread, fibers[thread].waits_for);
        fail("deadlock");
    }
}

// Runs kernel(params) and checks that each thread awaited its inputs.
template <typename P>
void run(const char *name, void (*kernel)(const P), dim3 grid, dim3 block, size_t shared, const P &params) {
    static void (*chosen)(const P);
    chosen = kernel;
    kernel_name = name;
    body = [](const void *params) { chosen(*static_cast<const P *>(params)); };
    arguments = &params;
    gridDim = grid;
    blockDim = block;
    threads = block.x * block.y * block.z;
    shared_size = shared;
    if (threads == 0 || threads > 1024 || shared > SHARED) fail("a launch that the hardware refuses");
    while (fibers.size() < threads) fibers.emplace_back().stack.reset(new char[STACK]);
    std::vector<unsigned> blocks(grid.x * grid.y * grid.z);
    for (unsigned index = 0; index < blocks.size(); index++) blocks[index] = index;
    std::shuffle(blocks.begin(), blocks.end(), order);
    for (unsigned index : blocks) {
        blockIdx.x = index % grid.x;
        blockIdx.y = index / grid.x % grid.y;
        blockIdx.z = index / grid.x / grid.y;
        run_block();
    }
}

// Memory as the kernel sees it: aligned, filled with 0xff (not a number) at first, ending where it should.
template <typename T> struct Buffer {
    T *data;
    size_t count;
    explicit Buffer(size_t count) : count(count) {
        data = static_cast<T *>(aligned_alloc(256, (count * sizeof(T) + GUARD + 255) / 256 * 256));
        memset(static_cast<void *>(data), 0xff, count * sizeof(T) + GUARD);
    }
    Buffer(const Buffer &) = delete;
    ~Buffer() {
        const unsigned char *end = reinterpret_cast<unsigned char *>(data + count);
        for (size_t byte = 0; byte < GUARD; byte++) {
            if (end[byte] != 0xff) fail("a kernel wrote past the end of a buffer");
        }
        free(data);
    }
    T &operator[](size_t index) { return data[index]; }
    const T &operator[](size_t index) const { return data[index]; }
    static constexpr size_t GUARD = 256;
};

} // namespace emulate

// Runs a kernel: LAUNCH(name_bf16, dim3(x, y, z), threads, bytes of dynamic shared memory, params).
#define LAUNCH(kernel, grid, block, shared, params) emulate::run(#kernel, kernel, grid, block, shared, params)

// ---- the device's functions ----

inline void __syncthreads() { emulate::barrier(0, emulate::threads); }
inline void __syncwarp(unsigned mask = ~0u) { emulate::exchange(mask, 0); }
inline void __threadfence() {}
inline void __threadfence_block() {}

template <typename V> V __shfl_sync(unsigned mask, V x, int lane, int width = 32) {
    return emulate::from_lane(mask, x, (emulate::lane() & ~(width - 1)) + (lane & (width - 1)));
}
template <typename V> V __shfl_xor_sync(unsigned mask, V x, int bits, int width = 32) {
    const unsigned other = emulate::lane() ^ bits;
    return emulate::from_lane(mask, x, other / width <= emulate::lane() / width ? other : 32);
}
template <typename V> V __shfl_down_sync(unsigned mask, V x, unsigned by, int width = 32) {
    const unsigned other = emulate::lane() + by;
    return emulate::from_lane(mask, x, other / width == emulate::lane() / width ? other : 32);
}
template <typename V> V __shfl_up_sync(unsigned mask, V x, unsigned by, int width = 32) {
    const unsigned lane = emulate::lane();
    return emulate::from_lane(mask, x, lane % width >= by ? lane - by : 32);
}
inline unsigned __ballot_sync(unsigned mask, int condition) {
    const auto all = emulate::exchange(mask, condition);
    unsigned bits = 0;
    for (int lane = 0; lane < 32; lane++)
        if (mask >> lane & 1 && all.values[lane]) bits |= 1u << lane;
    return bits;
}
inline int __any_sync(unsigned mask, int condition) { return __ballot_sync(mask, condition) != 0; }
inline int __all_sync(unsigned mask, int condition) { return __ballot_sync(mask, condition) == mask; }

template <typename V> V atomicAdd(V *at, std::common_type_t<V> by) {
    static_assert(std::is_integral_v<V>, "the order of additions would change a float");
    const V before = *at;
    *at += by;
    return before;
}
template <typename V> V atomicMax(V *at, std::common_type_t<V> x) {
    const V before = *at;
    *at = std::max(before, x);
    return before;
}
template <typename V> V atomicExch(V *at, std::common_type_t<V> x) {
    const V before = *at;
    *at = x;
    return before;
}

inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __expf(float x) { return expf(x); }
template <typename V> V __ldg(const V *from) { return *from; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
template <typename To, typename From> To emulate_cast(From x) {
    To to;
    memcpy(&to, &x, sizeof(to));
    return to;
}
inline unsigned __float_as_uint(float x) { return emulate_cast<unsigned>(x); }
inline int __float_as_int(float x) { return emulate_cast<int>(x); }
inline float __uint_as_float(unsigned x) { return emulate_cast<float>(x); }
inline float __int_as_float(int x) { return emulate_cast<float>(x); }
