#include "../../src/engine/gpu/kernels/calibrate.cu"

#include "reference.h"

// A single thread folds all words: what it is told never to find shows that it has read each one once.
int main() {
    for (int count : {1, 7, 8, 9, 100}) {
        emulate::Buffer<unsigned> words(4 * count), found(1);
        unsigned expected = 0;
        for (int at = 0; at < 4 * count; at++) expected ^= words[at] = numbers();
        for (bool asked : {true, false}) {
            found[0] = ~expected;
            const ReadParams params{reinterpret_cast<const uint4 *>(words.data), found.data, count,
                                    asked ? expected : expected ^ 1};
            emulate::run("calibrate_read", calibrate_read, 1, 1, 0, params);
            const bool right = found[0] == (asked ? expected : ~expected);
            emulate::check(asked ? "folds every word" : "writes nothing otherwise", right ? 0.0 : 1.0, 0.5);
        }
    }
    return emulate::failures != 0;
}
