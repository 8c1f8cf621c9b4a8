#!/usr/bin/env python3
"""Compares the engine with Hugging Face transformers on a GPU, in the same data type on the same dummy weights.

    cargo build --release --features cuda --example agreement
    python scripts/gpu_agreement.py target/release/examples/agreement --out agreement.json

Three answers are compared: the engine on its own kernels, the engine on plain operations (`kernels: plain`), and
transformers, which is given weights by the rule of `weights: dummy` (so the rule itself is checked, too). Each generates
256 greedy tokens for 32 left-padded prompts of unequal lengths on a 1.2-billion-parameter Llama 3.2 shape. For each
prompt the report has where two of them first diverge, and the margin between the two largest logits at that step. In a
second comparison small differences can't grow: all score the reference's own tokens.

Takes about a minute on an H100. A check of the rule without a GPU:

    python scripts/gpu_agreement.py target/release/examples/agreement --device cpu --shape tiny --dtypes f32
"""

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig

SEED = 42
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
MASK = (1 << 64) - 1
DEVIATION = 0.02


def shape(name, layers):
    sizes = {
        "1b": dict(vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
                   num_attention_heads=32, num_key_value_heads=8, head_dim=64, max_position_embeddings=131072),
        "tiny": dict(vocab_size=512, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
                     num_key_value_heads=2, head_dim=16, max_position_embeddings=16384),
    }[name]
    if layers is not None:
        sizes["num_hidden_layers"] = layers
    rope = dict(rope_type="llama3", rope_theta=500000.0, factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0,
                original_max_position_embeddings=8192)
    return LlamaConfig(
        **sizes, rms_norm_eps=1e-5, tie_word_embeddings=True, rope_parameters=rope, bos_token_id=0,
        eos_token_id=sizes["vocab_size"] - 1, dtype="bfloat16", architectures=["LlamaForCausalLM"],
    )


def signed(number):
    """The 64 bits of a number as torch holds them."""
    return (number & MASK) - (1 << 64) if number & (1 << 63) else number & MASK


def shifted(z, bits):
    """A shift to the right that fills up with zeros: torch's repeats the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def finalise(counter):
    z = counter * signed(0x9E3779B97F4A7C15)
    z = (z ^ shifted(z, 30)) * signed(0xBF58476D1CE4E5B9)
    z = (z ^ shifted(z, 27)) * signed(0x94D049BB133111EB)
    return z ^ shifted(z, 31)


def gaussian(hashes):
    """Each product and each sum is rounded to f32 by itself, as in src/engine/weights/dummy.rs."""
    a, b, c, d, e = 1.6668354, 0.04817026, 0.027934048, -0.016922573, 0.0053378213
    quarters = sum(shifted(hashes, bits) & 0xFFFF for bits in (0, 16, 32, 48))
    x = (quarters - 2 * 0xFFFF).float() / (1 << 16)
    square = x * x
    polynomial = torch.full_like(x, e)
    for coefficient in (d, c, b, a):
        polynomial = polynomial * square
        polynomial = polynomial + torch.tensor(coefficient, dtype=torch.float32, device=x.device)
    return (x * polynomial) * torch.tensor(DEVIATION, dtype=torch.float32, device=x.device)


def dummy(name, count, seed, dtype, device):
    """The numbers of a matrix by the rule of `weights: dummy`, which are Gaussian."""
    hashed = 0xCBF29CE484222325
    for byte in name.encode():
        hashed = ((hashed ^ byte) * 0x100000001B3) & MASK
    stream = finalise(torch.tensor([signed(seed ^ hashed)])).item()
    out = torch.empty(count, dtype=dtype, device=device)
    for begin in range(0, count, 1 << 24):
        end = min(begin + (1 << 24), count)
        counter = torch.arange(begin, end, dtype=torch.int64, device=device) + stream
        out[begin:end] = gaussian(finalise(counter)).to(dtype)
    return out


def check_rule(device):
    """The numbers that a test of src/engine/weights/dummy.rs expects."""
    expected = torch.tensor([-1.0548806e-2, 8.549305e-3, 1.9141423e-2, 1.712283e-2], dtype=torch.float32)
    found = dummy("a.weight", 4, SEED, torch.float32, device).cpu()
    assert torch.equal(found, expected), f"the rule of dummy weights has changed: {found.tolist()}"


@torch.no_grad()
def transformers_model(config, dtype, attention, device):
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.fill_(1.0)
        else:
            parameter.copy_(dummy(name, parameter.numel(), SEED, dtype, device).reshape(parameter.shape))
    rotations = [buffer for name, buffer in model.named_buffers() if name.endswith("inv_freq")]
    assert all(buffer.dtype == torch.float32 for buffer in rotations), "rotations lose digits"
    return model.eval()


def prompts(config, count):
    generator = torch.Generator().manual_seed(SEED)
    lengths = torch.randint(4, 129, (count,), generator=generator).tolist()
    return [torch.randint(10, config.vocab_size, (length,), generator=generator).tolist() for length in lengths]


@torch.no_grad()
def reference(model, rows, steps, eos, given=None):
    """Greedy tokens with EOS masked (or `given` ones), margins of the two largest logits, log-probabilities."""
    width = max(map(len, rows))
    device = model.device
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    given = None if given is None else torch.tensor(given, device=device)
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
        chosen = logits.argmax(-1) if given is None else given[:, step]
        tokens.append(chosen)
        margins.append(top[:, 0] - top[:, 1])
        log_probs.append(full.gather(1, chosen[:, None])[:, 0])
        inputs = chosen[:, None]
        mask = torch.cat([mask, torch.ones_like(inputs)], 1)
    stack = lambda parts: torch.stack(parts, 1).tolist()
    return stack(tokens), stack(margins), stack(log_probs)


class Engine:
    """The program under test, with the model's shape; the weights follow from the seed."""

    def __init__(self, program, folder, device):
        self.program, self.folder, self.device = program, folder, device

    def ask(self, question, dtype, kernels, stored=False):
        weights = [] if stored else ["--dummy", str(SEED)]
        with tempfile.TemporaryDirectory() as scratch:
            questions, answers = Path(scratch) / "q.json", Path(scratch) / "a.json"
            questions.write_text(json.dumps(question))
            flags = ["--device", self.device, "--dtype", dtype, "--kernels", kernels, *weights]
            subprocess.run([self.program, self.folder, questions, answers, *flags], check=True)
            return json.loads(answers.read_text())


def first_differences(ours, theirs, margins):
    """For each prompt the step of the first difference, with the margin there on the tokens before it."""
    rows = []
    for row, (one, other) in enumerate(zip(ours, theirs)):
        step = next((step for step, pair in enumerate(zip(one, other)) if pair[0] != pair[1]), None)
        margin = None if step is None else round(margins[row][step], 5)
        rows.append(dict(row=row, first_difference=step, margin=margin))
    return rows


def summary(rows):
    parted = [row for row in rows if row["first_difference"] is not None]
    steps = sorted(row["first_difference"] for row in parted)
    return dict(
        identical_rows=f"{len(rows) - len(parted)} of {len(rows)}",
        median_first_difference=steps[len(steps) // 2] if steps else None,
        largest_margin_at_a_difference=max((row["margin"] for row in parted), default=None),
    )


def distance(ours, theirs):
    difference = np.abs(np.array(ours) - np.array(theirs))
    return dict(mean=float(difference.mean()), largest=float(difference.max()))


def compare(engine, config, rows, dtype, arguments):
    """All comparisons in one data type."""
    steps, eos, device = arguments.steps, config.eos_token_id, arguments.device
    model = transformers_model(config, DTYPES[dtype], "sdpa", device)
    tokens, margins, log_probs = reference(model, rows, steps, eos)
    question = dict(prompts=rows, steps=steps, continuations=tokens)
    auto = engine.ask(question, dtype, "auto")
    plain = engine.ask(question, dtype, "plain")
    # margins on the tokens of the plain path, which the reference leaves at some step
    _, plain_margins, _ = reference(model, rows, steps, eos, given=plain["answers"])
    pairs = {
        "auto against transformers": first_differences(auto["answers"], tokens, margins),
        "plain against transformers": first_differences(plain["answers"], tokens, margins),
        "auto against plain": first_differences(auto["answers"], plain["answers"], plain_margins),
    }
    scores = {
        "auto against transformers": distance(auto["log_probs"], log_probs),
        "plain against transformers": distance(plain["log_probs"], log_probs),
        "auto against plain": distance(auto["log_probs"], plain["log_probs"]),
    }
    if arguments.alone:
        alone = [reference(model, [row], steps, eos)[0][0] for row in rows[: arguments.alone]]
        pairs["transformers, prompts alone against the batch"] = first_differences(alone, tokens, margins)
    del model
    if dtype != "f32" and not arguments.no_eager:
        model = transformers_model(config, DTYPES[dtype], "eager", device)
        eager, _, _ = reference(model, rows, steps, eos)
        pairs["transformers eager against sdpa"] = first_differences(eager, tokens, margins)
        _, _, eager_log_probs = reference(model, rows, steps, eos, given=tokens)
        scores["transformers eager against sdpa"] = distance(eager_log_probs, log_probs)
        del model
    flat = np.array(margins).ravel()
    return dict(
        kernels={name: answer["model"].get("kernels") for name, answer in (("auto", auto), ("plain", plain))},
        fallback=auto["model"].get("fallback", []),
        margins={f"p{p}": float(np.percentile(flat, p)) for p in (1, 10, 50, 90)},
        summary={name: summary(found) for name, found in pairs.items()},
        log_probabilities_of_the_same_tokens=scores,
        rows=pairs,
    )


def stored_alike(engine, config, rows, arguments):
    """Whether a checkpoint of the same numbers gives the same answers as dummy weights."""
    model = transformers_model(config, torch.bfloat16, "sdpa", arguments.device)
    tensors = {name: parameter.detach().cpu().contiguous() for name, parameter in model.named_parameters()}
    save_file(tensors, engine.folder / "model.safetensors", metadata={"format": "pt"})
    question = dict(prompts=rows, steps=arguments.steps)
    stored, made = (engine.ask(question, "bf16", "auto", stored=stored) for stored in (True, False))
    return stored["answers"] == made["answers"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--out", type=Path, default=Path("agreement.json"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shape", choices=["1b", "tiny"], default="1b")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--steps", type=int, default=256)
    parser.add_argument("--dtypes", default="bf16,f32", help="of f32, f16 and bf16, with commas")
    parser.add_argument("--alone", type=int, default=0, help="also run so many prompts alone in transformers (slow)")
    parser.add_argument("--no-eager", action="store_true", help="leave out transformers' other attention")
    parser.add_argument("--checkpoint", action="store_true", help="also compare with a checkpoint of the same numbers")
    arguments = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    check_rule(arguments.device)
    config = shape(arguments.shape, arguments.layers)
    rows = prompts(config, arguments.prompts)
    report = dict(shape=arguments.shape, layers=config.num_hidden_layers, steps=arguments.steps,
                  prompts=[len(row) for row in rows])
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        engine = Engine(arguments.program, Path(folder), arguments.device)
        for dtype in arguments.dtypes.split(","):
            begin = time.monotonic()
            report[dtype] = found = compare(engine, config, rows, dtype, arguments)
            # after each type, in case the next one takes too long
            arguments.out.write_text(json.dumps(report, indent=1))
            print(dtype, f"({time.monotonic() - begin:.0f} s)", json.dumps(found | dict(rows=None), indent=1), flush=True)
        if arguments.checkpoint:
            report["stored and dummy weights answer alike"] = stored_alike(engine, config, rows, arguments)
            arguments.out.write_text(json.dumps(report, indent=1))
            print("stored and dummy weights answer alike:", report["stored and dummy weights answer alike"])


if __name__ == "__main__":
    main()
