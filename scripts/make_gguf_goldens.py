#!/usr/bin/env python3
"""Writes the reference answers of tests/golden/gguf/: GGUF files made with the `gguf` package, its dequantised values
of every type, the tensor names of every family, and the answers of transformers for the same files.

    python scripts/make_gguf_goldens.py              # everything
    python scripts/make_gguf_goldens.py --only names # or types, or one model

Needs torch, transformers 5 and gguf (CPU builds are enough). Each run gives the same files.

    types.gguf, types.safetensors    a matrix of every type; its values as `gguf.dequantize` gives them, and activations
    names.json                       for each family, a tiny model's tensor names in llama.cpp and in transformers, by
                                     the `gguf` package's own map
    <model>/model.gguf               a model with its configuration and its tokenizer in the metadata
    <model>/golden.json              `tensors`: checks of the weights as transformers loads them from the file; the rest
                                     as scripts/make_goldens.py writes it, of that model in f32

`convert` repeats the changes that llama.cpp's converter makes (`convert_hf_to_gguf.py`); for the families that
transformers can load from GGUF, its own loader undoes them.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize, quantize
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

import make_goldens as tiny
from make_adapter_goldens import checks

FOLDER = tiny.GOLDEN / "gguf"
BASE = dict(
    vocab_size=300,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)
MOE = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32)

# two f16 scales, as block_q8_1 of ggml-common.h has them; the package still counts two f32
gguf.GGML_QUANT_SIZES[Type.Q8_1] = (32, 2 + 2 + 32)

# llama.cpp's name, transformers' model type, its sizes
FAMILIES = [
    ("llama", "llama", {}),
    ("llama", "mixtral", dict(num_local_experts=4, num_experts_per_tok=2, tie_word_embeddings=False)),
    ("qwen2", "qwen2", {}),
    ("qwen3", "qwen3", dict(head_dim=8)),
    ("gemma", "gemma", dict(head_dim=8)),
    ("gemma2", "gemma2", dict(head_dim=8)),
    ("gemma3", "gemma3_text", dict(head_dim=8)),
    ("phi2", "phi", {}),
    ("phi3", "phi3", {}),
    ("gpt2", "gpt2", dict(n_embd=32, n_head=4, n_layer=2, n_positions=256)),
    ("starcoder2", "starcoder2", {}),
    ("stablelm", "stablelm", dict(qk_layernorm=True, use_qkv_bias=True)),
    ("olmo", "olmo", {}),
    ("olmo2", "olmo2", {}),
    ("olmoe", "olmoe", dict(num_experts=4, num_experts_per_tok=2)),
    ("granite", "granite", {}),
    ("smollm3", "smollm3", {}),
    ("qwen2moe", "qwen2_moe", dict(MOE, shared_expert_intermediate_size=32)),
    ("qwen3moe", "qwen3_moe", dict(MOE, head_dim=8)),
    ("command-r", "cohere", dict(use_qk_norm=True)),
    ("glm4", "glm4", dict(head_dim=8, attention_bias=True)),
    ("falcon", "falcon", dict(multi_query=True, new_decoder_architecture=False)),
    ("falcon", "falcon", dict(multi_query=False, new_decoder_architecture=True, num_kv_heads=2)),
    ("gptneox", "gpt_neox", {}),
]


def architecture(arch):
    return next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == arch)


def checkpoint(model):
    """Tensors as `save_pretrained` names them, which for experts isn't how the module holds them."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return dict(split_experts(load_file(Path(folder) / "model.safetensors")))


def split_experts(state):
    """Experts one by one, also for a model from a GGUF file, which transformers saves as it holds them."""
    for name, tensor in state.items():
        parent, _, last = name.rpartition(".")
        for expert in range(len(tensor) if parent.endswith("experts") and tensor.dim() == 3 else 0):
            if last == "gate_up_proj":
                gate, up = tensor[expert].chunk(2)
                yield f"{parent}.{expert}.gate_proj.weight", gate.contiguous()
                yield f"{parent}.{expert}.up_proj.weight", up.contiguous()
            else:
                yield f"{parent}.{expert}.{last}.weight", tensor[expert].contiguous()
        if not (parent.endswith("experts") and tensor.dim() == 3):
            yield name, tensor


def gguf_name(name_map, hf_name):
    """llama.cpp's name, and the index of the expert or head inside a stacked tensor."""
    words = hf_name.split(".")
    part = None
    for parent in ("experts", "norms"):
        if parent in words:
            at = words.index(parent) + 1
            part = int(words.pop(at))
            if parent == "norms":
                words.pop(at - 1)
    name = name_map.get_name(".".join(words), try_suffixes=(".weight", ".bias"))
    return name, part


def make_names():
    families = []
    for arch, model_type, sizes in FAMILIES:
        torch.manual_seed(0)
        config = AutoConfig.for_model(model_type, **{**BASE, **sizes})
        model = AutoModelForCausalLM.from_config(config)
        name_map = gguf.get_tensor_name_map(architecture(arch), 2)
        pairs = []
        for hf_name in sorted(checkpoint(model)):
            name, _ = gguf_name(name_map, hf_name)
            assert name is not None, (arch, hf_name)
            pairs.append([name, hf_name])
        families.append(
            {
                "arch": arch,
                "class": type(model).__name__,
                "model_type": model_type,
                "experts": sizes.get("num_experts", sizes.get("num_local_experts", 0)),
                "pairs": pairs,
            }
        )
    rows = ",\n".join(json.dumps(family) for family in families)
    (FOLDER / "names.json").write_text("[\n" + rows + "\n]\n")
    print(f"names: {len(families)} families")


def random_blocks(kind, rows, columns, generator):
    """Blocks of random bits with scales as real weights have them, so that every bit of the layout counts."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    count = rows * columns // block
    blocks = generator.integers(0, 256, (count, size), dtype=np.uint8)
    half = lambda: generator.uniform(0.002, 0.02, count).astype(np.float16).view(np.uint8).reshape(count, 2)
    # byte offsets of the f16 scales in a block, from ggml-common.h
    scales = {
        Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q5_0: [0], Type.Q5_1: [0, 2], Type.Q8_0: [0], Type.Q8_1: [0],
        Type.Q2_K: [80, 82], Type.Q3_K: [108], Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208],
    }
    for at in scales.get(kind, []):
        blocks[:, at : at + 2] = half()
    if kind == Type.Q8_1:  # d·Σq, which follows from the rest
        d = blocks[:, 0:2].copy().view(np.float16).astype(np.float32)[:, 0]
        total = blocks[:, 4:].view(np.int8).astype(np.float32).sum(1)
        blocks[:, 2:4] = (d * total).astype(np.float16).view(np.uint8).reshape(count, 2)
    if kind == Type.Q8_K:
        blocks[:, 0:4] = generator.uniform(0.002, 0.02, count).astype(np.float32).view(np.uint8).reshape(count, 4)
        sums = blocks[:, 4:260].view(np.int8).reshape(count, 16, 16).astype(np.int16).sum(2, dtype=np.int16)
        blocks[:, 260:292] = sums.view(np.uint8).reshape(count, 32)
    return blocks.reshape(rows, -1)


def values_of(blocks, kind, columns):
    if kind == Type.Q8_1:  # which the package doesn't dequantise: d·q, as dequantize_row_q8_1 of ggml
        each = blocks.reshape(-1, 36)
        d = each[:, 0:2].copy().view(np.float16).astype(np.float32)
        return (d * each[:, 4:].copy().view(np.int8).astype(np.float32)).reshape(-1, columns)
    if kind == Type.Q8_K:
        each = blocks.reshape(-1, 292)
        d = each[:, 0:4].copy().view(np.float32)
        return (d * each[:, 4:260].copy().view(np.int8).astype(np.float32)).reshape(-1, columns)
    return dequantize(blocks, kind)


def make_types():
    generator = np.random.default_rng(1)
    rows, columns = 4, 256
    kinds = [
        Type.F32, Type.F16, Type.BF16, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0, Type.Q8_1, Type.Q2_K,
        Type.Q3_K, Type.Q4_K, Type.Q5_K, Type.Q6_K, Type.Q8_K,
    ]
    writer = gguf.GGUFWriter(FOLDER / "types.gguf", "llama")
    expected = {"activations": torch.from_numpy(generator.standard_normal((3, columns)).astype(np.float32))}
    for index, kind in enumerate(kinds):
        name = f"blk.{index}.ffn_down.weight"
        plain = generator.standard_normal((rows, columns)).astype(np.float32)
        if kind == Type.F32:
            writer.add_tensor(name, plain)
            values = plain
        elif kind == Type.F16:
            writer.add_tensor(name, plain.astype(np.float16))
            values = plain.astype(np.float16).astype(np.float32)
        else:
            blocks = quantize(plain, kind) if kind == Type.BF16 else random_blocks(kind, rows, columns, generator)
            writer.add_tensor(name, blocks, raw_dtype=kind)
            values = values_of(blocks, kind, columns)
        expected[kind.name] = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
    close(writer)
    save_file(expected, FOLDER / "types.safetensors")
    (FOLDER / "types.safetensors").chmod(0o644)
    print(f"types: {len(kinds)}")


def close(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def interleaved(weight, heads):
    shape = weight.shape
    return weight.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def regrouped(weight, heads, groups):
    """(group: queries, key, value) → all queries, all keys, all values."""
    each = heads // groups
    shape = weight.shape
    parts = weight.reshape(groups, each + 2, shape[0] // (heads + 2 * groups), *shape[1:])
    pieces = [parts[:, :each], parts[:, each : each + 1], parts[:, each + 1 :]]
    return np.concatenate([piece.reshape(-1, *shape[1:]) for piece in pieces])


def convert(arch, hf_name, weight, config):
    """What convert_hf_to_gguf.py does to a tensor besides renaming it."""
    heads = config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", heads)
    if arch in ("llama", "granite", "smollm3", "olmo"):
        if ".q_proj." in hf_name:
            return interleaved(weight, heads)
        if ".k_proj." in hf_name:
            return interleaved(weight, groups)
    if arch.startswith("gemma") and hf_name.endswith("norm.weight"):
        return weight + 1
    if arch == "gpt2" and hf_name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
        return weight.T
    if arch == "falcon" and "query_key_value" in hf_name:
        return regrouped(weight, heads, config.num_kv_heads if config.new_decoder_architecture else 1)
    if arch == "gptneox" and "query_key_value" in hf_name:
        return regrouped(weight, heads, heads)
    if hf_name.endswith("shared_expert_gate.weight"):
        return weight.squeeze(0)
    return weight


def add_config(writer, arch, config):
    get = lambda *names: next((getattr(config, name) for name in names if getattr(config, name, None) is not None), None)
    rope = getattr(config, "rope_parameters", None) or {}
    rope = rope.get("full_attention", rope)
    heads = config.num_attention_heads
    head_dim = get("head_dim") or config.hidden_size // heads
    if arch == "falcon":
        groups = config.num_kv_heads if config.new_decoder_architecture else 1
    else:
        groups = get("num_key_value_heads") or heads
    writer.add_context_length(get("max_position_embeddings", "n_positions"))
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    # the configs of gpt2 and falcon keep an `intermediate_size` that they don't use
    inner = {"gpt2": "n_inner", "falcon": "ffn_hidden_size"}.get(arch, "intermediate_size")
    writer.add_feed_forward_length(get(inner) or 4 * config.hidden_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(groups)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    if arch != "gpt2":
        writer.add_rope_dimension_count(int(head_dim * rope.get("partial_rotary_factor", 1.0)))
        writer.add_rope_freq_base(rope.get("rope_theta", 10000.0))
    if (eps := get("rms_norm_eps")) is not None:
        writer.add_layer_norm_rms_eps(eps)
    if (eps := get("layer_norm_epsilon", "layer_norm_eps", "norm_epsilon")) is not None:
        writer.add_layer_norm_eps(eps)
    if (experts := get("num_experts", "num_local_experts")) is not None:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
        writer.add_expert_feed_forward_length(get("moe_intermediate_size", "intermediate_size"))
    if arch.startswith("gemma") and arch != "gemma":
        writer.add_sliding_window(config.sliding_window)
    if arch == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if arch == "granite":
        writer.add_attention_scale(config.attention_multiplier)
        writer.add_embedding_scale(config.embedding_multiplier)
        writer.add_residual_scale(config.residual_multiplier)
        writer.add_logit_scale(config.logits_scaling)
    if rope.get("rope_type") == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_divisors(rope, head_dim))
    if rope.get("rope_type") == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if rope.get("rope_type") == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])


def llama3_divisors(rope, head_dim):
    """As LlamaModel.generate_extra_tensors of convert_hf_to_gguf.py."""
    frequencies = 1.0 / rope["rope_theta"] ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    low, high, old = rope["low_freq_factor"], rope["high_freq_factor"], rope["original_max_position_embeddings"]
    divisors = []
    for wavelength in 2 * np.pi / frequencies:
        if wavelength < old / high:
            divisors.append(1.0)
        elif wavelength > old / low:
            divisors.append(rope["factor"])
        else:
            smooth = (old / wavelength - low) / (high - low)
            divisors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(divisors, dtype=np.float32)


def byte_characters():
    """GPT-2's printable stand-ins for the 256 bytes."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def add_tokenizer(writer, vocab_size, eos):
    """Byte-level BPE: three control tokens, the bytes, and merges of pairs up to the vocabulary's size."""
    letters = byte_characters()
    tokens = ["<pad>", "<s>", "</s>"] + letters
    pairs = [(a, b) for a in "eationsr" for b in "ntrsdly "][: vocab_size - len(tokens)]
    pairs = [(a, "Ġ" if b == " " else b) for a, b in pairs]
    tokens += [a + b for a, b in pairs]
    assert len(tokens) == vocab_size == len(set(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 3 + [1] * (vocab_size - 3))
    writer.add_token_merges([f"{a} {b}" for a, b in pairs])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(eos)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_chat_template("{% for message in messages %}{{ message['content'] }}{% endfor %}")


def write_model(path, arch, model, kind, eos):
    config = model.config
    name_map = gguf.get_tensor_name_map(architecture(arch), config.num_hidden_layers)
    writer = gguf.GGUFWriter(path, arch)
    writer.add_name("tiny")
    add_config(writer, arch, config)
    add_tokenizer(writer, config.vocab_size, eos)
    stacks = {}
    for hf_name, tensor in sorted(checkpoint(model).items()):
        name, part = gguf_name(name_map, hf_name)
        weight = convert(arch, hf_name, tensor.float().numpy(), config)
        stacks.setdefault(name, {})[part] = weight
    for name, parts in stacks.items():
        weight = parts[None] if None in parts else np.stack([parts[part] for part in sorted(parts)])
        weight = np.ascontiguousarray(weight)
        # vectors and routers stay in f32, as llama.cpp leaves them
        if weight.ndim == 1 or "gate_inp" in name or kind == Type.F32 or "position_embd" in name:
            writer.add_tensor(name, weight)
        elif kind == Type.F16:
            writer.add_tensor(name, weight.astype(np.float16))
        else:
            writer.add_tensor(name, quantize(weight, kind), raw_dtype=kind)
    close(writer)


def llama3_rope():
    return tiny.rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)


def models():
    """Name, llama.cpp's family, transformers' type, sizes, how matrices are stored."""
    tied, untied = dict(tie_word_embeddings=True), dict(tie_word_embeddings=False)
    yield "llama_f16", "llama", "llama", tied, Type.F16
    yield "llama_q8_0", "llama", "llama", untied, Type.Q8_0
    yield "llama_q4_0", "llama", "llama", untied, Type.Q4_0
    yield "llama3_f16", "llama", "llama", dict(untied, rope_parameters=llama3_rope()), Type.F16
    yield "qwen2_q8_0", "qwen2", "qwen2", tied, Type.Q8_0
    yield "qwen3_f16", "qwen3", "qwen3", dict(tied, head_dim=8), Type.F16
    yield "gemma2_q8_0", "gemma2", "gemma2", dict(tied, head_dim=8, sliding_window=64, query_pre_attn_scalar=8), Type.Q8_0
    yield "phi3_f16", "phi3", "phi3", dict(untied, sliding_window=None), Type.F16
    yield "gpt2_f16", "gpt2", "gpt2", dict(untied, n_embd=32, n_head=4, n_layer=2, n_positions=256), Type.F16
    yield "mixtral_q8_0", "llama", "mixtral", dict(
        untied, num_local_experts=4, num_experts_per_tok=2, sliding_window=None
    ), Type.Q8_0
    yield "qwen2moe_f16", "qwen2moe", "qwen2_moe", dict(untied, **MOE, shared_expert_intermediate_size=32), Type.F16
    yield "falcon_f16", "falcon", "falcon", dict(
        tied, multi_query=False, new_decoder_architecture=True, num_kv_heads=2, alibi=False, bias=False
    ), Type.F16
    yield "gptneox_f16", "gptneox", "gpt_neox", untied, Type.F16


# transformers has no GGUF loader for Mixtral and GPT-NeoX, and its loader for Falcon doesn't undo the groups
LOADED_ELSEWHERE = {"mixtral", "gpt_neox", "falcon"}


def reload(folder, model, arch, kind):
    """The model with the weights that the file holds: through transformers' loader, or rounded here."""
    if model.config.model_type not in LOADED_ELSEWHERE:
        loaded = AutoModelForCausalLM.from_pretrained(
            folder, config=model.config, gguf_file="model.gguf", dtype=torch.float32, attn_implementation="eager"
        ).eval()
        loaded.hf_quantizer = None  # dequantised while loading, and free to be saved
        wanted, found = checkpoint(model), checkpoint(loaded)
        assert wanted.keys() == found.keys(), wanted.keys() ^ found.keys()
        return loaded
    state = checkpoint(model)
    for name, tensor in state.items():
        if tensor.dim() > 1 and not name.endswith("gate.weight"):
            weight = convert(arch, name, tensor.numpy(), model.config)
            rounded = dequantize(quantize(weight, kind), kind) if kind != Type.F16 else weight.astype(np.float16)
            # rows only change places on the way, and blocks lie within rows
            back = np.empty_like(weight, dtype=np.float32)
            order = convert(arch, name, np.arange(weight.shape[0])[:, None].repeat(1, 1), model.config)[:, 0]
            back[order] = rounded
            state[name] = torch.from_numpy(back)
    with tempfile.TemporaryDirectory() as temporary:
        model.config.save_pretrained(temporary)
        save_file(state, Path(temporary) / "model.safetensors", metadata={"format": "pt"})
        return AutoModelForCausalLM.from_pretrained(temporary, dtype=torch.float32, attn_implementation="eager").eval()


def make_model(name, arch, model_type, sizes, kind):
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config = AutoConfig.for_model(model_type, **{**BASE, **sizes})
    for seed in range(1, 60):
        model = tiny.random_model(config, seed, torch.float32)
        if model_type == "gpt2":
            with torch.no_grad():
                # answers that vary more, and further apart
                model.transformer.wte.weight.div_(3)
                model.transformer.wpe.weight.mul_(2)
                model.lm_head.weight.mul_(4)
        write_model(folder / "model.gguf", arch, model, kind, 2)
        loaded = reload(folder, model, arch, kind)
        prompts = tiny.random_prompts(config.vocab_size, 12, seed)
        golden, smallest = tiny.reference(loaded, prompts, 1)
        varies = all(len(set(row)) >= 5 for row in golden["greedy"])
        if smallest > tiny.SMALLEST_MARGIN and varies:
            write_model(folder / "model.gguf", arch, model, kind, golden["eos_ids"][0])
            state = checkpoint(loaded)
            tensors = {key: checks(state[key]) for key in sorted(state)}
            config_rows = {
                key: value
                for key, value in loaded.config.to_dict().items()
                if isinstance(value, (int, float, str, bool)) and not key.startswith("_")
            }
            rows = dict(architecture=type(loaded).__name__, stored=kind.name, config=config_rows, **golden)
            lines = ",\n".join(f'"{key}": {json.dumps(value)}' for key, value in rows.items())
            tensor_lines = ",\n".join(f'  "{key}": {json.dumps(value)}' for key, value in tensors.items())
            (folder / "golden.json").write_text("{\n" + lines + ',\n"tensors": {\n' + tensor_lines + "\n}\n}\n")
            print(f"{name}: seed {seed}, smallest margin {smallest:.4f}, eos {golden['eos_ids']}", flush=True)
            return
    raise SystemExit(f"{name}: no seed gives answers that vary with margins above {tiny.SMALLEST_MARGIN}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="`names`, `types` or one model")
    args = parser.parse_args()
    torch.set_num_threads(1)
    disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    FOLDER.mkdir(parents=True, exist_ok=True)
    if args.only in (None, "names"):
        make_names()
    if args.only in (None, "types"):
        make_types()
    for name, *rest in models():
        if args.only in (None, name):
            make_model(name, *rest)


if __name__ == "__main__":
    main()
