"""Do a matrix product's joules depend on the values of the weights?

The four products of a layer of an 8B Llama (8 layers, bf16, a CUDA graph) run with weights that are drawn from trained
ones, Gaussian, uniform, heavy-tailed (Student's t with 4 degrees of freedom), or zero, copied into the same buffers,
with Gaussian activations; once more with zero weights and zero activations. Three regimes: 1 and 8 rows, as in decode
(bound by memory), and 2048 rows (bound by arithmetic and the power limit). The kinds come in random order in each
round, everything else unchanged.

    python3 benches/weight_data.py run --out DIR [--seconds 190] [--smoke]    # on the GPU, from the repository's root
    python3 benches/weight_data.py table DIR                                  # anywhere

Trained values come from `data/models/teacher/model.safetensors` (drawn with replacement from all its matrices but the
embedding). `run` writes `weights_windows.csv` and `weights_trace.npz` (see `nvml_trace.py`); `table` prints joules,
time, clock and temperature of each kind relative to the trained weights of the same round.
"""

import argparse
import csv
import json
import pathlib
import random
import struct
import time

import numpy as np

import nvml_trace as nt

SHAPES = ((6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336))
LAYERS = 8
DEVIATION = 0.02
KINDS = ("trained", "gaussian", "uniform", "student_t", "zeros", "zeros_zeros")
REGIMES = ((2048, 4), (8, 4), (1, 2))
"""Rows of activations, and rounds."""
SETTLE_S = 0.5
COLUMNS = ("rows", "kind", "round", "start", "end", "steps")


def trained_values(path):
    """All values of a safetensors file's matrices but the embedding, as float32."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    types = {"F16": np.float16, "F32": np.float32}
    parts = []
    for name, entry in header.items():
        if name == "__metadata__" or len(entry["shape"]) != 2 or "embed" in name:
            continue
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        parts.append(np.frombuffer(raw[begin:end], dtype=types[entry["dtype"]]).astype(np.float32))
    return np.concatenate(parts)


def fill(torch, kind, tensor, pool):
    """Fills a tensor with values of a kind."""
    if kind == "trained":
        drawn = torch.randint(0, len(pool), (tensor.numel(),), device=tensor.device, dtype=torch.int32)
        tensor.view(-1).copy_(pool[drawn])
    elif kind == "gaussian":
        tensor.normal_(0, DEVIATION)
    elif kind == "uniform":
        tensor.uniform_(-DEVIATION * 3**0.5, DEVIATION * 3**0.5)
    elif kind == "student_t":
        squares = torch.zeros(tensor.shape, device=tensor.device)
        for _ in range(4):
            squares += torch.randn_like(squares) ** 2
        value = torch.randn_like(squares) / (squares / 4).sqrt()
        tensor.copy_(value * (DEVIATION / 2**0.5))
    else:
        tensor.zero_()


class Load:
    """The layers' buffers, a source for each kind, and one graph for each number of rows."""

    def __init__(self, torch, pool, shapes=SHAPES, device="cuda"):
        self.torch = torch
        options = {"device": device, "dtype": torch.bfloat16}
        self.sources = {}
        for kind in KINDS[:-1]:
            self.sources[kind] = [torch.empty(shape, **options) for shape in shapes]
            for tensor in self.sources[kind]:
                fill(torch, kind, tensor, pool)
        self.weights = [[torch.empty(shape, **options) for shape in shapes] for _ in range(LAYERS)]
        self.inputs = {rows: [torch.randn(rows, s[1], **options) for s in shapes] for rows, _ in REGIMES}
        self.outputs = {rows: [torch.empty(rows, s[0], **options) for s in shapes] for rows, _ in REGIMES}
        self.graphs = {}

    def set(self, kind, rows):
        """Copies a kind's values into the buffers that the graphs use."""
        source = self.sources["zeros" if kind == "zeros_zeros" else kind]
        for layer in self.weights:
            for target, values in zip(layer, source):
                target.copy_(values)
        for tensor in self.inputs[rows]:
            tensor.zero_() if kind == "zeros_zeros" else tensor.normal_(0, 1)

    def work(self, rows):
        for layer in self.weights:
            for weight, x, y in zip(layer, self.inputs[rows], self.outputs[rows]):
                self.torch.mm(x, weight.t(), out=y)

    def capture(self, rows):
        stream = self.torch.cuda.Stream()
        with self.torch.cuda.stream(stream):
            self.work(rows)
            self.work(rows)
        self.torch.cuda.synchronize()
        graph = self.torch.cuda.CUDAGraph()
        with self.torch.cuda.graph(graph):
            self.work(rows)
        self.graphs[rows] = graph

    def run(self, rows, seconds):
        """Steps without a gap for some seconds; start, end and number of steps, synchronised at both ends."""
        torch, graph = self.torch, self.graphs[rows]
        chunk = max(int(0.02 / self.step_s[rows]), 1)
        events = []
        torch.cuda.synchronize()
        start, steps = nt.now(), 0
        while nt.now() < start + seconds:
            for _ in range(chunk):
                graph.replay()
            steps += chunk
            event = torch.cuda.Event()
            event.record()
            events.append(event)
            if len(events) > 2:
                events.pop(0).synchronize()
        torch.cuda.synchronize()
        return start, nt.now(), steps

    def time_steps(self):
        self.step_s = {}
        for rows in self.graphs:
            self.torch.cuda.synchronize()
            begin = nt.now()
            for _ in range(20):
                self.graphs[rows].replay()
            self.torch.cuda.synchronize()
            self.step_s[rows] = (nt.now() - begin) / 20
        print("seconds a step", self.step_s, flush=True)


def run(out, seconds, smoke):
    deadline = nt.now() + seconds
    recorder = nt.Recorder()
    import torch

    out.mkdir(parents=True, exist_ok=True)
    pool = trained_values(pathlib.Path("data/models/teacher/model.safetensors"))
    deviation = float(pool.std())
    kurtosis = float(((pool / deviation) ** 4).mean())
    torch.manual_seed(1)
    load = Load(torch, torch.tensor(pool, device="cuda"))
    load.set("gaussian", 8)
    for rows, _ in REGIMES:
        load.capture(rows)
    load.time_steps()
    facts = nt.limit_and_name() | {"trained_sd": deviation, "trained_kurtosis": kurtosis, "step_s": load.step_s}
    print(json.dumps(facts), flush=True)
    (out / "weights_facts.json").write_text(json.dumps(facts, indent=1))
    spells = len(KINDS) * sum(rounds for _, rounds in REGIMES)
    warm = 1.0 if smoke else 12.0
    length = (deadline - nt.now() - warm * 1.5 - 4) / spells - SETTLE_S - 0.05
    length = 0.2 if smoke else min(length, 4.0)
    chance = random.Random(2)
    with (out / "weights_windows.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for place, (rows, rounds) in enumerate(REGIMES):
            load.set("trained", rows)
            load.run(rows, warm if place == 0 else warm / 4)
            for part in range(1 if smoke else rounds):
                for kind in chance.sample(KINDS, len(KINDS)):
                    if nt.now() + length > deadline - 3:
                        print("out of time", flush=True)
                        continue
                    load.set(kind, rows)
                    load.run(rows, SETTLE_S)
                    start, end, steps = load.run(rows, length)
                    table.writerow((rows, kind, part + 1, f"{start:.6f}", f"{end:.6f}", steps))
                    file.flush()
                print(f"{rows} rows, round {part + 1}: {(end - start) / steps * 1e3:.4f} ms a step", flush=True)
    time.sleep(1.2)
    np.savez_compressed(out / "weights_trace.npz", **recorder.stop())


def measured(folder):
    """One dictionary for each window: joules and seconds a step, clock, temperatures, reasons."""
    trace = dict(np.load(folder / "weights_trace.npz"))
    with (folder / "weights_windows.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        start, end, steps = float(row["start"]), float(row["end"]), int(row["steps"])
        each = (end - start) / steps
        ends, line, ticks = nt.counter_powers(trace, start, end)
        core, memory, sm, _, reasons = nt.conditions_over(trace, start, end)
        row.update(each=each, joules=line * each, ends=ends * each, ring=nt.ring_power(trace, start, end) * each)
        row.update(watts=line, ticks=ticks, core=core, memory=memory, sm=sm, reasons=reasons)
    return rows


def against(own, base, key):
    """Mean and deviation in % of a kind's windows against those of the same round in `base`."""
    ratios = np.array([(r[key] / base[r["round"]][key] - 1) * 100 for r in own])
    sd = ratios.std(ddof=1) if len(ratios) > 1 else float("nan")
    return f"{ratios.mean():+.2f} ± {sd:.2f}"


def table(folder):
    rows = measured(folder)
    for regime, _ in REGIMES:
        some = [r for r in rows if int(r["rows"]) == regime]
        base = {r["round"]: r for r in some if r["kind"] == "trained"}
        print(f"\n## {regime} rows\n\n| weights | n | J a step | against trained, % | by the ring, % | time, % | W"
              " | SM MHz | core / memory °C | reasons | ticks |\n|" + "---|" * 11)  # fmt: skip
        for kind in KINDS:
            own = [r for r in some if r["kind"] == kind and r["round"] in base]
            if not own:
                continue
            joules = np.array([r["joules"] for r in own])
            mean = {k: np.mean([r[k] for r in own]) for k in ("watts", "sm", "core", "memory", "ticks")}
            reasons = hex(int(np.bitwise_or.reduce([r["reasons"] for r in own])))
            sd = joules.std(ddof=1) if len(joules) > 1 else float("nan")
            changes = " | ".join(against(own, base, key) for key in ("joules", "ring", "each"))
            print(f"| {kind} | {len(own)} | {joules.mean():.4f} ± {sd:.4f} | {changes} | {mean['watts']:.0f}"
                  f" | {mean['sm']:.0f} | {mean['core']:.1f} / {mean['memory']:.1f} | {reasons}"
                  f" | {mean['ticks']:.0f} |")  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runner = commands.add_parser("run")
    runner.add_argument("--out", type=pathlib.Path, required=True)
    runner.add_argument("--seconds", type=float, default=190.0)
    runner.add_argument("--smoke", action="store_true", help="a few seconds only, to see that everything works")
    commands.add_parser("table").add_argument("folder", type=pathlib.Path)
    options = parser.parse_args()
    if options.command == "run":
        run(options.out, options.seconds, options.smoke)
    else:
        table(options.folder)


if __name__ == "__main__":
    main()
