// Bytes a second that THREADS threads read together, each from 256 MiB of its own: the best of several passes.
//     cc -O3 -march=native -pthread read_bandwidth.c -o read_bandwidth && ./read_bandwidth THREADS
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { WORDS = 32 << 20, LANES = 32, PASSES = 12 };

static pthread_barrier_t together;
static volatile uint64_t kept;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

static void *reader(void *own) {
    uint64_t *words = own;
    for (long i = 0; i < WORDS; i++) words[i] = i;
    for (int pass = 0; pass < PASSES; pass++) {
        uint64_t sums[LANES] = {0};
        pthread_barrier_wait(&together);
        for (long i = 0; i < WORDS; i += LANES)
            for (int lane = 0; lane < LANES; lane++) sums[lane] += words[i + lane];
        for (int lane = 0; lane < LANES; lane++) kept += sums[lane];
        pthread_barrier_wait(&together);
    }
    return 0;
}

int main(int count, char **arguments) {
    int threads = count > 1 ? atoi(arguments[1]) : 1;
    pthread_t started[threads];
    pthread_barrier_init(&together, 0, threads + 1);
    for (int i = 0; i < threads; i++) {
        void *own = aligned_alloc(4096, WORDS * sizeof(uint64_t));
        if (!own || pthread_create(&started[i], 0, reader, own)) return 1;
    }
    double best = 0;
    for (int pass = 0; pass < PASSES; pass++) {
        pthread_barrier_wait(&together);
        double begin = now();
        pthread_barrier_wait(&together);
        double speed = (double)threads * WORDS * sizeof(uint64_t) / (now() - begin);
        best = speed > best ? speed : best;
    }
    printf("%.0f\n", best);
    return 0;
}
