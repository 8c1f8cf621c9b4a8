#!/usr/bin/env python3
"""Writes the reference answers of tests/golden/: those of Hugging Face transformers for tiny random models and for the
bundled models, in f32 on the CPU.

    python scripts/make_goldens.py    # the tiny models: tests/golden/<name>/
    python scripts/make_goldens.py --bundled data/models --prompts data/instructions/heldout.jsonl
                                      # the bundled models: tests/golden/bundled.json

Needs torch and transformers 5 (CPU builds are enough). Each run gives the same files.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaConfig, MistralConfig
from transformers.utils.logging import disable_progress_bar

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "golden"
STEPS = 32
SMALLEST_MARGIN = 2e-3  # between the two largest logits of a step: far above the noise of f32
FEWEST_TOKENS = 8  # different tokens in each answer: an answer that repeats itself tests little

SIZES = dict(
    vocab_size=300,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
    tie_word_embeddings=True,
    bos_token_id=1,
    eos_token_id=2,
)


def rope(kind, theta=10000.0, **scaling):
    return {"rope_type": kind, "rope_theta": theta, **scaling}


def models():
    """Name, config, and how the folder is written."""
    llama3 = rope(
        "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32
    )
    yield "mha_untied", LlamaConfig(**SIZES | dict(num_key_value_heads=4, tie_word_embeddings=False)), {}
    yield "gqa_tied", LlamaConfig(**SIZES | dict(hidden_size=48, num_attention_heads=6)), {}
    yield "wide_heads", LlamaConfig(**SIZES | dict(head_dim=16, num_key_value_heads=1)), {}
    yield "rope_linear", LlamaConfig(**SIZES, rope_parameters=rope("linear", factor=4.0)), dict(spelling=4)
    yield "rope_llama3", LlamaConfig(**SIZES, rope_parameters=llama3), dict(longest=90)
    yield "sharded", LlamaConfig(**SIZES), dict(shard="40KB")
    yield "several_eos", LlamaConfig(**SIZES), dict(eos=2)
    yield "biases", LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True), {}
    yield "stored_bf16", LlamaConfig(**SIZES), dict(dtype=torch.bfloat16)
    yield "stored_f16", LlamaConfig(**SIZES), dict(dtype=torch.float16)
    yield "mistral", MistralConfig(**SIZES, sliding_window=None), dict(spelling=4)


def random_model(config, seed, dtype):
    """A model whose answers vary and whose norms and biases matter, with weights that `dtype` holds exactly."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.copy_(1 + 0.2 * torch.randn_like(parameter))
            elif name.endswith("bias"):
                parameter.copy_(0.3 * torch.randn_like(parameter))
            else:
                scale = 1.0 if "embed" in name else 3.0
                parameter.copy_(scale * torch.randn_like(parameter) / parameter.shape[-1] ** 0.5)
            # Not `model.to(dtype).float()`, which would round the frequencies of the rotary embedding, too.
            parameter.copy_(parameter.to(dtype))
    return model


def random_prompts(vocab_size, longest, seed):
    generator = torch.Generator().manual_seed(seed)
    lengths = [longest, 3, 1, max(longest // 2, 2)]
    return [torch.randint(3, vocab_size, (length,), generator=generator).tolist() for length in lengths]


def left_padded(prompts):
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids, mask


def generate(model, prompts, suppress=None):
    """Greedy tokens (rows, STEPS) and raw logits (rows, STEPS, vocabulary); nothing ends a row."""
    ids, mask = left_padded(prompts)
    model.generation_config.eos_token_id = None
    out = model.generate(
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


def margins(logits):
    top = logits.topk(2).values
    return top[..., 0] - top[..., 1]


def pick_eos(tokens, count):
    """Tokens that end some of the rows after a few steps: the first row first, then others."""
    eos = [tokens[0, 9].item()]
    for row in tokens[1:].tolist():
        if len(eos) < count and not set(eos) & set(row):
            eos.append(row[14])
    return sorted(eos)


def first_eos(logits, eos):
    """Step, counted from 1, at which each row's unmasked argmax is first an end-of-sequence token."""
    hits = torch.isin(logits.argmax(-1), torch.tensor(eos))
    return [row.nonzero()[0].item() + 1 if row.any() else None for row in hits]


def reference(model, prompts, eos_count):
    tokens, logits = generate(model, prompts)
    eos = pick_eos(tokens, eos_count)
    fixed, fixed_logits = generate(model, prompts, suppress=eos)
    masked = fixed_logits.clone()
    masked[..., eos] = -torch.inf
    smallest = min(margins(logits).min(), margins(masked).min(), margins(fixed_logits).min()).item()
    golden = dict(
        prompts=prompts,
        eos_ids=eos,
        greedy=tokens.tolist(),
        margins=[[round(m, 5) for m in row] for row in margins(logits).tolist()],
        prompt_logits=[[float(f"{x:.8g}") for x in row] for row in logits[:, 0].tolist()],
        fixed=fixed.tolist(),
        natural_lengths=first_eos(fixed_logits, eos),
    )
    return golden, smallest


def respell(config):
    """The config as transformers 4 writes it."""
    parameters = config.pop("rope_parameters")
    config["rope_theta"] = parameters.pop("rope_theta")
    config["rope_scaling"] = None if parameters["rope_type"] == "default" else parameters
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.46.0"
    return config


def write(name, model, golden, shard="1GB", dtype=torch.float32, spelling=5, **_):
    folder = GOLDEN / name
    shutil.rmtree(folder, ignore_errors=True)
    model.config.eos_token_id = golden["eos_ids"][0]
    model.generation_config.eos_token_id = golden["eos_ids"] if len(golden["eos_ids"]) > 1 else golden["eos_ids"][0]
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)
    for file in folder.iterdir():
        file.chmod(0o644)
    config = json.loads((folder / "config.json").read_text())
    if spelling == 4:
        (folder / "config.json").write_text(json.dumps(respell(config), indent=1) + "\n")
    rows = ",\n".join(f'"{key}": {json.dumps(value)}' for key, value in golden.items())
    (folder / "golden.json").write_text("{\n" + rows + "\n}\n")


def varies(golden):
    first = golden["natural_lengths"][0] or 0
    return first > 2 and all(len(set(row)) >= FEWEST_TOKENS for row in golden["greedy"])


def make_tiny(name, config, how):
    for seed in range(1, 200):
        model = random_model(config, seed, how.get("dtype", torch.float32))
        prompts = random_prompts(config.vocab_size, how.get("longest", 12), seed)
        golden, smallest = reference(model, prompts, how.get("eos", 1))
        if smallest > SMALLEST_MARGIN and varies(golden) and len(golden["eos_ids"]) == how.get("eos", 1):
            write(name, model, golden, **how)
            print(f"{name}: seed {seed}, smallest margin {smallest:.4f}, eos {golden['eos_ids']}")
            return
    raise SystemExit(f"{name}: no seed gives answers that vary with margins above {SMALLEST_MARGIN}")


def instruction_prompt(row):
    """The prompt of a row in Dolly's columns, as src/prompts/dolly.rs writes it."""
    instruction, context = row["instruction"].strip(), row.get("context", "").strip()
    middle = f"Context: {context}\n\n" if context else ""
    return f"Instruction: {instruction}\n\n{middle}Answer:"


def read_prompts(file, count):
    lines = [line for line in Path(file).read_text().splitlines() if line.strip()]
    return [instruction_prompt(json.loads(line)) for line in lines[:count]]


def natural(tokens, eos):
    """A row up to and including its first end-of-sequence token."""
    end = next((step for step, token in enumerate(tokens) if token in eos), len(tokens))
    return tokens[: end + 1]


def make_bundled(folder, texts):
    models = {}
    for path in sorted(config.parent for config in Path(folder).glob("*/config.json")):
        tokenizer = AutoTokenizer.from_pretrained(path)
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()
        eos = model.generation_config.eos_token_id
        eos = eos if isinstance(eos, list) else [eos]
        prompts = [tokenizer(text)["input_ids"] for text in texts]
        tokens, logits = generate(model, prompts)
        greedy = [natural(row, eos) for row in tokens.tolist()]
        models[path.name] = dict(
            prompts=prompts,
            greedy=greedy,
            margins=[[round(m, 5) for m in row[: len(g)]] for row, g in zip(margins(logits).tolist(), greedy)],
            answers=[tokenizer.decode(row, skip_special_tokens=True) for row in greedy],
        )
        smallest = min(min(row) for row in models[path.name]["margins"])
        print(f"{path.name}: smallest margin {smallest:.5f}")
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(model)}" for name, model in models.items())
    text = f'{{\n"folder": {json.dumps(str(folder))},\n"texts": {json.dumps(texts)},\n"models": {{\n{lines}\n}}\n}}\n'
    (GOLDEN / "bundled.json").write_text(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="one tiny model")
    parser.add_argument("--bundled", help="folder of model folders, relative to the root of the repository")
    parser.add_argument("--prompts", help="JSON lines with `instruction` and `context`")
    parser.add_argument("--count", type=int, default=16, help="number of prompts")
    args = parser.parse_args()
    torch.set_num_threads(2)
    disable_progress_bar()
    if args.bundled:
        make_bundled(args.bundled, read_prompts(args.prompts, args.count))
        return
    for name, config, how in models():
        if args.only in (None, name):
            make_tiny(name, config, how)


if __name__ == "__main__":
    main()
