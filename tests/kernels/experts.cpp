// Mixtures of experts against a reference in double precision, with the roundings that transformers has.
#include "../../src/engine/gpu/kernels/experts_decode.cu"
#include "../../src/engine/gpu/kernels/experts_prefill.cu"
#include "../../src/engine/gpu/kernels/experts_route.cu"

static std::mt19937 random_bits{7};

static float normal() { return std::normal_distribution<float>()(random_bits); }

template <typename T> static void fill(emulate::Buffer<T> &buffer, float scale) {
    for (size_t i = 0; i < buffer.count; i++) buffer[i] = from_float<T>(scale * normal());
}

template <typename T> struct Names;
#define NAMES(type, suffix, limit)                                                                                     \
    template <> struct Names<type> {                                                                                   \
        static constexpr const char *NAME = #suffix;                                                                   \
        static constexpr double LIMIT = limit;                                                                         \
        static constexpr auto ROUTE = experts_route_##suffix, COMBINE = experts_combine_##suffix;                      \
        static constexpr void (*GATE_UP[3])(const ExpertsParams) = {                                                   \
            experts_gate_up_##suffix##_1, experts_gate_up_##suffix##_2, experts_gate_up_##suffix##_4};                 \
        static constexpr void (*DOWN[3])(const ExpertsParams) = {                                                      \
            experts_down_##suffix##_1, experts_down_##suffix##_2, experts_down_##suffix##_4};                          \
    };
NAMES(float, f32, 1e-5)
NAMES(half_t, f16, 1e-3)
NAMES(bf16_t, bf16, 5e-3)

// The kernels for many pairs an item.
template <typename T> static void run_tiles(dim3, dim3, const ExpertsParams &, const ExpertsParams &) {}
#define TILED(type, suffix)                                                                                            \
    template <> void run_tiles<type>(dim3 up_grid, dim3 down_grid, const ExpertsParams &up, const ExpertsParams &down) { \
        const int shared = Tile<type, true>::STAGES * Tile<type, true>::STAGE;                                         \
        LAUNCH(experts_gate_up_##suffix##_128, up_grid, 128, shared, up);                                              \
        LAUNCH(experts_down_##suffix##_128, down_grid, 128, shared, down);                                             \
    }
TILED(half_t, f16)
TILED(bf16_t, bf16)

struct Shape {
    int m, experts, slots, hidden, inner, tile;
    bool normalise, shared, route_apart;
    int along; // 2^along warps share rows
};

// A token's experts with their shares, most probable first.
template <typename T>
static std::vector<std::pair<int, double>> chosen_by(const emulate::Buffer<T> &logits, int token, const Shape &s) {
    std::vector<std::pair<int, double>> all;
    double sum = 0;
    for (int e = 0; e < s.experts; e++) {
        all.push_back({e, exp(static_cast<double>(to_float(logits[token * s.experts + e])))});
        sum += all[e].second;
    }
    std::stable_sort(all.begin(), all.end(), [](auto a, auto b) { return a.second > b.second; });
    all.resize(s.slots);
    double kept = 0;
    for (auto &[_, share] : all) kept += share;
    for (auto &[_, share] : all) share = rounded<T>(share / (s.normalise ? kept : sum));
    return all;
}

template <typename T> static void test(const Shape &s) {
    using N = Names<T>;
    const int pairs = s.m * s.slots, most = std::min(pairs, s.experts) + pairs / s.tile;
    emulate::Buffer<T> logits(s.m * s.experts), x(s.m * s.hidden), gate_up(s.experts * 2 * s.inner * s.hidden),
        down(s.experts * s.hidden * s.inner), hidden(pairs * s.inner), outputs(pairs * s.hidden), sums(s.m * s.hidden),
        shared(s.m * s.hidden), shared_gate(s.m);
    emulate::Buffer<float> shares(pairs);
    emulate::Buffer<int> chosen(pairs), sorted(pairs);
    emulate::Buffer<int4> items(1 + most);
    fill(logits, 1.0f);
    // few different logits: ties that the first index has to win
    for (size_t i = 0; i < logits.count; i++) logits[i] = from_float<T>(roundf(to_float(logits[i]) * 4) / 4);
    fill(x, 1.0f), fill(gate_up, 0.1f), fill(down, 0.1f), fill(shared, 1.0f), fill(shared_gate, 1.0f);

    RouteParams route = {logits.data, shares.data, chosen.data, sorted.data, items.data, s.m,        s.experts,
                         s.slots,     s.tile,      s.normalise, 1,           s.route_apart ? 0 : 1};
    if (s.route_apart) {
        emulate::run("route", N::ROUTE, (s.m + 3) / 4, 128, 0, route);
        LAUNCH(experts_sort, 1, 256, 9 * s.experts * sizeof(int), route);
    } else {
        emulate::run("route", N::ROUTE, 1, 256, (pairs + 9 * s.experts) * sizeof(int), route);
    }
    const ExpertsParams up = {x.data,  gate_up.data, items.data, sorted.data, hidden.data, nullptr, nullptr,
                              nullptr, nullptr,      s.inner,    s.hidden,    s.slots,     0,       1};
    const void *more = s.shared ? shared.data : nullptr;
    const ExpertsParams last = {hidden.data, down.data,        items.data, sorted.data, outputs.data, shares.data, more,
                                shared_gate.data, sums.data, s.hidden,   s.inner,     s.slots,      0,           1};
    if (s.tile == 128) {
        run_tiles<T>(dim3((s.inner + 63) / 64, most), dim3((s.hidden + 127) / 128, most), up, last);
    } else {
        const int rows = 32 >> s.along, wide = 64 >> s.along;
        const dim3 up_grid((s.inner + rows - 1) / rows, most), down_grid((s.hidden + wide - 1) / wide, most);
        emulate::run("gate_up", N::GATE_UP[s.along], up_grid, 128, 0, up);
        emulate::run("down", N::DOWN[s.along], down_grid, 128, 0, last);
    }
    emulate::run("combine", N::COMBINE, dim3((s.hidden + 255) / 256, s.m), 256, 0, last);

    std::vector<double> found, expected;
    double wrong = 0;
    std::vector<std::vector<int>> lists(s.experts);
    for (int token = 0; token < s.m; token++) {
        std::vector<double> sum(s.hidden);
        const auto experts = chosen_by(logits, token, s);
        for (int slot = 0; slot < s.slots; slot++) {
            const auto [expert, share] = experts[slot];
            const int pair = token * s.slots + slot;
            wrong += chosen[pair] != expert || fabs(shares[pair] - share) > (sizeof(T) == 4 ? 1e-6 : 0.01) * share;
            lists[expert].push_back(pair);
            std::vector<double> inner(s.inner);
            auto row = [&](int r) {
                double product = 0;
                for (int i = 0; i < s.hidden; i++) {
                    product += static_cast<double>(to_float(gate_up[(expert * 2 * s.inner + r) * s.hidden + i])) *
                               to_float(x[token * s.hidden + i]);
                }
                return product;
            };
            for (int r = 0; r < s.inner; r++) {
                const double gate = rounded<T>(row(r)), up = rounded<T>(row(s.inner + r));
                inner[r] = rounded<T>(rounded<T>(gate / (1 + exp(-gate))) * up);
            }
            for (int r = 0; r < s.hidden; r++) {
                double product = 0;
                for (int i = 0; i < s.inner; i++) product += to_float(down[(expert * s.hidden + r) * s.inner + i]) * inner[i];
                sum[r] += rounded<T>(share * rounded<T>(product));
            }
        }
        for (int r = 0; r < s.hidden; r++) {
            const double gate = rounded<T>(1 / (1 + exp(-to_float(shared_gate[token]))));
            const double more = rounded<T>(gate * to_float(shared[token * s.hidden + r]));
            expected.push_back(rounded<T>(s.shared ? rounded<T>(sum[r]) + more : sum[r]));
            found.push_back(to_float(sums[token * s.hidden + r]));
        }
    }
    int place = 0;
    for (const auto &list : lists)
        for (int pair : list) wrong += s.m > 1 && sorted[place++] != pair;
    char name[80];
    snprintf(name, sizeof(name), "%s: %d tokens, %d of %d experts, items of %d", N::NAME, s.m, s.slots, s.experts, s.tile);
    emulate::check(name, emulate::distance(found, expected) + wrong, N::LIMIT);
}

template <typename T> static void test_all() {
    test<T>({1, 16, 4, 136, 72, 8, true, false, false, 2});
    test<T>({5, 6, 2, 320, 24, 8, false, true, false, 1});
    test<T>({20, 5, 2, 40, 40, 8, true, true, false, 0});
    test<T>({50, 3, 2, 24, 16, 8, true, false, true, 2});
    test<T>({12, 128, 8, 16, 8, 8, true, false, true, 0});
    if (sizeof(T) == 2) test<T>({300, 3, 2, 200, 72, 128, true, true, true, 0});
}

int main() {
    test_all<float>();
    test_all<half_t>();
    test_all<bf16_t>();
    return emulate::failures != 0;
}
