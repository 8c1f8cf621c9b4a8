#!/usr/bin/env python3
"""Where the time of a decode step goes on a GPU, by kernel, as Nsight Compute measures each launch on its own.

    cargo build --release --features cuda --example agreement
    python3 benches/gpu_profile.py run target/release/examples/agreement data/shapes/llama-3.1-8b --batch 1 --out b1.csv
    python3 benches/gpu_profile.py table b1.csv [b32.csv ...]

`run` needs `ncu` and a GPU. `table` prints Markdown: launches of the last step by kernel, microseconds of all of them, and
their share. Nsight Compute runs one kernel at a time, so that overlaps of a step's end with the next one's beginning are
not in these times: their sum is larger than the step.
"""

import argparse
import csv
import json
import pathlib
import random
import re
import subprocess
import tempfile

COLUMN = "gpu__time_duration.sum"
END_OF_STEP = "choose_"
# parts of a step by the kernels' names; what matches none is a product of cuBLASLt
PARTS = [
    ("products of few rows", "product_"), ("attention", "attention_"), ("norms and residual additions", "norm_"),
    ("rotation and KV cache", "rope_"), ("activation", "gate_"), ("embedding", "embed_"), ("choice of tokens", "choose_"),
    ("experts", "expert"), ("quantised products", "quantised_"),
]  # fmt: skip


def run(options):
    chance = random.Random(1)
    prompts = [[chance.randrange(10, 100000) for _ in range(options.prompt)] for _ in range(options.batch)]
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "q.json").write_text(json.dumps(dict(prompts=prompts, steps=4)))
        command = ["ncu", "--clock-control", "none", "--metrics", COLUMN, "--csv", "--page", "raw"]
        command += ["--log-file", options.out, options.program, options.shape, folder / "q.json", folder / "a.json"]
        command += ["--device", "cuda", "--dtype", options.dtype, "--dummy", "42"]
        subprocess.run(list(map(str, command)), check=True)


def launches(file):
    """Name and microseconds of each launch, in order."""
    lines = [line for line in file.read_text().splitlines() if not line.startswith("==")]
    rows = csv.DictReader(lines)
    units = next(rows)
    factor = {"nsecond": 1e-3, "ns": 1e-3, "usecond": 1.0, "us": 1.0, "msecond": 1e3, "ms": 1e3}[units[COLUMN]]
    return [(row["Kernel Name"], float(row[COLUMN].replace(",", "")) * factor) for row in rows]


def last_step(found):
    ends = [at for at, (name, _) in enumerate(found) if END_OF_STEP in name]
    return found[ends[-2] + 1 : ends[-1] + 1]


def part(name):
    return next((words for words, begin in PARTS if re.match(begin, name)), "products by cuBLASLt")


def table(options):
    for file in options.files:
        step = last_step(launches(file))
        total = sum(time for _, time in step)
        parts = {}
        for name, time in step:
            count, sum_of = parts.get(part(name), (0, 0.0))
            parts[part(name)] = (count + 1, sum_of + time)
        print(f"\n{file.stem}: {len(step)} launches, {total:.0f} µs\n")
        print("| part | launches | µs | share |\n| --- | --- | --- | --- |")
        for words, (count, time) in sorted(parts.items(), key=lambda entry: -entry[1][1]):
            print(f"| {words} | {count} | {time:.0f} | {100 * time / total:.1f} % |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run")
    runs.add_argument("program", type=pathlib.Path)
    runs.add_argument("shape", type=pathlib.Path)
    runs.add_argument("--batch", type=int, default=1)
    runs.add_argument("--prompt", type=int, default=128)
    runs.add_argument("--dtype", default="bf16")
    runs.add_argument("--out", type=pathlib.Path, required=True)
    commands.add_parser("table").add_argument("files", type=pathlib.Path, nargs="+")
    options = parser.parse_args()
    run(options) if options.command == "run" else table(options)


if __name__ == "__main__":
    main()
