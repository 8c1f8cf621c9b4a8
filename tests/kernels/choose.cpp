#include "../../src/engine/gpu/kernels/choose.cu"

#include "reference.h"

static unsigned first_largest(const std::vector<float> &row, const std::vector<unsigned> &ends, bool without_ends) {
    unsigned best = row.size();
    for (unsigned id = 0; id < row.size(); id++) {
        if (without_ends && std::find(ends.begin(), ends.end(), id) != ends.end()) continue;
        if (row[id] == row[id] && (best == row.size() || row[id] > row[best])) best = id;
    }
    return best;
}

struct Case {
    const char *name;
    int rows, vocabulary, pitch, chunk;
    std::vector<unsigned> ends;
    bool fixed_length;
};

// Values that tie often; row 1 is not a number, row 2 starts with some that aren't, row 3 is −∞ but for an end.
template <typename T> static void test(void (*kernel)(const ChooseParams), const Case &c) {
    const int splits = (c.vocabulary + c.chunk - 1) / c.chunk, steps = 3;
    emulate::Buffer<T> logits(c.rows * c.pitch);
    emulate::Buffer<unsigned> ends(c.ends.size() + 1), counters(c.rows + 1), chosen(steps * c.rows * 2), next(c.rows);
    emulate::Buffer<unsigned long long> best(c.rows * splits * 2);
    emulate::Buffer<int> length(1), step(1);
    for (size_t i = 0; i < c.ends.size(); i++) ends[i] = c.ends[i];
    for (int i = 0; i <= c.rows; i++) counters[i] = 0;
    length[0] = 100, step[0] = 0;
    int wrong = 0;
    for (int round = 0; round < steps; round++) {
        std::vector<std::vector<float>> rows(c.rows, std::vector<float>(c.vocabulary));
        for (int row = 0; row < c.rows; row++) {
            for (int id = 0; id < c.vocabulary; id++) {
                float value = std::normal_distribution<float>(row % 2 ? -30 : 0, 1)(numbers);
                value = to_float(from_float<bf16_t>(value));
                if (row == 1 || (row == 2 && id < c.vocabulary / 2)) value = NAN;
                if (row == 3) value = -INFINITY;
                if (row == 4) value = id % 2 ? -0.0f : 0.0f;
                for (unsigned end : c.ends) value = id == static_cast<int>(end) && row != 1 ? 50 : value;
                logits[row * c.pitch + id] = from_float<T>(rows[row][id] = value);
            }
        }
        const ChooseParams p = {logits.data, ends.data, best.data, counters.data, chosen.data, next.data, length.data,
                                step.data, c.vocabulary, c.pitch, c.chunk, static_cast<int>(c.ends.size()),
                                c.fixed_length, round == 0 ? 17 : 1};
        emulate::run(c.name, kernel, dim3(splits, c.rows), CHOOSE_THREADS, 0, p);
        for (int row = 0; row < c.rows; row++) {
            const unsigned any = first_largest(rows[row], c.ends, false), inner = first_largest(rows[row], c.ends, true);
            wrong += chosen[(round * c.rows + row) * 2] != any || chosen[(round * c.rows + row) * 2 + 1] != inner;
            wrong += next[row] != (c.fixed_length ? inner : any) || counters[row] != 0;
        }
        wrong += length[0] != 117 + round || step[0] != round + 1 || counters[c.rows] != 0;
    }
    const std::string line = std::string(c.name) + "_" + TypeName<T>::NAME;
    emulate::check(line.c_str(), wrong, 1);
}

template <typename T> static void test_all(void (*kernel)(const ChooseParams)) {
    std::vector<unsigned> many;
    for (unsigned end = 0; end < 64; end++) many.push_back(end * 31 + 5);
    test<T>(kernel, {"choose", 5, 4000, 4000, 1000, {2, 1999, 3999}, false});
    test<T>(kernel, {"choose, one block a row, fixed length", 6, 3008, 3008, 3008, {7}, true});
    test<T>(kernel, {"choose, odd vocabulary", 5, 2503, 2503, 808, many, true});
    test<T>(kernel, {"choose, padded rows", 5, 2503, 2504, 512, many, false});
    test<T>(kernel, {"choose, 20 blocks a row, no ends", 1, 20000, 20000, 512, {}, false});
    test<T>(kernel, {"choose, 40 blocks a row", 1, 20000, 20000, 512, {19999}, true});
}

template <typename T> static void test_cap(void (*kernel)(const CapParams), float scale, float cap) {
    emulate::Buffer<T> logits(1003); // not whole vectors
    fill(logits, 40.0);
    std::vector<double> expected;
    for (double value : values_of(logits)) {
        value = stored<T>(value * scale);
        if (cap > 0) value = stored<T>(stored<T>(tanh(stored<T>(value * (1.0f / cap)))) * cap);
        expected.push_back(value);
    }
    emulate::run("cap", kernel, 3, 128, 0, CapParams{logits.data, 1003, scale, cap});
    check("cap", logits, expected);
}

int main() {
    test_all<float>(choose_f32);
    test_all<half_t>(choose_f16);
    test_all<bf16_t>(choose_bf16);
    for (float scale : {1.0f, 0.0625f}) {
        for (float cap : {0.0f, 30.0f}) {
            test_cap<float>(cap_f32, scale, cap);
            test_cap<half_t>(cap_f16, scale, cap);
            test_cap<bf16_t>(cap_bf16, scale, cap);
        }
    }
    return emulate::failures != 0;
}
