#!/usr/bin/env python3
"""Compares the engine with Hugging Face transformers on a GPU, in the same data type on the same dummy weights.

    cargo build --release --features cuda --example agreement
    python scripts/gpu_agreement.py target/release/examples/agreement --out agreement.json

Makes a checkpoint of a 1.2-billion-parameter Llama 3.2 shape whose weights follow the rule of `weights: dummy` (so the
rule itself is checked, too), asks both engines for 256 greedy tokens to 32 left-padded prompts of unequal lengths, and
writes for each prompt where they first part, with the margin between the reference's two largest logits at that step.
A second comparison doesn't let small differences grow: both engines score the reference's own tokens.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig

SEED = 42
STEPS = 256
PROMPTS = 32
MASK = (1 << 64) - 1


def shape(layers):
    return LlamaConfig(
        vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=layers, num_attention_heads=32,
        num_key_value_heads=8, head_dim=64, max_position_embeddings=131072, rms_norm_eps=1e-5, tie_word_embeddings=True,
        rope_parameters=dict(
            rope_type="llama3", rope_theta=500000.0, factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0,
            original_max_position_embeddings=8192,
        ),
        bos_token_id=128000, eos_token_id=128001, dtype="bfloat16", architectures=["LlamaForCausalLM"],
    )


def finalise(counter):
    z = counter * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def dummy(name, dims, seed):
    """A tensor by the rule of src/engine/weights/dummy.rs."""
    if "norm" in name:
        return torch.ones(dims, dtype=torch.bfloat16)
    hashed = 0xCBF29CE484222325
    for byte in name.encode():
        hashed = ((hashed ^ byte) * 0x100000001B3) & MASK
    stream = int(finalise(np.array([seed ^ hashed], dtype=np.uint64))[0])
    count = int(np.prod(dims))
    out = torch.empty(count, dtype=torch.bfloat16)
    deviation = np.float32(0.02)
    for begin in range(0, count, 1 << 24):
        end = min(begin + (1 << 24), count)
        counter = np.arange(begin, end, dtype=np.uint64) + np.uint64(stream)
        unit = (finalise(counter) >> np.uint64(40)).astype(np.float32) / np.float32(1 << 23) - np.float32(1)
        out[begin:end] = torch.from_numpy(unit * deviation * np.sqrt(np.float32(3)))
    return out.reshape(dims)


def write_checkpoint(folder, config):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    names = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    tensors = {name: dummy(name, dims, SEED) for name, dims in names.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(folder)


def prompts(config):
    generator = torch.Generator().manual_seed(SEED)
    lengths = torch.randint(4, 129, (PROMPTS,), generator=generator).tolist()
    return [torch.randint(10, config.vocab_size, (length,), generator=generator).tolist() for length in lengths]


@torch.no_grad()
def reference(model, rows, steps, eos, given=None):
    """Greedy tokens with EOS masked (or `given` ones), margins of the two largest logits, log-probabilities."""
    width = max(map(len, rows))
    device = model.device
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    cache, inputs = None, ids
    tokens, margins, log_probs = [], [], []
    for step in range(steps):
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -inputs.shape[1] :]
        out = model(
            input_ids=inputs, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True,
            logits_to_keep=1,
        )
        cache = out.past_key_values
        logits = out.logits[:, -1].float()
        full = torch.log_softmax(logits, -1)
        logits[:, eos] = -torch.inf
        top = logits.topk(2, -1).values
        chosen = logits.argmax(-1) if given is None else torch.tensor([row[step] for row in given], device=device)
        tokens.append(chosen)
        margins.append(top[:, 0] - top[:, 1])
        log_probs.append(full.gather(1, chosen[:, None])[:, 0])
        inputs = chosen[:, None]
        mask = torch.cat([mask, torch.ones_like(inputs)], 1)
    stack = lambda parts: torch.stack(parts, 1).tolist()
    return stack(tokens), stack(margins), stack(log_probs)


def first_difference(ours, theirs):
    return next((step for step, pair in enumerate(zip(ours, theirs)) if pair[0] != pair[1]), None)


def ask(program, folder, question, *flags):
    with tempfile.TemporaryDirectory() as scratch:
        questions, answers = Path(scratch) / "q.json", Path(scratch) / "a.json"
        questions.write_text(json.dumps(question))
        subprocess.run([program, folder, questions, answers, *flags], check=True)
        return json.loads(answers.read_text())


def compare(answers, tokens, margins):
    rows = []
    for row, (ours, theirs) in enumerate(zip(answers, tokens)):
        step = first_difference(ours, theirs)
        rows.append(dict(row=row, first_difference=step, margin=None if step is None else round(margins[row][step], 5)))
    return rows


def summary(rows):
    parted = [row for row in rows if row["first_difference"] is not None]
    steps = sorted(row["first_difference"] for row in parted)
    return dict(
        identical_rows=len(rows) - len(parted),
        median_first_difference=steps[len(steps) // 2] if steps else None,
        largest_margin_at_a_difference=max((row["margin"] for row in parted), default=None),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--out", type=Path, default=Path("agreement.json"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--checkpoint", type=Path, help="keep the checkpoint in this folder")
    arguments = parser.parse_args()
    folder = arguments.checkpoint or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    config = shape(arguments.layers)
    write_checkpoint(folder, config)
    rows, steps, eos = prompts(config), arguments.steps, config.eos_token_id

    def load(dtype, attention):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=attention)
        return model.to(arguments.device).eval()

    report = dict(steps=steps, prompts=[len(row) for row in rows], layers=arguments.layers)
    model = load(torch.bfloat16, "sdpa")
    tokens, margins, log_probs = reference(model, rows, steps, eos)
    alone = [reference(model, [row], steps, eos)[0][0] for row in rows[:8]]
    del model
    model = load(torch.bfloat16, "eager")
    eager, _, _ = reference(model, rows, steps, eos)
    _, _, eager_log_probs = reference(model, rows, steps, eos, given=tokens)
    del model

    device = ["--device", arguments.device, "--dtype", "bf16"]
    question = dict(prompts=rows, steps=steps, continuations=tokens)
    ours = ask(arguments.program, folder, question, *device)
    made_up = ask(arguments.program, folder, question | dict(continuations=[]), *device, "--dummy", str(SEED))
    report["stored and made-up weights answer alike"] = ours["answers"] == made_up["answers"]

    flat = np.array(margins).ravel()
    report["margins of the reference"] = {f"p{p}": float(np.percentile(flat, p)) for p in (1, 10, 50, 90)}
    report["bf16"] = rows_of = compare(ours["answers"], tokens, margins)
    difference = np.abs(np.array(ours["log_probs"]) - np.array(log_probs))
    noise = np.abs(np.array(eager_log_probs) - np.array(log_probs))
    report["summary"] = {
        "engine against transformers sdpa": summary(rows_of),
        "transformers eager against transformers sdpa": summary(compare(eager, tokens, margins)),
        "transformers sdpa, prompts alone against the batch": summary(compare(alone, tokens, margins)),
        "log-probabilities of the same tokens, mean and largest difference": {
            "engine": [float(difference.mean()), float(difference.max())],
            "transformers eager": [float(noise.mean()), float(noise.max())],
        },
    }

    # In f32 nothing but the order of sums differs.
    torch.backends.cuda.matmul.allow_tf32 = False
    model = load(torch.float32, "sdpa")
    tokens, margins, _ = reference(model, rows, steps, eos)
    del model
    ours = ask(arguments.program, folder, dict(prompts=rows, steps=steps), "--device", arguments.device, "--dtype", "f32")
    report["f32"] = compare(ours["answers"], tokens, margins)
    report["summary"]["f32: engine against transformers sdpa"] = summary(report["f32"])

    arguments.out.write_text(json.dumps(report, indent=1))
    print(json.dumps(report["summary"], indent=1))


if __name__ == "__main__":
    main()
