// How tests compare a kernel's output with a reference.
#pragma once

#include <cmath>
#include <cstdio>
#include <vector>

namespace emulate {

inline int failures = 0;

// Prints a line, and counts what is wrong.
inline void check(const char *name, double found, double limit) {
    const bool good = found < limit; // also false for what is not a number
    printf("%-60s %.3g < %.3g%s\n", name, found, limit, good ? "" : "  WRONG");
    failures += !good;
}

// ‖found − expected‖ / ‖expected‖.
inline double distance(const std::vector<double> &found, const std::vector<double> &expected) {
    double apart = 0, whole = 0;
    for (size_t index = 0; index < expected.size(); index++) {
        apart += (found[index] - expected[index]) * (found[index] - expected[index]);
        whole += expected[index] * expected[index];
    }
    return sqrt(apart / (whole > 0 ? whole : 1));
}

} // namespace emulate
