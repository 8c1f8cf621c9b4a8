// The activations of feed-forwards, in f32.
#pragma once

enum Activation { SILU, GELU, GELU_TANH, RELU, RELU_SQUARED };

INLINE float activated(float x, int activation) {
    switch (activation) {
    case SILU: return x / (1.0f + expf(-x));
    case GELU: return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
    case GELU_TANH: return 0.5f * x * (1.0f + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
    case RELU: return fmaxf(x, 0.0f);
    default: return fmaxf(x, 0.0f) * fmaxf(x, 0.0f);
    }
}
