// What the products of experts share. See experts_route.cu for how tokens are assigned to blocks.
//
// Rounding is that of transformers: gate, up, their activation and product, the expert's output and its share of it are
// rounded to T; the sum over a token's experts is in f32, in the order of slots.
#pragma once

#include "common.cuh"

#include "activation.cuh"

struct ExpertsParams {
    const void *inputs;  // gate and up: (m, k), rows gathered by token; down: (pairs, k), in the order of `pairs`
    const void *weights; // gate and up: (experts, 2·n, k); down: (experts, n, k)
    const int4 *items;
    const int *pairs;
    void *outputs;           // gate and up: (pairs, n), in the order of `pairs`; down: (m·slots, n)
    const float *shares;     // (m, slots)
    const void *shared;      // (m, n): output of the expert that every token goes through, or null
    const void *shared_gate; // (m): its gate before the sigmoid
    void *sums;              // (m, n): over a token's experts
    int n;
    int k;
    int slots;
    int activation;
    int rounds; // an expert's share of the output is rounded to T
};
static_assert(sizeof(ExpertsParams) == 96, "as in experts.rs");

constexpr int WARPS = 4; // of a block of the products below

// act(gate)·up from sums in f32, with the roundings of T.
template <typename T> INLINE T gated(float gate, float up, int activation) {
    const float active = rounded<T>(activated(rounded<T>(gate), activation));
    return from_float<T>(active * rounded<T>(up));
}
