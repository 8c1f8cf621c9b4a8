#!/usr/bin/env python3
"""Writes, for the tiny models of tests/golden/, the results of Hugging Face transformers in beam search, the tokens
that it leaves to sample from, and its log-probabilities of continuations; all in f32 on the CPU:

    python scripts/make_decoding_goldens.py    # tests/golden/decoding.json and tests/golden/sampling.json

Needs torch and transformers 5 (CPU builds are enough), and the models that scripts/make_goldens.py wrote. Each run
gives the same files. A search is kept only if each of its prompts, alone and in f64, gets the same answer, so that no
choice depends on rounding.
"""

import hashlib
import itertools
import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "golden"
MODELS = ["gqa_tied", "mha_untied", "several_eos", "wide_heads", "rope_llama3"]
STEPS = 16
LENGTHS = [3, 1, 9, 6]
# Numbers of tokens that end an answer: some beams end early and others late.
EOS_COUNTS = [3, 12, 24]


def load(name, dtype=torch.float32):
    model = AutoModelForCausalLM.from_pretrained(GOLDEN / name, dtype=torch.float32, attn_implementation="eager")
    return model.to(dtype).eval()


def random_tokens(vocabulary, lengths, seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, vocabulary, (length,), generator=generator).tolist() for length in lengths]


def left_padded(rows):
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def new_tokens(row, eos):
    """A returned row up to and including its first end-of-sequence token."""
    end = next((step for step, token in enumerate(row) if token in eos), len(row) - 1)
    return row[: end + 1]


def search(model, prompts, eos, num_beams, length_penalty, early_stopping, fixed):
    ids, mask = left_padded(prompts)
    out = model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=STEPS,
        do_sample=False,
        num_beams=num_beams,
        length_penalty=length_penalty,
        early_stopping=early_stopping,
        eos_token_id=eos,
        pad_token_id=0,
        suppress_tokens=eos if fixed else None,
        return_dict_in_generate=True,
        output_scores=True,
    )
    rows = out.sequences[:, ids.shape[1] :].tolist()
    return [new_tokens(row, eos) for row in rows], [round(score, 5) for score in out.sequences_scores.tolist()]


def searches(name):
    model, exact = load(name), load(name, torch.float64)
    vocabulary = model.config.vocab_size
    kinds = itertools.product([2, 3, 4], [0.0, 1.0, 2.0], [False, True, "never"], [False, True])
    for index, (num_beams, penalty, stopping, fixed) in enumerate(kinds):
        if fixed and stopping is not False:
            continue  # without ends, only the limit stops a search
        for seed in range(index * 100, index * 100 + 100):
            prompts = random_tokens(vocabulary, LENGTHS, seed)
            # The end-of-sequence tokens of the model stay; others come from what follows the prompts.
            eos = end_tokens(model, prompts, seed)
            rows, scores = search(model, prompts, eos, num_beams, penalty, stopping, fixed)
            if telling(rows, penalty, fixed) and rows == [
                search(exact, [prompt], eos, num_beams, penalty, stopping, fixed)[0][0] for prompt in prompts
            ]:
                break
        else:
            raise SystemExit(f"{name}: no telling search with {num_beams} beams, {penalty}, {stopping}, fixed {fixed}")
        yield dict(
            model=name,
            num_beams=num_beams,
            length_penalty=penalty,
            early_stopping=stopping,
            fixed=fixed,
            eos_ids=eos,
            prompts=prompts,
            answers=rows,
            scores=scores,
        )


def end_tokens(model, prompts, seed):
    """Tokens that are likely somewhere along the greedy path, so that beams end at all lengths."""
    ids, mask = left_padded(prompts)
    out = model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=STEPS,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
    )
    likely = torch.stack(out.logits, dim=1).topk(4).indices[:, 2:, 1:].flatten().unique()
    generator = torch.Generator().manual_seed(seed)
    return sorted(likely[torch.randperm(len(likely), generator=generator)[: EOS_COUNTS[seed % 3]]].tolist())


def telling(rows, penalty, fixed):
    """Answers of different lengths; a large penalty makes all as long as they may be."""
    return fixed or penalty > 1 or len(set(map(len, rows))) > 1


def scores(name):
    """Log-probabilities of continuations on a left-padded batch, as log-softmax gives them."""
    model = load(name)
    vocabulary = model.config.vocab_size
    contexts = random_tokens(vocabulary, [5, 1, 12, 3, 4], 1)
    continuations = random_tokens(vocabulary, [3, 6, 1, 2, 4], 2)
    # The last one is what greedy decoding writes.
    ids = torch.tensor([contexts[-1]])
    greedy = model.generate(ids, max_new_tokens=4, do_sample=False, eos_token_id=None, pad_token_id=0)
    continuations[-1] = greedy[0, ids.shape[1] :].tolist()
    ids, mask = left_padded([context + text[:-1] for context, text in zip(contexts, continuations)])
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits.float()
    rows = []
    for row, (context, text) in enumerate(zip(contexts, continuations)):
        last = logits[row, -len(text) :]
        tokens = torch.tensor(text)
        gathered = last.log_softmax(-1).gather(1, tokens[:, None])[:, 0]
        is_greedy = bool((last.argmax(-1) == tokens).all())
        rows.append(
            dict(
                context=context,
                continuation=text,
                log_probs=[round(x, 6) for x in gathered.tolist()],
                is_greedy=is_greedy,
            )
        )
    return dict(model=name, rows=rows)


def candidates():
    """The tokens that the logits processors of transformers leave, and their probabilities."""
    kinds = [
        (temperature, top_k, top_p, min_p)
        for temperature in (0.7, 1.0, 1.6)
        for top_k in (0, 5, 40)
        for top_p in (0.3, 0.9, 1.0)
        for min_p in (None, 0.1)
    ]
    for index, (temperature, top_k, top_p, min_p) in enumerate(kinds):
        generator = torch.Generator().manual_seed(index)
        logits = (3 * torch.randn(1, 60, generator=generator)).round(decimals=4)
        scores = logits
        if temperature != 1.0:
            scores = TemperatureLogitsWarper(temperature)(None, scores)
        if top_k:
            scores = TopKLogitsWarper(top_k)(None, scores)
        if top_p < 1.0:
            scores = TopPLogitsWarper(top_p)(None, scores)
        if min_p is not None:
            scores = MinPLogitsWarper(min_p)(None, scores)
        kept = scores[0].isfinite().nonzero()[:, 0].tolist()
        yield dict(
            sampling=dict(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=0),
            logits=[float(f"{x:.4f}") for x in logits[0].tolist()],
            kept=kept,
            probabilities=[float(f"{x:.7g}") for x in scores[0].softmax(-1)[kept].tolist()],
        )


def quarter_round(state, a, b, c, d):
    def rotate(value, by):
        return ((value << by) | (value >> (32 - by))) & 0xFFFFFFFF

    for x, y, z, by in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
        state[x] = (state[x] + state[y]) & 0xFFFFFFFF
        state[z] = rotate(state[z] ^ state[x], by)


def chacha8(key, blocks):
    """64-bit words of ChaCha with 8 rounds (Bernstein 2008): counter of 64 bits from 0, nonce 0."""
    words = []
    for counter in range(blocks):
        start = [0x61707865, 0x3320646E, 0x79622D32, 0x6B206574]
        start += [int.from_bytes(key[at : at + 4], "little") for at in range(0, 32, 4)]
        start += [counter, 0, 0, 0]
        state = list(start)
        for _ in range(4):
            for column in range(4):
                quarter_round(state, column, 4 + column, 8 + column, 12 + column)
            for diagonal in range(4):
                others = (4 + (diagonal + 1) % 4, 8 + (diagonal + 2) % 4, 12 + (diagonal + 3) % 4)
                quarter_round(state, diagonal, *others)
        state = [(x + y) & 0xFFFFFFFF for x, y in zip(state, start)]
        words += [state[at] | state[at + 1] << 32 for at in range(0, 16, 2)]
    return words


def generator():
    """The first random words of a prompt's draws."""
    seed, ids = 2**40 + 7, [1, 299, 70000]
    key = b"ept-sweep sampling 1" + seed.to_bytes(8, "little") + b"".join(id.to_bytes(4, "little") for id in ids)
    words = chacha8(hashlib.sha256(key).digest(), 3)
    return dict(seed=seed, ids=ids, words=[str(word) for word in words])


def lines(items):
    return "[\n" + ",\n".join(json.dumps(item) for item in items) + "\n]"


def main():
    torch.set_num_threads(1)
    disable_progress_bar()
    set_verbosity_error()
    beams = [case for name in MODELS[:2] for case in searches(name)]
    text = f'{{\n"beams": {lines(beams)},\n"scores": {lines(map(scores, MODELS))}\n}}\n'
    (GOLDEN / "decoding.json").write_text(text)
    text = f'{{\n"generator": {json.dumps(generator())},\n"candidates": {lines(candidates())}\n}}\n'
    (GOLDEN / "sampling.json").write_text(text)
    print(f"{len(beams)} searches; lengths {sorted({len(row) for case in beams for row in case['answers']})}")


if __name__ == "__main__":
    main()
