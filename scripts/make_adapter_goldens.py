#!/usr/bin/env python3
"""Writes the reference answers of tests/golden/adapters/: LoRA adapters as PEFT saves them, and the weights and answers
of PEFT's own merged model, in f32 on the CPU.

    python scripts/make_adapter_goldens.py                 # tests/golden/adapters/<name>/
    python scripts/make_adapter_goldens.py --only dora_gpt2

Needs torch, transformers 5 and peft (CPU builds are enough), and the folders that scripts/make_goldens.py writes. Each
run gives the same files.

Fields of an adapter's `golden.json`:

    base            folder of the base model, relative to the adapter's
    merged          for each tensor that merging changes, by its name in the base model: shape, sum, sum of magnitudes,
                    and a few values at fixed places of the flat tensor
    merged_output   the output layer has weights of its own after merging, though the base ties it to the embedding
    prompts, greedy, margins, prompt_logits, fixed, natural_lengths, eos_ids
                    as scripts/make_goldens.py writes them, for the merged model and with the base model's eos tokens
"""

import argparse
import json
import os
import shutil
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config
from transformers.utils.logging import disable_progress_bar

import make_goldens as tiny

ADAPTERS = tiny.GOLDEN / "adapters"
SAMPLES = 8
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
FEED_FORWARD = ["gate_proj", "up_proj", "down_proj"]


def adapters():
    """Name, base model, LoRA configuration, and how the adapter is written."""
    lora = dict(r=4, lora_alpha=8, bias="none", lora_dropout=0.0, task_type="CAUSAL_LM")
    conv = ["c_attn", "c_proj", "c_fc"]
    yield "lora", "gqa_tied", LoraConfig(**lora, target_modules=["q_proj", "v_proj", "down_proj"]), {}
    yield "lora_bf16", "mha_untied", LoraConfig(**lora, target_modules=ATTENTION), dict(dtype=torch.bfloat16)
    yield "lora_gpt2", "adapters/gpt2", LoraConfig(**lora, target_modules=conv), dict(fewest=5)
    yield "rslora", "mha_untied", LoraConfig(**lora, use_rslora=True, target_modules=ATTENTION + FEED_FORWARD), {}
    yield "dora", "gqa_tied", LoraConfig(**lora, use_dora=True, target_modules=["q_proj", "o_proj", "up_proj"]), {}
    yield "dora_gpt2", "adapters/gpt2", LoraConfig(**lora, use_dora=True, target_modules=conv), dict(fewest=5)
    yield "patterns", "gqa_tied", LoraConfig(
        **lora,
        target_modules=ATTENTION + FEED_FORWARD,
        rank_pattern={"q_proj": 2, r"layers\.1\.mlp\.(gate|up)_proj": 3, r"^model\.layers\.0\.mlp\.down_proj": 1},
        alpha_pattern={"model.layers.0.self_attn.v_proj": 5, r"self_attn\.\w_proj": 12},
    ), {}
    yield "patterns_rslora", "mha_untied", LoraConfig(
        **lora, use_rslora=True, target_modules=ATTENTION, rank_pattern={"k_proj": 2}, alpha_pattern={"v_proj": 3}
    ), {}
    saves = dict(lora, target_modules=["q_proj"])
    yield "saved_head", "mha_untied", LoraConfig(**saves, modules_to_save=["lm_head"]), {}
    yield "saved_head_tied", "gqa_tied", LoraConfig(**saves, modules_to_save=["lm_head"]), {}
    yield "saved_embedding_tied", "gqa_tied", LoraConfig(**saves, modules_to_save=["embed_tokens"]), {}
    yield "saved_embedding_kept_tied", "gqa_tied", LoraConfig(
        **saves, modules_to_save=["embed_tokens"], ensure_weight_tying=True
    ), {}
    yield "saved_norms", "gqa_tied", LoraConfig(**saves, modules_to_save=["input_layernorm", "norm"]), {}
    yield "bias_all", "biases", LoraConfig(**lora | dict(bias="all"), target_modules=["q_proj", "v_proj"]), {}
    yield "bias_lora_only", "biases", LoraConfig(**lora | dict(bias="lora_only"), target_modules=["q_proj"]), {}
    yield "embedding", "mha_untied", LoraConfig(**lora, target_modules=["embed_tokens", "lm_head", "q_proj"]), {}
    yield "embedding_dora", "mha_untied", LoraConfig(**lora, use_dora=True, target_modules=["embed_tokens", "q_proj"]), {}
    yield "embedding_tied", "gqa_tied", LoraConfig(**lora, target_modules=["embed_tokens", "q_proj"]), dict(untie=True)
    yield "embedding_kept_tied", "gqa_tied", LoraConfig(
        **lora, target_modules=["embed_tokens", "q_proj"], ensure_weight_tying=True
    ), dict(untie=True)


def make_gpt2():
    """The base model with `Conv1D` layers, whose weights are stored transposed."""
    config = GPT2Config(
        vocab_size=300,
        n_positions=64,
        n_embd=32,
        n_layer=2,
        n_head=4,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
    )
    folder = ADAPTERS / "gpt2"
    shutil.rmtree(folder, ignore_errors=True)
    model = tiny.random_model(config, 1, torch.float32)
    with torch.no_grad():
        # answers that vary more, and further apart
        model.transformer.wte.weight.div_(3)
        model.transformer.wpe.weight.mul_(2)
        model.lm_head.weight.mul_(4)
    model.save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)


def load_base(name):
    return AutoModelForCausalLM.from_pretrained(
        tiny.GOLDEN / name, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def load_untied(name):
    """The base with a copy of the embedding table as output layer, which is PEFT's advice for merging into tied
    tables: otherwise it adds the update of one to the storage of both."""
    base = load_base(name)
    untied = AutoModelForCausalLM.from_pretrained(
        tiny.GOLDEN / name, dtype=torch.float32, attn_implementation="eager", tie_word_embeddings=False
    ).eval()
    untied.lm_head.weight.data = base.get_input_embeddings().weight.data.clone()
    return untied


def merge(folder, base_name, untie):
    """PEFT's merged model."""
    if not untie:
        return PeftModel.from_pretrained(load_base(base_name), folder).eval().merge_and_unload()
    config = LoraConfig.from_pretrained(folder)
    if config.ensure_weight_tying:
        # the file has the output layer's factors, too
        config.ensure_weight_tying = False
        config.target_modules = set(config.target_modules) | {"lm_head"}
    return PeftModel.from_pretrained(load_untied(base_name), folder, config=config).eval().merge_and_unload()


def randomise(model, seed):
    """Stands in for training: everything that PEFT would train gets other values."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            noise = torch.randn_like(parameter)
            if "lora_magnitude_vector" in name:
                parameter.mul_(1 + 0.2 * noise)
            elif "lora_" in name:
                parameter.copy_(noise / max(parameter.shape) ** 0.5)
            else:
                parameter.add_(0.2 * noise * parameter.std().clamp(min=0.05))


def save(model, folder, base, dtype):
    shutil.rmtree(folder, ignore_errors=True)
    model.peft_config["default"].base_model_name_or_path = base
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    # sets have no order of their own
    config = json.loads((folder / "adapter_config.json").read_text())
    for key in ("target_modules", "modules_to_save"):
        config[key] = sorted(config[key]) if isinstance(config[key], list) else config[key]
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n")
    if dtype is not None:
        file = folder / "adapter_model.safetensors"
        save_file({name: tensor.to(dtype) for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})
    for file in folder.iterdir():
        file.chmod(0o644)


def checks(tensor):
    flat = tensor.detach().double().flatten()
    places = [(index * flat.numel()) // SAMPLES + index % 3 for index in range(SAMPLES)]
    places = [min(place, flat.numel() - 1) for place in places]
    exact = lambda value: float(f"{value:.9g}")
    return dict(
        shape=list(tensor.shape),
        sum=exact(flat.sum().item()),
        abs_sum=exact(flat.abs().sum().item()),
        at=places,
        values=[exact(flat[place].item()) for place in places],
    )


def changed(base, merged):
    """Tensors of the merged model that differ from the base's, by name; a tied output counts only where it is untied."""
    before = base.state_dict()
    after = merged.state_dict()
    assert before.keys() == after.keys()
    tied = after["lm_head.weight"].data_ptr() == merged.get_input_embeddings().weight.data_ptr()
    names = [name for name in after if not torch.equal(before[name], after[name])]
    if tied:
        names = [name for name in names if name != "lm_head.weight"]
    elif base.config.tie_word_embeddings:
        names = [name for name in names if name != "lm_head.weight"] + ["lm_head.weight"]
    return {name: checks(after[name]) for name in names}, not tied and base.config.tie_word_embeddings


def reference(model, prompts, eos, fewest):
    tokens, logits = tiny.generate(model, prompts)
    fixed, fixed_logits = tiny.generate(model, prompts, suppress=eos)
    masked = fixed_logits.clone()
    masked[..., eos] = -torch.inf
    smallest = min(tiny.margins(each).min() for each in (logits, masked, fixed_logits)).item()
    golden = dict(
        prompts=prompts,
        eos_ids=eos,
        greedy=tokens.tolist(),
        margins=[[round(m, 5) for m in row] for row in tiny.margins(logits).tolist()],
        prompt_logits=[[float(f"{x:.8g}") for x in row] for row in logits[:, 0].tolist()],
        fixed=fixed.tolist(),
        natural_lengths=tiny.first_eos(fixed_logits, eos),
    )
    varies = all(len(set(row)) >= fewest for row in golden["greedy"])
    return golden, smallest, varies


def output_of(model, prompts):
    ids, mask = tiny.left_padded(prompts)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask, position_ids=positions).logits[:, -1]


def make(name, base_name, config, how):
    folder = ADAPTERS / name
    relative = os.path.relpath(tiny.GOLDEN / base_name, folder)
    base = load_base(base_name)
    eos = base.generation_config.eos_token_id
    eos = eos if isinstance(eos, list) else [eos]
    for seed in range(1, 200):
        adapted = get_peft_model(load_base(base_name), config)
        randomise(adapted, seed)
        save(adapted, folder, relative, how.get("dtype"))
        loaded = PeftModel.from_pretrained(load_base(base_name), folder).eval()
        prompts = tiny.random_prompts(base.config.vocab_size, 12, seed)
        before = output_of(loaded, prompts)
        merged = merge(folder, base_name, how.get("untie", False))
        drift = (output_of(merged, prompts) - before).abs().max().item()
        golden, smallest, varies = reference(merged, prompts, eos, how.get("fewest", tiny.FEWEST_TOKENS))
        if smallest > tiny.SMALLEST_MARGIN and varies:
            tensors, own_output = changed(base, merged)
            rows = dict(base=relative, merged_output=own_output, **golden)
            lines = ",\n".join(f'"{key}": {json.dumps(value)}' for key, value in rows.items())
            merged_lines = ",\n".join(f'  "{key}": {json.dumps(value)}' for key, value in tensors.items())
            (folder / "golden.json").write_text("{\n" + lines + ',\n"merged": {\n' + merged_lines + "\n}\n}\n")
            print(f"{name}: seed {seed}, margin {smallest:.4f}, merging moves logits by {drift:.1e}, {len(tensors)} tensors")
            return
    raise SystemExit(f"{name}: no seed gives answers that vary with margins above {tiny.SMALLEST_MARGIN}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="one adapter")
    args = parser.parse_args()
    torch.set_num_threads(1)
    disable_progress_bar()
    warnings.filterwarnings("ignore")
    if args.only is None:
        make_gpt2()
    for name, base, config, how in adapters():
        if args.only in (None, name):
            make(name, base, config, how)


if __name__ == "__main__":
    main()
