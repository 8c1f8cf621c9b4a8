#!/usr/bin/env python3
"""Writes tests/golden/families/<name>.json: the answers of Hugging Face transformers for tiny random models of many
architectures, in f32 on the CPU.

    python scripts/make_family_goldens.py                 # every model
    python scripts/make_family_goldens.py --only gemma2   # those whose name begins with this

Needs torch, safetensors and transformers 5 (CPU builds are enough). Each run gives the same files.

Weights aren't stored. `tensors` lists [name, shape, offset, scale] in the order of the safetensors file that
save_pretrained writes. Element i (row-major) of tensor n (counted from 0) of a file with `seed` is, in wrapping u64
arithmetic,

    z = seed * 0x9E3779B97F4A7C15 + (n << 32) + i
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    z =  z ^ (z >> 31)
    value = offset + scale * ((z >> 40) / 2^23 - 1)       in f32: one multiplication, then one addition

The fields of a file:

    made_by, transformers  the script, and the version of transformers
    attention              transformers' attention: "eager", or "sdpa" where eager adds ALiBi's bias twice
    config                 config.json as save_pretrained writes it
    spelling4              the same config as transformers 4 spells it; transformers reads both alike (checked)
    generation_config      generation_config.json
    seed, tensors          the weights: see above
    alternative            {"without_prefix": p}: checkpoints of the base model name the tensors without p (checked)
    rows                   "batch": the answers to the left-padded batch, which are those to each prompt alone (checked)
                           "alone": the answers to each prompt alone, by a freshly loaded model. Transformers' batch
                           differs, since what it does in one row depends on the longest row
    prompts                token ids
    prompt_logits          logits at each prompt's last position
    greedy, margins        tokens of each row if nothing ends it, and the gap between the two largest logits
    eos_ids                end-of-sequence tokens, chosen among the greedy tokens
    fixed                  tokens of each row with the end-of-sequence tokens' logits masked
    natural_lengths        step, counted from 1, at which the unmasked argmax of `fixed` is first an end of sequence
"""

import argparse
import copy
import json
import math
import tempfile
import warnings
from pathlib import Path

import numpy
import torch
import transformers
from safetensors.numpy import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

FAMILIES = Path(__file__).resolve().parent.parent / "tests" / "golden" / "families"
STEPS = 32
SMALLEST_MARGIN = 2e-3  # between the two largest logits of a step: far above the noise of f32
FEWEST_TOKENS = 8  # different tokens in each answer: an answer that repeats itself tests little
MOST_SEEDS = 100

VOCABULARY, HIDDEN, HEADS, LAYERS = 100, 32, 4, 3
IDS = dict(vocab_size=VOCABULARY, bos_token_id=1, eos_token_id=2, pad_token_id=0)
SIZES = IDS | dict(
    hidden_size=HIDDEN,
    intermediate_size=48,
    num_hidden_layers=LAYERS,
    num_attention_heads=HEADS,
    num_key_value_heads=2,
    max_position_embeddings=128,
)
SLIDING, FULL = "sliding_attention", "full_attention"
# Where each sublayer adds a normed vector, a larger embedding would repeat the last token.
NORMED_AFTER = {"embed_tokens": 0.15, "lm_head": 0.5}


def rope(kind="default", theta=10000.0, **scaling):
    return {"rope_type": kind, "rope_theta": theta, **scaling}


def first_families():
    yarn = dict(factor=4.0, original_max_position_embeddings=16, theta=100.0, beta_fast=4.0, beta_slow=0.5)
    wide = SIZES | dict(head_dim=16)
    llama = lambda **how: ("llama", SIZES | how)
    yield "llama_rope_linear", *llama(rope_parameters=rope("linear", factor=3.0)), dict(four=True)
    dynamic = rope("dynamic", factor=2.0, theta=1000.0)
    yield "llama_dynamic_ntk_from_prompt", *llama(rope_parameters=dynamic, max_position_embeddings=20), dict(
        longest=28, four=True
    )
    yield "llama_dynamic_ntk_while_generating", *llama(
        rope_parameters=dynamic, max_position_embeddings=20, tie_word_embeddings=True
    ), dict(longest=12)
    yield "llama_yarn", "llama", wide | dict(rope_parameters=rope("yarn", **yarn)), dict(longest=40, four=True)
    yield "llama_yarn_attention_factor", "llama", wide | dict(
        rope_parameters=rope("yarn", **yarn, attention_factor=0.75)
    ), dict(longest=24)
    yield "llama_yarn_mscale", "llama", wide | dict(
        rope_parameters=rope("yarn", **yarn, mscale=1.4, mscale_all_dim=0.6)
    ), dict(longest=24)
    yield "llama_yarn_not_truncated", "llama", wide | dict(
        rope_parameters=rope("yarn", **yarn, truncate=False), num_key_value_heads=1
    ), dict(longest=24)
    yield "llama_biases_tied", *llama(attention_bias=True, mlp_bias=True, tie_word_embeddings=True), {}
    yield "llama_eps_gelu", *llama(rms_norm_eps=0.05, hidden_act="gelu"), dict(four=True)

    yield "mistral_window", "mistral", SIZES | dict(sliding_window=6), dict(four=True)
    yield "mistral_wide_heads_window", "mistral", wide | dict(sliding_window=9, num_key_value_heads=1), dict(longest=20)

    yield "qwen2_biases_tied", "qwen2", SIZES | dict(tie_word_embeddings=True), dict(four=True)
    yield "qwen2_window_from_layer", "qwen2", SIZES | dict(
        use_sliding_window=True, sliding_window=5, max_window_layers=1
    ), dict(four=True)
    yield "qwen2_window_unused", "qwen2", SIZES | dict(sliding_window=5, max_window_layers=1), dict(four=True)
    yield "qwen2_layer_types", "qwen2", SIZES | dict(
        use_sliding_window=True, sliding_window=4, layer_types=[SLIDING, FULL, SLIDING]
    ), {}
    yield "qwen2_yarn", "qwen2", SIZES | dict(
        rope_parameters=rope("yarn", factor=4.0, original_max_position_embeddings=16, theta=1000.0)
    ), dict(longest=24, four=True)

    yield "qwen3_wide_heads", "qwen3", wide, dict(four=True)
    yield "qwen3_narrow_heads_biases_window_tied", "qwen3", SIZES | dict(
        head_dim=4, attention_bias=True, tie_word_embeddings=True, use_sliding_window=True, sliding_window=5,
        max_window_layers=2
    ), dict(four=True)

    yield "gemma_wide_heads", "gemma", SIZES | dict(head_dim=16, num_key_value_heads=1), dict(four=True)
    yield "gemma_untied_gelu", "gemma", SIZES | dict(
        head_dim=8, num_key_value_heads=4, tie_word_embeddings=False, hidden_act="gelu"
    ), {}

    small = NORMED_AFTER | {"lm_head": 0.3}
    gemma2 = SIZES | dict(head_dim=12, query_pre_attn_scalar=5, sliding_window=5)
    yield "gemma2_caps_windows", "gemma2", gemma2 | dict(
        attn_logit_softcapping=2.0, final_logit_softcapping=3.0
    ), dict(four=True, scale=small)
    yield "gemma2_no_caps", "gemma2", gemma2 | dict(
        attn_logit_softcapping=None, final_logit_softcapping=None, num_key_value_heads=1
    ), dict(scale=small)

    gemma3 = wide | dict(query_pre_attn_scalar=20, sliding_window=5, num_hidden_layers=4)
    yield "gemma3_text_rope_linear_on_global", "gemma3_text", gemma3 | dict(
        layer_types=[SLIDING, FULL, SLIDING, FULL],
        rope_parameters={
            FULL: rope("linear", theta=50000.0, factor=8.0),
            SLIDING: rope(theta=1000.0),
        },
    ), dict(four=True, pattern=2, scale=small)
    yield "gemma3_text_pattern", "gemma3_text", gemma3 | dict(
        sliding_window_pattern=3, num_key_value_heads=1
    ), dict(four=True, pattern=3, scale=small)
    yield "gemma3_text_caps_untied", "gemma3_text", gemma3 | dict(
        layer_types=[FULL, SLIDING, SLIDING, FULL], tie_word_embeddings=False, attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0, head_dim=8
    ), dict(scale=small)

    factors = dict(short_factor=[1.0, 1.05, 1.1, 1.3], long_factor=[1.0, 1.6, 2.5, 4.0])
    long = dict(rope_parameters=rope("longrope", theta=500.0, **factors), original_max_position_embeddings=20)
    yield "phi3_gqa", "phi3", SIZES, dict(four=True)
    yield "phi3_longrope_prompt_beyond", "phi3", SIZES | long, dict(longest=32, four=True)
    yield "phi3_longrope_crossing_while_generating", "phi3", SIZES | long, dict(longest=14)
    partial = dict(short_factor=[1.0, 1.05, 1.2], long_factor=[1.1, 1.6, 3.0])
    yield "phi3_longrope_partial_tied", "phi3", SIZES | dict(
        original_max_position_embeddings=20,
        tie_word_embeddings=True,
        rope_parameters=rope("longrope", **partial, partial_rotary_factor=0.75),
    ), dict(longest=14, four=True)
    yield "phi3_window", "phi3", SIZES | dict(sliding_window=6, num_key_value_heads=4), dict(four=True)

    gpt2 = IDS | dict(n_embd=HIDDEN, n_layer=LAYERS, n_head=HEADS, n_positions=64)
    yield "gpt2", "gpt2", gpt2, dict(without_prefix="transformer.")
    yield "gpt2_inverse_layer_idx_untied", "gpt2", gpt2 | dict(
        scale_attn_by_inverse_layer_idx=True, tie_word_embeddings=False, n_inner=40, activation_function="gelu",
        layer_norm_epsilon=0.01
    ), {}
    yield "gpt2_unscaled_relu", "gpt2", gpt2 | dict(
        scale_attn_weights=False, activation_function="relu", reorder_and_upcast_attn=True
    ), {}


def second_families():
    phi = SIZES | dict(num_key_value_heads=4)
    yield "phi_partial_rotary", "phi", phi, dict(four=True)
    yield "phi_qk_layernorm_gqa", "phi", SIZES | dict(
        qk_layernorm=True, partial_rotary_factor=0.75, hidden_act="gelu", tie_word_embeddings=True
    ), dict(four=True, scale={"q_layernorm.weight": (4.0, 2.0)}, fewest=5)

    neox = {key: value for key, value in SIZES.items() if key != "num_key_value_heads"}
    yield "gpt_neox_parallel", "gpt_neox", neox, dict(four=True)
    yield "gpt_neox_sequential_tied", "gpt_neox", neox | dict(
        use_parallel_residual=False, rotary_pct=0.5, rotary_emb_base=500, tie_word_embeddings=True,
        hidden_act="gelu_new"
    ), dict(four=True)
    yield "gpt_neox_all_rotary_no_attention_bias", "gpt_neox", neox | dict(
        rotary_pct=1.0, attention_bias=False, hidden_act="gelu_fast"
    ), {}

    opt = IDS | dict(
        hidden_size=HIDDEN, ffn_dim=48, num_hidden_layers=LAYERS, num_attention_heads=HEADS, max_position_embeddings=64
    )
    yield "opt_norm_before", "opt", opt, dict(without_prefix="model.")
    yield "opt_norm_after_projected", "opt", opt | dict(do_layer_norm_before=False, word_embed_proj_dim=20), dict(
        scale={"embed_tokens": 0.5, "q_proj.weight": 2.0, "v_proj.weight": 2.0}, fewest=3
    )
    yield "opt_norm_before_projected_gelu", "opt", opt | dict(word_embed_proj_dim=12, activation_function="gelu"), {}
    yield "opt_untied_no_bias_no_affine", "opt", opt | dict(
        tie_word_embeddings=False, enable_bias=False, layer_norm_elementwise_affine=False
    ), {}
    yield "opt_no_final_norm", "opt", opt | dict(_remove_final_layer_norm=True), {}

    falcon = IDS | dict(
        hidden_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=HEADS, max_position_embeddings=128
    )
    yield "falcon_multi_query_parallel", "falcon", falcon, dict(four=True)
    yield "falcon_new_architecture_gqa", "falcon", falcon | dict(
        new_decoder_architecture=True, num_kv_heads=2, tie_word_embeddings=False
    ), dict(four=True)
    yield "falcon_new_architecture_one_norm", "falcon", falcon | dict(
        new_decoder_architecture=True, num_kv_heads=2, num_ln_in_parallel_attn=1, ffn_hidden_size=40
    ), {}
    sharp = {"query_key_value.weight": 1.5}
    rw = dict(alibi=True, multi_query=False, parallel_attn=False, bias=True)
    yield "falcon_alibi_sequential_biases", "falcon", falcon | rw, dict(
        four=True, attention="sdpa", scale=sharp, fewest=4
    )
    yield "falcon_alibi_six_heads", "falcon", falcon | rw | dict(hidden_size=36, num_attention_heads=6), dict(
        attention="sdpa", scale=sharp, fewest=4
    )
    yield "falcon_multi_query_sequential_biases", "falcon", falcon | dict(parallel_attn=False, bias=True), {}

    yield "olmo2_gqa", "olmo2", SIZES, dict(four=True, scale=NORMED_AFTER)
    yield "olmo2_biases_eps_tied", "olmo2", SIZES | dict(
        num_key_value_heads=4, attention_bias=True, rms_norm_eps=0.02, tie_word_embeddings=True
    ), dict(scale=NORMED_AFTER, fewest=4)
    yield "olmo_no_affine", "olmo", SIZES, dict(four=True)
    yield "olmo_clip_qkv_tied", "olmo", SIZES | dict(
        clip_qkv=1.5, num_key_value_heads=4, tie_word_embeddings=True, attention_bias=True
    ), {}

    multipliers = dict(
        embedding_multiplier=3.0, logits_scaling=1.7, residual_multiplier=0.6, attention_multiplier=0.2
    )
    yield "granite_multipliers_tied", "granite", SIZES | multipliers | dict(tie_word_embeddings=True), dict(four=True)
    yield "granite_multipliers_biases", "granite", SIZES | multipliers | dict(attention_bias=True, mlp_bias=True), {}

    yield "starcoder2_window", "starcoder2", SIZES | dict(sliding_window=5), dict(four=True)
    yield "starcoder2_no_bias_untied", "starcoder2", SIZES | dict(
        use_bias=False, tie_word_embeddings=False, num_key_value_heads=1, norm_epsilon=0.02
    ), {}

    yield "stablelm_partial_rotary_biases", "stablelm", SIZES | dict(use_qkv_bias=True), dict(four=True)
    yield "stablelm_parallel_qk_layernorm", "stablelm", SIZES | dict(
        use_parallel_residual=True, qk_layernorm=True, partial_rotary_factor=0.5
    ), dict(four=True)
    yield "stablelm_parallel_tied", "stablelm", SIZES | dict(
        use_parallel_residual=True, num_key_value_heads=4, tie_word_embeddings=True, hidden_act="gelu"
    ), {}

    yield "smollm3_no_rope_interval", "smollm3", SIZES | dict(no_rope_layer_interval=2), dict(four=True)
    yield "smollm3_no_rope_layers_window_untied", "smollm3", SIZES | dict(
        no_rope_layers=[0, 1, 1], use_sliding_window=True, sliding_window=5, tie_word_embeddings=False,
        attention_bias=True, mlp_bias=True
    ), dict(four=True)

    yield "glm_partial_rotary", "glm", SIZES | dict(head_dim=16), dict(four=True)
    yield "glm_no_bias_tied", "glm", SIZES | dict(
        head_dim=8, attention_bias=False, tie_word_embeddings=True, num_key_value_heads=4, partial_rotary_factor=0.25
    ), {}
    yield "glm4_partial_rotary", "glm4", SIZES | dict(head_dim=16), dict(four=True, scale=NORMED_AFTER)
    yield "glm4_no_bias_tied", "glm4", SIZES | dict(
        head_dim=8, attention_bias=False, tie_word_embeddings=True, partial_rotary_factor=1.0
    ), dict(scale=NORMED_AFTER)

    yield "cohere", "cohere", SIZES | dict(logit_scale=0.5), dict(four=True)
    yield "cohere_qk_norm_biases_untied", "cohere", SIZES | dict(
        use_qk_norm=True, logit_scale=1.5, attention_bias=True, tie_word_embeddings=False
    ), {}
    yield "cohere2_windows_no_rope_on_global", "cohere2", SIZES | dict(
        logit_scale=0.5, sliding_window=5, sliding_window_pattern=3
    ), dict(four=True, pattern=3)
    yield "cohere2_layer_types_biases", "cohere2", SIZES | dict(
        logit_scale=1.5, sliding_window=6, layer_types=[FULL, SLIDING, FULL], attention_bias=True,
        tie_word_embeddings=False
    ), {}

    mixtral = SIZES | dict(intermediate_size=16, num_local_experts=4, num_experts_per_tok=2)
    yield "mixtral", "mixtral", mixtral, dict(four=True)
    yield "mixtral_window_top3_tied", "mixtral", mixtral | dict(
        num_experts_per_tok=3, sliding_window=6, num_hidden_layers=2, tie_word_embeddings=True, head_dim=16
    ), {}
    sparse = SIZES | dict(moe_intermediate_size=12, num_experts=4, num_experts_per_tok=2)
    shared = sparse | dict(shared_expert_intermediate_size=20)
    yield "qwen2_moe_shared_expert", "qwen2_moe", shared, dict(four=True)
    yield "qwen2_moe_norm_topk_sparse_step", "qwen2_moe", shared | dict(
        norm_topk_prob=True, decoder_sparse_step=2, num_hidden_layers=4, mlp_only_layers=[3], tie_word_embeddings=True
    ), dict(four=True)
    yield "qwen2_moe_window_no_bias", "qwen2_moe", shared | dict(
        use_sliding_window=True, sliding_window=5, max_window_layers=2, qkv_bias=False
    ), dict(four=True)
    yield "qwen3_moe_norm_topk", "qwen3_moe", sparse | dict(norm_topk_prob=True, head_dim=16), dict(four=True)
    yield "qwen3_moe_mlp_only_layers", "qwen3_moe", sparse | dict(
        mlp_only_layers=[1], attention_bias=True, num_experts_per_tok=3, tie_word_embeddings=True
    ), {}
    yield "qwen3_moe_sparse_step_window", "qwen3_moe", sparse | dict(
        decoder_sparse_step=2, use_sliding_window=True, sliding_window=5, max_window_layers=1
    ), {}
    olmoe = SIZES | dict(intermediate_size=12, num_experts=4, num_experts_per_tok=2)
    yield "olmoe", "olmoe", olmoe, dict(four=True)
    yield "olmoe_norm_topk_clip_qkv", "olmoe", olmoe | dict(
        norm_topk_prob=True, clip_qkv=1.2, num_key_value_heads=4, tie_word_embeddings=True
    ), {}


def third_families():
    sharp = {"query_key_value.weight": 1.5}
    bloom = IDS | dict(hidden_size=HIDDEN, n_layer=LAYERS, n_head=HEADS)
    yield "bloom", "bloom", bloom, dict(
        without_prefix="transformer.", scale=sharp, fewest=4
    )
    yield "bloom_residual_after_norm_six_heads", "bloom", bloom | dict(
        hidden_size=36, n_head=6, apply_residual_connection_post_layernorm=True
    ), dict(scale=sharp, fewest=3)
    gptj = IDS | dict(n_embd=HIDDEN, n_layer=LAYERS, n_head=2, rotary_dim=8, n_positions=64)
    yield "gptj", "gptj", gptj, {}
    bigcode = IDS | dict(n_embd=HIDDEN, n_layer=LAYERS, n_head=HEADS, n_positions=64)
    yield "gpt_bigcode_multi_query", "gpt_bigcode", bigcode, {}
    yield "gpt_bigcode_multi_head", "gpt_bigcode", bigcode | dict(multi_query=False, tie_word_embeddings=False), {}

    yield "arcee_relu2", "arcee", SIZES, {}
    yield "helium", "helium", SIZES | dict(head_dim=8), {}
    yield "nemotron_relu2_norm1p", "nemotron", SIZES | dict(partial_rotary_factor=0.5), {}
    yield "ernie4_5_interleaved_rope", "ernie4_5", SIZES | dict(head_dim=16), {}
    yield "ernie4_5_biases", "ernie4_5", SIZES | dict(head_dim=8, use_bias=True, tie_word_embeddings=False), {}
    yield "seed_oss_biases", "seed_oss", SIZES | dict(head_dim=16), {}
    yield "exaone4_windows", "exaone4", SIZES | dict(sliding_window=5, sliding_window_pattern=3), dict(
        scale=NORMED_AFTER
    )
    yield "exaone4_all_global", "exaone4", SIZES | dict(sliding_window=None, layer_types=[FULL] * LAYERS), dict(
        scale=NORMED_AFTER
    )
    yield "olmo3_windows", "olmo3", SIZES | dict(sliding_window=5, layer_types=[SLIDING, SLIDING, FULL]), dict(
        scale=NORMED_AFTER
    )
    yield "ministral_layer_types", "ministral", SIZES | dict(
        head_dim=8, sliding_window=5, layer_types=[SLIDING, FULL, SLIDING]
    ), {}
    yield "cwm_windows", "cwm", SIZES | dict(
        sliding_window=5, layer_types=[FULL, SLIDING, FULL],
        rope_parameters=rope(
            "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32
        ),
    ), {}


def families():
    """Name, model type, fields of the config, and `how`: `longest` prompt, `four` to check the spelling of
    transformers 4, the `pattern` of windows in that spelling, `without_prefix` as in the file, `scale` (or offset and
    scale) of weights by a part of their names, and the `fewest` different tokens per answer (where attention is flat,
    the last token alone decides, and tokens repeat)."""
    yield from first_families()
    yield from second_families()
    yield from third_families()


def spelled_as_in_4(config, how):
    """The config as transformers 4 writes it."""
    config = copy.deepcopy(config)
    kind = config["model_type"]
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.46.0"
    config.pop("layer_types", None)
    parameters = config.pop("rope_parameters", None)
    if "pattern" in how:
        config["sliding_window_pattern"] = how["pattern"]
    if parameters is None:
        return config
    if kind == "gemma3_text":
        config["rope_local_base_freq"] = parameters[SLIDING]["rope_theta"]
        parameters = parameters[FULL]
    theta, partial = parameters.pop("rope_theta"), parameters.pop("partial_rotary_factor", None)
    if kind == "gpt_neox":
        config |= dict(rotary_emb_base=theta, rotary_pct=partial)
    else:
        config["rope_theta"] = theta
        if partial is not None:
            config["partial_rotary_factor"] = partial
    if kind == "phi3" and parameters["rope_type"] == "longrope":
        del parameters["original_max_position_embeddings"]
        parameters["type"] = parameters.pop("rope_type")
    config["rope_scaling"] = None if "default" in parameters.values() else parameters
    return config


ADDS_ONE = ("gemma", "gemma2", "gemma3_text", "nemotron")  # norms that multiply by 1 + weight
EMBEDDINGS = ("embed_tokens", "wte", "wpe", "word_embeddings.weight", "embed_in", "embed_positions")


def offset_and_scale(name, shape, model_type, how):
    """Uniform weights whose root mean square is `scale` / √3: answers vary, and norms and biases matter."""
    for part, scale in how.get("scale", {}).items():
        if part in name:
            return scale if isinstance(scale, tuple) else (0.0, scale)
    if name.endswith(("act_fn.beta", "act_fn.eps")):  # constants of xIELU
        return (0.5, 0.0) if name.endswith("beta") else (-1e-6, 0.0)
    if name.endswith("bias"):
        return 0.0, 0.5
    if "norm" in name or len(shape) == 1:
        return 0.0 if model_type in ADDS_ONE else 1.0, 0.35
    fan_in = shape[0] if model_type == "gpt2" and ".c_" in name else shape[-1]
    rms = 2.0 if any(part in name for part in EMBEDDINGS) else 3.0
    return 0.0, float(f"{rms * math.sqrt(3 / fan_in):.4g}")


def weights(seed, number, shape, offset, scale):
    with numpy.errstate(over="ignore"):
        start = numpy.uint64((seed * 0x9E3779B97F4A7C15 + (number << 32)) % 2**64)
        z = start + numpy.arange(math.prod(shape), dtype=numpy.uint64)
        z = (z ^ (z >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
        z = z ^ (z >> numpy.uint64(31))
    unit = (z >> numpy.uint64(40)).astype(numpy.float32) / numpy.float32(2**23) - numpy.float32(1)
    return (numpy.float32(offset) + numpy.float32(scale) * unit).reshape(shape)


def tensors_of(folder):
    """Names and shapes, in the order of the data in the one file of a saved model."""
    raw = (folder / "model.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    header.pop("__metadata__", None)
    return [(name, info["shape"]) for name, info in sorted(header.items(), key=lambda at: at[1]["data_offsets"])]


def load(folder, attention):
    model, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation=attention, output_loading_info=True
    )
    wrong = {problem: names for problem, names in report.items() if names}
    if wrong:
        raise SystemExit(f"{folder}: {wrong}")
    model.generation_config.eos_token_id = None
    return model.eval()


def random_prompts(longest, seed):
    generator = numpy.random.Generator(numpy.random.PCG64(seed))
    lengths = [longest, 3, 1, max(longest // 2, 2)]
    return [generator.integers(3, VOCABULARY, length).tolist() for length in lengths]


def left_padded(prompts):
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids, mask


def generate(model, prompts, suppress=None):
    """Greedy tokens (rows, STEPS) and raw logits (rows, STEPS, vocabulary); nothing ends a row.

    Some rotary embeddings remember how far they have come, so that each call has a model of its own.
    """
    ids, mask = left_padded(prompts)
    out = copy.deepcopy(model).generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=STEPS,
        do_sample=False,
        use_cache=True,
        pad_token_id=0,
        suppress_tokens=suppress,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return out.sequences[:, ids.shape[1] :], torch.stack(out.logits, dim=1)


def one_at_a_time(model, prompts, suppress=None):
    rows = [generate(model, [prompt], suppress) for prompt in prompts]
    return tuple(torch.cat(part) for part in zip(*rows))


def same(one, other):
    (tokens, logits), (other_tokens, other_logits) = one, other
    near = (logits - other_logits).abs().max() <= 1e-4 * logits.abs().max()
    return torch.equal(tokens, other_tokens) and bool(near)


def margins(logits):
    top = logits.topk(2).values
    return top[..., 0] - top[..., 1]


def first_eos(logits, eos):
    hits = torch.isin(logits.argmax(-1), torch.tensor(eos))
    return [row.nonzero()[0].item() + 1 if row.any() else None for row in hits]


def varies(tokens, fewest):
    return tokens[0, 9] not in tokens[0, :3] and all(len(set(row)) >= fewest for row in tokens.tolist())


def rounded(values):
    return [[float(f"{x:.7g}") for x in row] for row in values.tolist()]


def answers(model, prompts, fewest):
    """The fields of the file from `rows` on, or None where a margin is small or an answer repeats itself."""
    rows, ask = "batch", generate
    batch = generate(model, prompts)
    alone = one_at_a_time(model, prompts) if varies(batch[0], fewest) else batch
    if not same(batch, alone):
        rows, ask = "alone", one_at_a_time
    tokens, logits = alone if rows == "alone" else batch
    if not varies(tokens, fewest) or margins(logits).min() < SMALLEST_MARGIN:
        return None
    eos = [tokens[0, 9].item()]
    fixed, fixed_logits = ask(model, prompts, eos)
    masked = fixed_logits.clone()
    masked[..., eos] = -torch.inf
    if min(margins(masked).min(), margins(fixed_logits).min()) < SMALLEST_MARGIN:
        return None
    return dict(
        rows=rows,
        prompts=prompts,
        prompt_logits=rounded(logits[:, 0]),
        greedy=tokens.tolist(),
        margins=[[float(f"{m:.3g}") for m in row] for row in margins(logits).tolist()],
        eos_ids=eos,
        fixed=fixed.tolist(),
        natural_lengths=first_eos(fixed_logits, eos),
    )


def read(folder, name):
    return json.loads((folder / name).read_text())


def check(folder, attention, prompts, expected, what):
    given = one_at_a_time(load(folder, attention), prompts)
    if not torch.equal(given[0], expected[0]) or not torch.equal(given[1], expected[1]):
        raise SystemExit(f"{what}: other answers than those of the config as transformers 5 writes it")


def finish(folder, model, attention, how, golden):
    """Writes the configs with the end of sequence, and checks what else the file says."""
    model.config.eos_token_id = golden["eos_ids"][0]
    model.generation_config.eos_token_id = golden["eos_ids"][0]
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    fields = dict(config=read(folder, "config.json"), generation_config=read(folder, "generation_config.json"))
    prompts = golden["prompts"]
    expected = one_at_a_time(load(folder, attention), prompts)
    if how.get("four"):
        fields["spelling4"] = spelled_as_in_4(fields["config"], how)
        (folder / "config.json").write_text(json.dumps(fields["spelling4"]))
        check(folder, attention, prompts, expected, "spelling4")
    if "without_prefix" in how:
        prefix = how["without_prefix"]
        stored = load_file(folder / "model.safetensors")
        save_file({name.removeprefix(prefix): t for name, t in stored.items()}, folder / "model.safetensors",
                  metadata={"format": "pt"})
        check(folder, attention, prompts, expected, "without_prefix")
        fields["alternative"] = {"without_prefix": prefix}
    return fields


def compact(value):
    return json.dumps(value, separators=(",", ":"))


def text(fields):
    """JSON with one field, row or tensor per line."""
    lines = []
    for key, value in fields.items():
        if isinstance(value, list) and value and isinstance(value[0], list):
            value = "[\n" + ",\n".join(map(compact, value)) + "\n]"
        elif isinstance(value, dict) and len(value) > 4:
            value = "{\n" + ",\n".join(f"{compact(k)}:{compact(v)}" for k, v in value.items()) + "\n}"
        else:
            value = compact(value)
        lines.append(f"{compact(key)}:{value}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def make(name, model_type, fields, how):
    config = AutoConfig.for_model(model_type, **copy.deepcopy(fields))
    attention = how.get("attention", "eager")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=attention)
        model.save_pretrained(folder)
        tensors = [
            [tensor, shape, *offset_and_scale(tensor, shape, model_type, how)] for tensor, shape in tensors_of(folder)
        ]
        for seed in range(1, MOST_SEEDS):
            stored = {t: weights(seed, n, *rest) for n, (t, *rest) in enumerate(tensors)}
            save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
            model = load(folder, attention)
            golden = answers(model, random_prompts(how.get("longest", 12), seed), how.get("fewest", FEWEST_TOKENS))
            if golden:
                break
        else:
            raise SystemExit(f"{name}: no seed gives answers that vary with margins above {SMALLEST_MARGIN}")
        made_by = "scripts/make_family_goldens.py"
        head = dict(made_by=made_by, transformers=transformers.__version__, attention=attention)
        fields = finish(folder, model, attention, how, golden)
    file = FAMILIES / f"{name}.json"
    file.write_text(text(head | fields | dict(seed=seed, tensors=tensors) | golden))
    smallest = min(map(min, golden["margins"]))
    print(f"{name}: seed {seed}, {golden['rows']}, margin {smallest:.4f}, {file.stat().st_size} bytes", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="prefixes of models' names, separated by commas")
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    FAMILIES.mkdir(parents=True, exist_ok=True)
    failed = []
    for name, model_type, fields, how in families():
        if name.startswith(tuple(args.only.split(","))):
            try:
                make(name, model_type, fields, how)
            except (Exception, SystemExit) as problem:
                failed.append(f"{name}: {problem}")
                print("failed:", failed[-1][:1500], flush=True)
    if failed:
        raise SystemExit("\n".join(failed))


if __name__ == "__main__":
    main()
