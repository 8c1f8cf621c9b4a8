#!/usr/bin/env python3
"""Writes tests/golden/library/: the answers of Hugging Face transformers for tiny models of the architectures outside
the decoder, in f32 on the CPU.

    python scripts/make_library_goldens.py            # all of them
    python scripts/make_library_goldens.py --only mamba2

Needs torch and transformers 5 (CPU builds are enough). Each run gives the same files. Weights aren't stored: they
follow from a seed by the rule in `generated`, which tests/common/generated.rs repeats.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from transformers import (
    AutoModelForCausalLM,
    DeepseekV2Config,
    DeepseekV3Config,
    FalconMambaConfig,
    GraniteMoeHybridConfig,
    Lfm2Config,
    Mamba2Config,
    MambaConfig,
    RecurrentGemmaConfig,
    RwkvConfig,
)
from transformers.utils import logging

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "golden" / "library"
STEPS = 32
SMALLEST_MARGIN = 2e-3  # between the two largest logits of a step: far above the noise of f32
FEWEST_TOKENS = 8  # different tokens in each answer: an answer that repeats itself tests little
LENGTHS = [9, 3, 1, 9, 6]  # of the prompts: two are equally long, one is shorter than any convolution

SIZES = dict(vocab_size=160, hidden_size=48, num_hidden_layers=2, bos_token_id=1, eos_token_id=2, pad_token_id=0)
ATTENTION = dict(num_attention_heads=4, num_key_value_heads=2, intermediate_size=64, max_position_embeddings=128)
MLA = dict(
    num_attention_heads=4,
    num_key_value_heads=4,
    intermediate_size=64,
    moe_intermediate_size=24,
    max_position_embeddings=128,
    num_hidden_layers=3,
    first_k_dense_replace=1,
    n_routed_experts=8,
    num_experts_per_tok=3,
    kv_lora_rank=20,
    qk_nope_head_dim=10,
    qk_rope_head_dim=8,
    v_head_dim=12,
)
YARN = dict(
    rope_type="yarn",
    rope_theta=10000.0,
    factor=4.0,
    original_max_position_embeddings=32,
    beta_fast=32.0,
    beta_slow=1.0,
    mscale=0.707,
    mscale_all_dim=0.707,
)


def models():
    yield "mamba", MambaConfig(**SIZES)
    yield "mamba_shaped", MambaConfig(
        **SIZES | dict(hidden_size=32, tie_word_embeddings=False),
        state_size=8,
        conv_kernel=3,
        expand=3,
        time_step_rank=5,
        use_bias=True,
        use_conv_bias=False,
        layer_norm_epsilon=1e-3,
    )
    yield "falcon_mamba", FalconMambaConfig(**SIZES)
    mamba2 = SIZES | dict(state_size=16, head_dim=24, num_heads=4)
    yield "mamba2", Mamba2Config(**mamba2, n_groups=1, tie_word_embeddings=True)
    yield "mamba2_groups", Mamba2Config(**mamba2, n_groups=2, chunk_size=4, use_bias=True)
    yield "recurrent_gemma", RecurrentGemmaConfig(
        **SIZES | dict(num_hidden_layers=3), num_attention_heads=4, num_key_value_heads=1, intermediate_size=96
    )
    yield "deepseek_v2", DeepseekV2Config(**SIZES | MLA, q_lora_rank=None, n_shared_experts=2)
    yield "deepseek_v2_yarn", DeepseekV2Config(
        **SIZES | MLA, q_lora_rank=24, n_shared_experts=1, rope_parameters=YARN, routed_scaling_factor=1.5
    )
    yield "deepseek_v2_groups", DeepseekV2Config(
        **SIZES | MLA, q_lora_rank=24, topk_method="group_limited_greedy", n_group=4, topk_group=2
    )
    yield "deepseek_v3", DeepseekV3Config(
        **SIZES | MLA, q_lora_rank=24, n_group=4, topk_group=2, rope_parameters=YARN, num_mtp_layers=0
    )
    yield "granite_moe_hybrid", GraniteMoeHybridConfig(
        **SIZES | ATTENTION,
        layer_types=["full_attention"] * 2,
        num_local_experts=0,
        num_experts_per_tok=0,
        mamba_n_heads=4,
        shared_intermediate_size=64,
        position_embedding_type="rope",
        attention_multiplier=0.2,
        embedding_multiplier=3.0,
        residual_multiplier=0.7,
        logits_scaling=4.0,
        tie_word_embeddings=True,
    )
    yield "lfm2", Lfm2Config(
        **SIZES | ATTENTION | dict(num_hidden_layers=3),
        layer_types=["conv", "full_attention", "conv"],
        block_multiple_of=8,
    )
    yield "rwkv", RwkvConfig(
        vocab_size=160,
        hidden_size=48,
        attention_hidden_size=56,
        intermediate_size=80,
        num_hidden_layers=3,
        rescale_every=2,
        bos_token_id=1,
        eos_token_id=2,
    )


def generated(seed, number, shape, offset, scale):
    """Tensor number `number` of a model: SplitMix64's finaliser over a counter, as a uniform distribution, in f32."""
    start = (seed * 0x9E3779B97F4A7C15 + (number << 32)) % 2**64
    z = np.uint64(start) + np.arange(int(np.prod(shape)), dtype=np.uint64)
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    unit = (z >> np.uint64(40)).astype(np.float32) / np.float32(2**23) - np.float32(1)
    return (np.float32(offset) + np.float32(scale) * unit).reshape(shape)


def spread(model_type, name, shape):
    """Offset and scale that make a tensor matter: answers vary, and no norm or bias can be left out unnoticed."""
    last = name.rsplit(".", 2)[-2:]
    if last[-1] == "A_log":
        return 0.5, 0.8
    if last[-1] == "D":
        return 1.0, 0.5
    if last[-1] == "dt_bias" or name.endswith("dt_proj.bias"):
        return -1.0, 1.0
    if last[-1] in ("recurrent_param", "time_decay", "time_first"):
        return 0.0, 1.0
    if last[-1].startswith("time_mix"):
        return 0.5, 0.5
    if last[-1] == "e_score_correction_bias":
        return 0.0, 0.1
    if last[-1] in ("bias", "input_gate_bias", "recurrent_gate_bias"):
        return 0.0, 0.4
    if "norm" in last[0] or last[0].startswith("ln") or last[0] == "pre_ln":
        return (0.0 if model_type == "recurrent_gemma" else 1.0), 0.3
    if "conv" in last[0]:
        return 0.0, 0.9
    if "embed" in name or "wte" in name or "wpe" in name:
        return 0.0, 1.5
    # Mamba has no norm inside its mixer: with larger weights its outputs would leave the range of f16
    gain = 2.0 if model_type == "mamba" and last[0] in ("x_proj", "out_proj") else 5.0
    return 0.0, round(gain / shape[-1] ** 0.5, 4)


def stored(config):
    """Names and shapes of the tensors as `save_pretrained` stores them, and config.json."""
    with tempfile.TemporaryDirectory() as folder:
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        with safe_open(Path(folder) / "model.safetensors", "np") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in sorted(file.keys())}
        return shapes, json.loads((Path(folder) / "config.json").read_text())


def reference_model(config_json, tensors, seed):
    """The model as transformers loads it from a folder with the generated weights."""
    weights = {name: generated(seed, n, *rule) for n, (name, *rule) in enumerate(tensors)}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config_json))
        save_file(weights, Path(folder) / "model.safetensors", metadata={"format": "pt"})
        model, report = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
        )
    left_over = {key: value for key, value in report.items() if value}
    assert not left_over, left_over
    return model.eval()


@torch.no_grad()
def greedy(model, prompt):
    """Greedy tokens and logits (STEPS, vocabulary), each step on the whole sequence: no cache, no padding."""
    ids, rows = list(prompt), []
    for _ in range(STEPS):
        rows.append(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1])
        ids.append(int(rows[-1].argmax()))
    return ids[len(prompt) :], torch.stack(rows)


def forget(model):
    """RecurrentGemma keeps its states in its modules."""
    for module in model.modules():
        for state in ("recurrent_states", "conv1d_state"):
            if hasattr(module, state):
                setattr(module, state, None)


def reference(model, prompts):
    answers, logits = [], []
    for prompt in prompts:
        forget(model)
        tokens, rows = greedy(model, prompt)
        answers.append(tokens)
        logits.append(rows)
    logits = torch.stack(logits)
    top = logits.topk(2).values
    margins = top[..., 0] - top[..., 1]
    eos = answers[0][9]
    golden = dict(
        prompts=prompts,
        prompt_logits=[[float(f"{x:.7g}") for x in row] for row in logits[:, 0].tolist()],
        greedy=answers,
        margins=[[round(m, 5) for m in row] for row in margins.tolist()],
        eos_ids=[eos],
    )
    return golden, margins.min().item()


def varies(golden):
    first = golden["greedy"][0].index(golden["eos_ids"][0])
    return first > 2 and all(len(set(row)) >= FEWEST_TOKENS for row in golden["greedy"])


def write(name, golden):
    rows = {key: json.dumps(value) for key, value in golden.items()}
    rows["tensors"] = "[\n " + ",\n ".join(map(json.dumps, golden["tensors"])) + "\n]"
    text = ",\n".join(f'"{key}": {value}' for key, value in rows.items())
    (GOLDEN / f"{name}.json").write_text("{\n" + text + "\n}\n")


def make(name, config):
    shapes, config_json = stored(config)
    tensors = [[n, shape, *spread(config.model_type, n, shape)] for n, shape in shapes.items()]
    for seed in range(1, 200):
        model = reference_model(config_json, tensors, seed)
        generator = np.random.default_rng(seed)
        prompts = [generator.integers(3, config.vocab_size, length).tolist() for length in LENGTHS]
        golden, smallest = reference(model, prompts)
        if smallest > SMALLEST_MARGIN and varies(golden):
            config_json["eos_token_id"] = golden["eos_ids"][0]
            write(name, dict(config=config_json, seed=seed, tensors=tensors, **golden))
            print(f"{name}: seed {seed}, smallest margin {smallest:.4f}, eos {golden['eos_ids']}", flush=True)
            return
    raise SystemExit(f"{name}: no seed gives answers that vary with margins above {SMALLEST_MARGIN}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="one model")
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for name, config in models():
        if args.only in (None, name):
            make(name, config)


if __name__ == "__main__":
    main()
