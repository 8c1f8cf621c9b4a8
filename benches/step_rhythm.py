"""How much does the energy of a decode step err if the step lasts near 10 or 20 ms, the rhythm of the sensors?

An H100's power is sensed every 20 ms. A decode step's power isn't flat: it drops while the host takes the tokens. The
same step (the shapes of an 8B Llama at batch 8, as a CUDA graph) therefore runs on a grid of step times around 10 and
20 ms; a spin kernel pads it, so that true energy a step is a straight line in the step time, and what a source
deviates from the line is its error. Exact multiples run with several phases against the sensors. `swing` is a worse
case: a step of 14 ms on the 20 ms grid, so that 30 % of each is idle.

    python3 benches/step_rhythm.py run --out DIR [--seconds 300] [--smoke]    # on the GPU
    python3 benches/step_rhythm.py table DIR                                  # anywhere, prints tables from the files

`run` writes `rhythm_windows.csv` (one row a window: when, what, and how well the schedule was kept) and
`rhythm_trace.npz` (all readings, see `nvml_trace.py`). `table` prints, for each group of step times, every source's
deviation from the line in per cent and the beats that it shows, and what filter explains the exact multiples.
"""

import argparse
import csv
import gc
import json
import pathlib
import random
import time

import numpy as np

import nvml_trace as nt

OFFSETS_MS = (-1.0, -0.5, -0.2, -0.1, -0.05, 0.05, 0.1, 0.2, 0.5, 1.0)
SENSOR_S = 0.02
SLACK_S = 0.0002
"""Between the end of a step's work and the start of the next step."""
SETTLE_S = 0.3
"""Left out at the start of a window."""
COLUMNS = (
    "group", "step_ms", "phase_ms", "round", "start", "end", "steps", "jitter_us", "slack_us", "slack_sd_us", "late",
    "pad_ms",
)  # fmt: skip


class DecodeStep:
    """One decode step of a Llama-like model as a CUDA graph; layers beyond `distinct` use earlier layers' weights."""

    def __init__(self, layers, batch=8, context=2048, distinct=24, device="cuda", shrink=1):
        import torch

        self.torch = torch
        self.batch, self.context, self.layers = batch, context, layers
        self.hidden, self.inner, self.vocab = 4096 // shrink, 14336 // shrink, 128256 // shrink
        self.heads, self.kv_heads, self.width = 32 // shrink, 8 // min(shrink, 8), 128
        options = {"device": device, "dtype": torch.bfloat16}

        def gaussian(*shape):
            return torch.empty(shape, **options).normal_(0, 0.02)

        kv = self.kv_heads * self.width
        self.weights = [
            {
                "qkv": gaussian(self.heads * self.width + 2 * kv, self.hidden),
                "out": gaussian(self.hidden, self.heads * self.width),
                "up": gaussian(2 * self.inner, self.hidden),
                "down": gaussian(self.hidden, self.inner),
                "keys": torch.randn(batch, self.kv_heads, context, self.width, **options),
                "values": torch.randn(batch, self.kv_heads, context, self.width, **options),
            }
            for _ in range(min(layers, distinct))
        ]
        self.norm = torch.ones(self.hidden, **options)
        self.head = gaussian(self.vocab, self.hidden)
        self.cos, self.sin = torch.randn(2, 1, 1, self.width, **options)
        self.input = torch.randn(batch, self.hidden, **options)
        self.tokens = torch.zeros(batch, dtype=torch.int64, pin_memory=device == "cuda")
        self.graph = None

    def rotate(self, x):
        half = self.torch.cat([-x[..., self.width // 2 :], x[..., : self.width // 2]], dim=-1)
        return x * self.cos + half * self.sin

    def layer(self, x, w):
        linear, norm = self.torch.nn.functional.linear, self.torch.nn.functional.rms_norm
        mixed = linear(norm(x, (self.hidden,), self.norm), w["qkv"]).view(self.batch, -1, self.width)
        q, k, v = mixed.split([self.heads, self.kv_heads, self.kv_heads], dim=1)
        w["keys"][:, :, -1].copy_(self.rotate(k))
        w["values"][:, :, -1].copy_(v)
        grouped = self.rotate(q).reshape(self.batch * self.kv_heads, -1, self.width)
        keys, values = (w[name].view(-1, self.context, self.width) for name in ("keys", "values"))
        scores = self.torch.bmm(grouped, keys.transpose(1, 2)) * self.width**-0.5
        mixed = self.torch.bmm(scores.softmax(dim=-1), values).view(self.batch, -1)
        x = x + linear(mixed, w["out"])
        gate, up = linear(norm(x, (self.hidden,), self.norm), w["up"]).chunk(2, dim=-1)
        return x + linear(self.torch.nn.functional.silu(gate) * up, w["down"])

    def work(self):
        x = self.input
        for i in range(self.layers):
            x = self.layer(x, self.weights[i % len(self.weights)])
        logits = self.torch.nn.functional.linear(
            self.torch.nn.functional.rms_norm(x, (self.hidden,), self.norm), self.head
        )
        self.tokens.copy_(logits.argmax(dim=-1), non_blocking=True)

    def capture(self):
        with self.torch.inference_mode():
            stream = self.torch.cuda.Stream()
            with self.torch.cuda.stream(stream):
                self.work()
                self.work()
            self.torch.cuda.synchronize()
            self.graph = self.torch.cuda.CUDAGraph()
            with self.torch.cuda.graph(self.graph):
                self.work()
        return self

    def with_layers(self, layers):
        """The same weights with another number of layers."""
        other = object.__new__(DecodeStep)
        other.__dict__.update(self.__dict__)
        other.layers = layers
        return other.capture()


def natural_seconds(torch, step, repeats=60):
    """Median time of a launch with its synchronisation."""
    times = []
    for _ in range(repeats):
        begin = nt.now()
        step.graph.replay()
        torch.cuda.synchronize()
        times.append(nt.now() - begin)
    return float(np.median(times[repeats // 3 :]))


def cycles_per_second(torch, step):
    """Cycles that the spin kernel counts a second while the card is as hot and as fast as in the experiment."""
    natural = natural_seconds(torch, step, 30)
    cycles, times = 8_000_000, []
    for _ in range(12):
        begin = nt.now()
        step.graph.replay()
        torch.cuda._sleep(cycles)
        torch.cuda.synchronize()
        times.append(nt.now() - begin - natural)
    return cycles / float(np.median(times))


def run_window(torch, step, period, seconds, phase, natural, rate):
    """Keeps steps on a grid of absolute times for some seconds; a slow controller holds the slack after each step."""
    pad = max(period - natural - SLACK_S, 0.0)
    origin = nt.now() + 0.001
    if phase is not None:
        origin = (origin // SENSOR_S + 1) * SENSOR_S + phase
    launches, slacks, late = [], [], 0
    count = max(round(seconds / period), 4)
    for i in range(count):
        due = origin + i * period
        late += nt.now() > due
        while nt.now() < due:
            pass
        launches.append(nt.now())
        step.graph.replay()
        if pad > 0:
            torch.cuda._sleep(int(pad * rate))
        torch.cuda.synchronize()
        slack = due + period - nt.now()
        slacks.append(slack)
        pad = min(max(pad + 0.05 * min(max(slack - SLACK_S, -0.001), 0.001), 0.0), period)
    launches, slacks = np.array(launches), np.array(slacks[count // 10 :])
    jitter = (launches - origin - period * np.arange(count))[count // 10 :].std()
    return {
        "start": origin, "end": origin + count * period, "steps": count, "jitter_us": jitter * 1e6,
        "slack_us": slacks.mean() * 1e6, "slack_sd_us": slacks.std() * 1e6, "late": int(late), "pad_ms": pad * 1e3,
    }  # fmt: skip


def plan(scale, seed):
    """Windows as (group, step ms, phase ms or None, seconds, round) in random order, then in that order reversed.

    The worse case comes in the first round only.
    """
    chance = random.Random(seed)
    settings = []
    for group, centre, shrink, far, length in (("20", 20.0, 1.0, 26.3, 5.5), ("10", 10.0, 0.5, 13.7, 4.0)):
        times = [round(centre + offset * shrink, 4) for offset in OFFSETS_MS] + [far]
        settings += [(group, time, None, length) for time in times]
        settings += [(group, centre, centre / 8 * k, 1.5) for k in range(8)]
    worse = [("swing", 20.0 + offset, None, 4.0) for offset in (-1.0, -0.5, -0.2, -0.05, 0.05, 0.2, 0.5, 1.0)]
    worse += [("swing", 20.0, 2.5 * k, 1.2) for k in range(8)]
    second = list(settings)
    settings += worse
    chance.shuffle(settings)
    order = [(1, *setting) for setting in settings] + [(2, *setting) for setting in settings[::-1] if setting in second]
    return [(group, step, phase, length * scale + SETTLE_S, part) for part, group, step, phase, length in order]


def warm_up(torch, step, seconds):
    end = nt.now() + seconds
    while nt.now() < end:
        for _ in range(20):
            step.graph.replay()
        torch.cuda.synchronize()


def choose_layers(torch, step):
    """Layers for a natural step a little under 9.5, 19 and 14 ms, from the times of two sizes."""
    few, many = step.with_layers(16), step.with_layers(48)
    warm_up(torch, many, 1.0)
    short, long = natural_seconds(torch, few), natural_seconds(torch, many)
    each = (long - short) / 32
    head = short - 16 * each
    print(f"layer {each * 1e6:.1f} us, rest {head * 1e6:.0f} us", flush=True)
    return {g: max(int((t * 1e-3 - head) / each), 1) for g, t in (("10", 9.2), ("20", 18.6), ("swing", 14.0))}


def run(out, seconds, smoke):
    deadline = nt.now() + seconds
    recorder = nt.Recorder()
    import torch

    out.mkdir(parents=True, exist_ok=True)
    base = DecodeStep(1 if smoke else 24)
    base.layers = 24
    layers = choose_layers(torch, base)
    steps = {group: base.with_layers(count) for group, count in layers.items()}
    print("layers", layers, flush=True)
    warm_up(torch, steps["20"], 1.0 if smoke else 10.0)
    natural = {group: natural_seconds(torch, step) for group, step in steps.items()}
    rate = cycles_per_second(torch, steps["20"])
    facts = nt.limit_and_name() | {"layers": layers, "natural_s": natural, "cycles_per_s": rate}
    print(json.dumps(facts), flush=True)
    (out / "rhythm_facts.json").write_text(json.dumps(facts, indent=1))
    todo = plan(1.0, seed=1)
    scale = (deadline - nt.now() - 6) / sum(t + 0.02 for *_, t, _ in todo)
    todo = plan(0.02, seed=1)[::9] if smoke else plan(min(scale, 1.6), seed=1)
    gc.disable()
    with (out / "rhythm_windows.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        for group, step_ms, phase_ms, length, part in todo:
            if nt.now() + length > deadline - 4:
                print("out of time", flush=True)
                break
            phase = None if phase_ms is None else phase_ms * 1e-3
            row = run_window(torch, steps[group], step_ms * 1e-3, length, phase, natural[group], rate)
            row |= {"group": group, "step_ms": step_ms, "phase_ms": phase_ms, "round": part}
            table.writerow({k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()})
            file.flush()
            print(group, step_ms, phase_ms, f"late {row['late']} slack {row['slack_us']:.0f} us", flush=True)
    time.sleep(1.2)
    np.savez_compressed(out / "rhythm_trace.npz", **recorder.stop())


def load(folder):
    with (folder / "rhythm_windows.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["phase_ms"] = float(row["phase_ms"]) if row["phase_ms"] else None
        row.update({k: float(row[k]) for k in COLUMNS if k not in ("group", "phase_ms")})
    return rows, dict(np.load(folder / "rhythm_trace.npz"))


def measure(row, trace):
    """Joules a step by each source over one window, its temperatures, and the beats that the sources show."""
    start, end, period = row["start"] + SETTLE_S, row["end"] - 0.01, row["step_ms"] * 1e-3
    ends, line, whole = nt.counter_powers(trace, start, end)
    result = dict(row, ticks=whole, t=(start + end) / 2)
    watts = {"counter": ends, "counter_line": line, "ring": nt.ring_power(trace, start, end)}
    watts["instant"] = nt.instant_power(trace, start, end)
    result |= {name: value * period for name, value in watts.items()}
    result["core"], result["memory"], result["sm"], _, result["reasons"] = nt.conditions_over(trace, start, end)
    times, joules = nt.tick_energies(trace, start, end)
    result["tick_sd"] = joules.std(ddof=1) / nt.TICK if len(joules) > 2 else float("nan")
    samples = trace["ring"][(trace["ring"][:, 0] > start) & (trace["ring"][:, 0] < end)]
    result["ring_sd"] = samples[:, 1].std(ddof=1) if len(samples) > 2 else float("nan")
    multiple = round(period / SENSOR_S) or 1
    nearest = 1 / SENSOR_S * max(round(SENSOR_S / period), 1) / multiple
    beat = abs(1 / period - nearest)
    if 0 < beat < 4 and len(joules) > 20 and beat * (end - start) > 0.4:
        result["beat_hz"] = beat
        result["beat_counter"], result["beat_counter_se"] = nt.amplitude_at(times, joules / nt.TICK, beat)
        result["beat_ring"], result["beat_ring_se"] = nt.amplitude_at(samples[:, 0], samples[:, 1], beat)
    return result


def fit_line(rows, source):
    """Fits joules a step = a + b (step time) + c (core temperature) + d (time) to windows far from any multiple.

    With few such windows (the worse case) without c and d. Returns what the line expects of each row, and a to d.
    """
    far = [r for r in rows if r["phase_ms"] is None and abs(r["step_ms"] % 10 - 5) < 4.76]
    far = [r for r in far if np.isfinite(r[source])]

    terms = 4 if len(far) >= 8 else 2
    core, t = (np.mean([r[k] for r in far]) for k in ("core", "t"))

    def design(some):
        return np.array([[1.0, r["step_ms"], r["core"] - core, (r["t"] - t) / 100][:terms] for r in some])

    solution, *_ = np.linalg.lstsq(design(far), np.array([r[source] for r in far]), rcond=None)
    return design(rows) @ solution, solution


def low_passed(x, period, gap, tau):
    """A train of 1 with a gap of 0 at the end of each period (ms), after a first-order low-pass, at time x in it."""
    x, work = x % period, period - gap
    a, b = np.exp(-work / tau), np.exp(-gap / tau)
    start = (1 - a) * b / (1 - a * b)
    end = 1 - (1 - start) * a
    return np.where(x < work, 1 - (1 - start) * np.exp(-x / tau), end * np.exp(-(x - work) / tau))


def print_filter(rows, trace):
    """Fits each source's deviations at exact multiples as samples, one a grid point, of low-passed power.

    Free are the filter's time constant, a delay, and by how much power drops in a step's gap.
    """
    grid, offset = nt.ring_grid(trace)
    print(f"\nring grid {grid * 1e3:.5f} ms. At exact multiples: deviations as samples of low-passed power\n")
    print("| source | n | time constant, ms | delay, ms | drop, W | rest, % |\n|" + "---|" * 6)
    locked = [r for r in rows if r["phase_ms"] is not None]
    for source in ("counter", "ring", "instant"):
        kept = [r for r in locked if np.isfinite(r[source + "_dev"])]
        y = np.array([r[source + "_dev"] for r in kept])
        period = np.array([r["step_ms"] for r in kept])
        gap = np.array([r["pad_ms"] + r["slack_us"] / 1e3 for r in kept])
        middle = np.array([r["start"] + round(r["steps"] / 2) * r["step_ms"] * 1e-3 for r in kept])
        phase = (offset - middle) % grid * 1e3
        scale = np.array([r["step_ms"] / r[source] * (1 + r[source + "_dev"] / 100) / 10 for r in kept])
        fits = []
        for tau in np.arange(2.0, 60.0, 0.2):
            for delay in np.arange(0.0, 20.0, 0.1):
                x = (low_passed(phase - delay, period, gap, tau) - (1 - gap / period)) * scale
                drop = (x @ y) / (x @ x)
                fits.append((float(np.sqrt(((y - drop * x) ** 2).mean())), tau, delay, drop))
        rest, tau, delay, drop = min(fits)
        print(f"| {source} | {len(kept)} | {tau:.1f} | {delay:.1f} | {drop:.0f} | {rest:.2f} |")
    for group in sorted({r["group"] for r in locked}):
        some = [r for r in locked if r["group"] == group]
        off = [r for r in some if abs(r["counter_dev"]) > 1]
        seen = [r for r in off if abs(r["counter"] / r["ring"] - 1) > 0.01]
        print(f"{group}: counter off by over 1 % in {len(off)} of {len(some)} windows at the multiple;"
              f" it differs from the ring by over 1 % in {len(seen)} of those")  # fmt: skip
        for source in ("counter", "ring", "instant"):
            y = np.array([r[source + "_dev"] for r in some])
            print(f"  {source}: mean {y.mean():+.2f} ± {y.std(ddof=1):.2f}, {y.min():+.1f} to {y.max():+.1f}")


def print_group(group, rows):
    print(f"\n## {group}: deviation from the line in % (mean ± sd over windows)\n")
    sources = ("counter", "counter_line", "ring", "instant")
    for source in sources:
        expected, solution = fit_line(rows, source)
        for row, value in zip(rows, expected):
            row[source + "_dev"] = (row[source] / value - 1) * 100
        print(f"{source}: a, b, c, d = {np.round(solution, 5)}")
    print("\n| step, ms | n | counter | counter, line | ring | field 186 | counter − ring | tick sd, W | ring sd, W"
          " | beat, Hz | beat counter, W | beat ring, W |\n|" + "---|" * 12)  # fmt: skip
    for key in sorted({(r["step_ms"], r["phase_ms"] is not None) for r in rows}):
        some = [r for r in rows if (r["step_ms"], r["phase_ms"] is not None) == key]

        def spread(values, digits=2):
            values = np.array(values)
            sd = values.std(ddof=1) if len(values) > 1 else float("nan")
            return f"{values.mean():+.{digits}f} ± {sd:.{digits}f}"

        cells = [spread([r[s + "_dev"] for r in some]) for s in sources]
        cells.append(spread([(r["counter"] / r["ring"] - 1) * 100 for r in some]))
        cells += [f"{np.mean([r[k] for r in some]):.1f}" for k in ("tick_sd", "ring_sd")]
        beats = [r for r in some if "beat_hz" in r]
        cells.append(f"{beats[0]['beat_hz']:.3f}" if beats else "")
        for k in ("beat_counter", "beat_ring"):
            cells.append(f"{np.mean([r[k] for r in beats]):.1f} ± {np.mean([r[k + '_se'] for r in beats]):.1f}"
                         if beats else "")  # fmt: skip
        print(f"| {key[0]}{', phases' if key[1] else ''} | {len(some)} | " + " | ".join(cells) + " |")


def table(folder):
    rows, trace = load(folder)
    rows = [measure(row, trace) for row in rows]
    spacing = np.diff(trace["ring"][:, 0])
    print(f"ring: mean spacing {spacing.mean() * 1e3:.4f} ms, sd {spacing.std() * 1e3:.2f}")
    intervals = np.diff(nt.tick_times(trace["ticks"]))
    print(f"ticks: mean interval {intervals.mean() * 1e3:.3f} ms, sd {intervals.std() * 1e3:.2f}")
    for group in sorted({r["group"] for r in rows}):
        print_group(group, [r for r in rows if r["group"] == group])
    print_filter(rows, trace)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runner = commands.add_parser("run")
    runner.add_argument("--out", type=pathlib.Path, required=True)
    runner.add_argument("--seconds", type=float, default=300.0)
    runner.add_argument("--smoke", action="store_true", help="a few seconds only, to see that everything works")
    commands.add_parser("table").add_argument("folder", type=pathlib.Path)
    options = parser.parse_args()
    if options.command == "run":
        run(options.out, options.seconds, options.smoke)
    else:
        table(options.folder)


if __name__ == "__main__":
    main()
