#!/usr/bin/env python3
"""Writes tests/golden/half_precision.json: how far transformers itself, in bf16 and f16 on the CPU, is off its own logits in
f32 on the models of tests/golden/families, relative to the largest logit of a row. Tests hold the engine's errors against it.

    python scripts/make_half_precision_goldens.py

Rows that transformers can't compute in a type (NaN where a row is padding only, in f16) are left out of its error.
"""

import json
import tempfile
from pathlib import Path

import make_family_goldens as made
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

TYPES = {"bf16": torch.bfloat16, "f16": torch.float16}


def logits(model, prompts, alone):
    rows = [[prompt] for prompt in prompts] if alone else [prompts]
    found = []
    for batch in rows:
        ids, mask = made.left_padded(batch)[:2]
        with torch.no_grad():
            found.append(model(input_ids=ids, attention_mask=mask, **positions(model, mask)).logits[:, -1].float())
    return torch.cat(found)


def positions(model, mask):
    takes = "position_ids" in model.forward.__code__.co_varnames
    return dict(position_ids=(mask.cumsum(1) - 1).clamp(min=0)) if takes else {}


def errors(golden):
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "config.json").write_text(json.dumps(golden["config"]))
        tensors = {
            name: torch.from_numpy(made.weights(golden["seed"], number, *rest).copy())
            for number, (name, *rest) in enumerate(golden["tensors"])
        }
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        expected = torch.tensor(golden["prompt_logits"])
        found = {}
        for name, dtype in {"f32": torch.float32, **TYPES}.items():
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=golden["attention"])
            own = logits(model.eval(), golden["prompts"], golden["rows"] == "alone")
            error = (own - expected).abs().max(1).values / expected.abs().max(1).values
            error = error[error.isfinite()]
            found[name] = float(error.max()) if len(error) else None
        return found


def main():
    table = {}
    for file in sorted(made.FAMILIES.glob("*.json")):
        golden = json.loads(file.read_text())
        try:
            found = errors(golden)
        except Exception as why:
            print(f"{file.stem}: left out: {why}")
            continue
        if found["f32"] > 1e-3:
            print(f"{file.stem}: left out: f32 is off by {found['f32']}, so this isn't how the golden was made")
            continue
        table[file.stem] = {name: found[name] and round(found[name], 4) for name in TYPES}
    out = made.FAMILIES.parent / "half_precision.json"
    out.write_text("{\n" + ",\n".join(f'  "{k}": {json.dumps(v)}' for k, v in table.items()) + "\n}\n")
    print(f"{out}: {len(table)} models")


if __name__ == "__main__":
    main()
