"""What do the power fields give for each scope, how often, at what cost, and does memory's power follow the load?

NVML's fields 185 (average power) and 186 (instantaneous power) take a scope: 0 the board, 1 the module, 2 the memory.

    python3 benches/power_scopes.py run --out DIR [--smoke]     # on the GPU, 35 s
    python3 benches/power_scopes.py table DIR                   # anywhere

`run` first makes calls of each set of fields back to back for 1.5 s under a steady load, and prints for each what a
call costs and how often each value is renewed (`scopes_calls.json`). Then it reads all fields each 10 ms through idle,
a load bound by memory, idle, a load bound by arithmetic, and idle (`scopes_steps.csv`: time in s, phase, and a column
for each field; times of changes of load in `scopes_marks.json`). `table` prints each phase's values, and in how many
seconds each field covers 10, 50 and 90 % of a step of load.
"""

import argparse
import csv
import json
import pathlib
import time

import numpy as np

import nvml_trace as nt

FIELDS = [(field, scope) for field in (nt.POWER_INSTANT, nt.POWER_AVERAGE) for scope in (0, 1, 2)]
SETS = {
    "186 scope 2": [(186, 2)],
    "186 scope 0": [(186, 0)],
    "186 scope 1": [(186, 1)],
    "186 scopes 0 and 2": [(186, 0), (186, 2)],
    "185 scope 2": [(185, 2)],
    "185 scope 0": [(185, 0)],
    "185 and 186, all scopes": FIELDS,
    "memory temperature (82)": [(82, 0)],
    "core temperature (call)": None,
    "186 scopes 0 and 2, 82": [(186, 0), (186, 2), (82, 0)],
}


def loads(torch):
    """Graphs of some 50 ms: products of 8 rows, bound by memory, and square products, bound by arithmetic."""
    options = {"device": "cuda", "dtype": torch.bfloat16}
    weights = [torch.empty(s, **options).normal_(0, 0.02) for s in ((28672, 4096), (4096, 14336), (6144, 4096))]
    inputs = [torch.randn(8, w.shape[1], **options) for w in weights]
    a, b = torch.randn(2, 8192, 8192, **options)
    c = torch.empty_like(a)

    def memory():
        for _ in range(330):
            for w, x in zip(weights, inputs):
                torch.mm(x, w.t())

    def arithmetic():
        for _ in range(30):
            torch.mm(a, b, out=c)

    graphs = {}
    for name, work in (("memory", memory), ("arithmetic", arithmetic)):
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            work()
        torch.cuda.synchronize()
        graphs[name] = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graphs[name]):
            work()
    return graphs


class Queue:
    """Keeps a graph's replays queued ahead, so that the host is free between calls of `feed`."""

    def __init__(self, torch, graph):
        self.torch, self.graph, self.events = torch, graph, []

    def feed(self, ahead=4):
        self.events = [event for event in self.events if not event.query()]
        while len(self.events) < ahead:
            self.graph.replay()
            self.events.append(self.torch.cuda.Event())
            self.events[-1].record()


def cost_of(nvml, device, fields, queue, seconds):
    """Calls back to back: quantiles of their length, and for each field its status, last value and renewal."""
    lengths, values, times = [], [], []
    end = nt.now() + seconds
    while nt.now() < end:
        queue.feed()
        begin = nt.now()
        if fields is None:
            row = [nvml.nvmlDeviceGetTemperature(device, nvml.NVML_TEMPERATURE_GPU)]
        else:
            row = nvml.nvmlDeviceGetFieldValues(device, fields)
        lengths.append(nt.now() - begin)
        times.append(begin)
        if fields is not None:
            status = [value.nvmlReturn for value in row]
            row = [nt.field_number(value) for value in row]
        values.append(row)
    lengths, values, times = np.array(lengths) * 1e6, np.array(values, dtype=float), np.array(times)
    result = {
        "calls": len(lengths),
        "us": dict(zip(("p10", "p50", "p90", "p99", "max", "mean"), np.append(
            np.percentile(lengths, [10, 50, 90, 99, 100]), lengths.mean()).round(1).tolist())),
        "share_over_1ms": float((lengths > 1000).mean().round(4)),
    }  # fmt: skip
    if fields is not None:
        result["status"] = status
        result["last"] = values[-1].tolist()
        changed = [times[1:][np.diff(column) != 0] for column in values.T]
        result["renewed_ms"] = [
            np.percentile(np.diff(t) * 1e3, [10, 50, 90]).round(1).tolist() if len(t) > 3 else None for t in changed
        ]
    slow = times[lengths > 1000]
    if len(slow) > 3:
        result["slow_call_every_ms"] = np.percentile(np.diff(slow) * 1e3, [10, 50, 90]).round(1).tolist()
    return result


def run(out, smoke):
    out.mkdir(parents=True, exist_ok=True)
    import pynvml as nvml

    nvml.nvmlInit()
    device = nvml.nvmlDeviceGetHandleByIndex(0)
    result = {"card": nt.limit_and_name(), "before_context": {}}
    for field, scope in FIELDS:
        value = nvml.nvmlDeviceGetFieldValues(device, [(field, scope)])[0]
        result["before_context"][f"{field}/{scope}"] = [value.nvmlReturn, nt.field_number(value) / 1000]
    for kind in (0, 7):
        try:
            count = len(nvml.nvmlDeviceGetSamples(device, kind, 0)[1])
        except nvml.NVMLError as error:
            count = str(error)
        result[f"ring_of_sampling_type_{kind}"] = count
    print(json.dumps(result), flush=True)
    import torch

    graphs = loads(torch)
    queue = Queue(torch, graphs["memory"])
    scale = 0.1 if smoke else 1.0
    for name, fields in SETS.items():
        result[name] = cost_of(nvml, device, fields, queue, 1.5 * scale)
        print(name, json.dumps(result[name]), flush=True)
    torch.cuda.synchronize()
    (out / "scopes_calls.json").write_text(json.dumps(result, indent=1))
    marks = []
    with (out / "scopes_steps.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["t", "phase", *(f"{field}/{scope}" for field, scope in FIELDS), "82"])
        for phase, length in (("idle", 3.0), ("memory", 4.0), ("idle", 3.0), ("arithmetic", 4.0), ("idle", 3.0)):
            torch.cuda.synchronize()
            marks.append((nt.now(), phase))
            queue = Queue(torch, graphs[phase]) if phase in graphs else None
            while nt.now() < marks[-1][0] + length * scale:
                if queue:
                    queue.feed(2)
                row = nvml.nvmlDeviceGetFieldValues(device, [*FIELDS, (82, 0)])
                numbers = [nt.field_number(value) for value in row]
                table.writerow([f"{nt.now():.4f}", phase, *(n / 1000 for n in numbers[:-1]), numbers[-1]])
                time.sleep(0.006)
    (out / "scopes_marks.json").write_text(json.dumps(marks))


def table(folder):
    calls = json.loads((folder / "scopes_calls.json").read_text())
    print(json.dumps({k: v for k, v in calls.items() if k not in SETS}))
    print("\n| call | n | median, p90, max µs | over 1 ms | value renewed each (p10, p50, p90 ms) |\n|" + "---|" * 5)
    for name in SETS:
        c = calls[name]
        print(f"| {name} | {c['calls']} | {c['us']['p50']}, {c['us']['p90']}, {c['us']['max']} |"
              f" {c['share_over_1ms']:.1%} | {c.get('renewed_ms', '')} |")  # fmt: skip
    marks = json.loads((folder / "scopes_marks.json").read_text())
    with (folder / "scopes_steps.csv").open() as file:
        rows = list(csv.reader(file))
    names, rows = rows[0][2:], [[float(r[0]), *(float(x) for x in r[2:])] for r in rows[1:]]
    data = np.array(rows)
    edges = [t for t, _ in marks] + [data[-1, 0]]
    print("\n| phase | " + " | ".join(names) + " |\n|" + "---|" * (len(names) + 1))
    means = []
    for (start, phase), end in zip(marks, edges[1:]):
        late = data[(data[:, 0] > end - 1.2) & (data[:, 0] < end - 0.1), 1:]
        means.append(late.mean(axis=0))
        print(f"| {phase}, last 1.1 s | " + " | ".join(
            f"{m:.1f} ± {s:.1f}" for m, s in zip(late.mean(axis=0), late.std(axis=0))) + " |")  # fmt: skip
    print("\nseconds until 10, 50 and 90 % of a step:")
    for i, (start, phase) in enumerate(marks[1:], 1):
        part = data[(data[:, 0] > start) & (data[:, 0] < edges[i + 1])]
        for k, name in enumerate(names[:-1]):
            step = means[i][k] - means[i - 1][k]
            done = (part[:, k + 1] - means[i - 1][k]) / step if step else np.zeros(len(part))
            reached = [part[done >= share, 0] - start for share in (0.1, 0.5, 0.9)]
            seconds = ", ".join(f"{times[0]:.3f}" if len(times) else "never" for times in reached)
            print(f"to {phase}, {name}: step {step:.1f} W: {seconds}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runner = commands.add_parser("run")
    runner.add_argument("--out", type=pathlib.Path, required=True)
    runner.add_argument("--smoke", action="store_true", help="a few seconds only, to see that everything works")
    commands.add_parser("table").add_argument("folder", type=pathlib.Path)
    options = parser.parse_args()
    if options.command == "run":
        run(options.out, options.smoke)
    else:
        table(options.folder)


if __name__ == "__main__":
    main()
