"""By how much do the ring of power samples and the energy counter lag behind the work?

Loads of some 0.6 s alternate, synchronised by the host at each change, in two sets: `plain`, matrix products, below
the power limit if zeros among their numbers can bring them there, against a kernel that only spins, and `limit`,
matrix products at the power limit against products bound by memory. Each load's length varies by up to 50 ms, so that
edges meet all phases of the sensors.

    python3 benches/edge_lag.py run --out DIR [--edges 44] [--smoke]    # on the GPU, 60 s
    python3 benches/edge_lag.py table DIR                               # anywhere

`run` writes `edge_ring.csv` (t_s, watts: the ring's samples by the driver's stamps), `edge_ticks.csv` (the counter:
when the reading before a tick ended, when the reading that showed it began and ended, joules) and `edge_marks.csv`
(t_s, set, kind: `rise` or `fall`; the host's clock after its synchronisation). All times count from the same zero.

`table` prints the lag of each source at each kind of edge by areas, as mean ± sd (standard error):

    lag = (∫P dt over ± h − (P_before + P_after) h) / (P_before − P_after)

The area is the lag only where power is flat on both sides: the clean case is the end of `plain`'s load, before the
kernel that only spins. There the ring's samples are also fitted as a delay followed by an exponential.
"""

import argparse
import csv
import pathlib
import random
import time

import numpy as np

import nvml_trace as nt

HALF_S = 0.15
BEFORE_S, AFTER_S = (0.10, 0.30), (0.15, 0.40)
LENGTH_S, VARIES_S = 0.60, 0.05


def make_loads(torch):
    """Graphs of some 5 ms and what one lasts: square products of several shares of zeros, and 8-row products."""
    options = {"device": "cuda", "dtype": torch.bfloat16}
    a, b = torch.randn(2, 8192, 8192, **options)
    c = torch.empty_like(a)
    weights = [torch.empty(s, **options).normal_(0, 0.02) for s in ((28672, 4096), (4096, 14336))]
    inputs = [torch.randn(8, w.shape[1], **options) for w in weights]
    works = {}
    for share in (0.95, 0.9, 0.8, 0.65, 0.5):
        sparse = b * (torch.rand(8192, 8192, device="cuda") >= share)
        works[share] = lambda sparse=sparse: [torch.mm(a, sparse, out=c) for _ in range(4)]
    works["limit"] = lambda: [torch.mm(a, b, out=c) for _ in range(4)]
    works["memory"] = lambda: [torch.mm(x, w.t()) for _ in range(40) for x, w in zip(inputs, weights)]
    graphs = {}
    for name, work in works.items():
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            work()
        torch.cuda.synchronize()
        graphs[name] = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graphs[name]):
            work()
    return graphs


def spell(torch, graphs, name, seconds, lasts):
    """Runs one load for about some seconds without a gap and synchronises."""
    if name == "spin":
        torch.cuda._sleep(int(seconds * lasts["spin"]))
    else:
        for _ in range(max(round(seconds / lasts[name]), 1)):
            graphs[name].replay()
    torch.cuda.synchronize()


def calibrate(torch, graphs):
    """What one replay of each graph lasts, and cycles a second of the spin kernel."""
    lasts = {}
    for name, graph in graphs.items():
        for count in (5, 60):
            begin = nt.now()
            for _ in range(count):
                graph.replay()
            torch.cuda.synchronize()
            lasts[name] = (nt.now() - begin) / count
    begin = nt.now()
    torch.cuda._sleep(200_000_000)
    torch.cuda.synchronize()
    lasts["spin"] = 200_000_000 / (nt.now() - begin)
    return lasts


def below_limit(torch, graphs, lasts, recorder, limit):
    """The share of zeros with the highest power that stays clearly below the limit; without one, what memory binds."""
    spans = {}
    for name in graphs:
        if isinstance(name, float):
            begin = nt.now()
            spell(torch, graphs, name, 0.9, lasts)
            spans[name] = (begin + 0.4, nt.now() - 0.05)
    time.sleep(1.2)
    trace = recorder.dump()
    watts = {name: nt.ring_power(trace, *span) for name, span in spans.items()}
    print("zeros and watts", watts, flush=True)
    fitting = {name: w for name, w in watts.items() if w < 0.9 * limit}
    return max(fitting, key=fitting.get) if fitting else "memory"


def run(out, edges, smoke):
    out.mkdir(parents=True, exist_ok=True)
    recorder = nt.Recorder()
    import torch

    graphs = make_loads(torch)
    lasts = calibrate(torch, graphs)
    share = below_limit(torch, graphs, lasts, recorder, nt.limit_and_name()["limit_w"])
    print("the plain set's load (a share of zeros, or a name):", share, flush=True)
    chance = random.Random(3)
    marks = []
    for which, high, low in (("plain", share, "spin"), ("limit", "limit", "memory")):
        spell(torch, graphs, high, 0.2 if smoke else 2.0, lasts)
        spell(torch, graphs, low, 0.6, lasts)
        for k in range(4 if smoke else edges):
            marks.append((nt.now(), which, "fall" if k % 2 else "rise"))
            name = low if k % 2 else high
            spell(torch, graphs, name, LENGTH_S + chance.uniform(-VARIES_S, VARIES_S), lasts)
        print(which, "done", flush=True)
    time.sleep(1.2)
    trace = recorder.stop()
    zero = marks[0][0] - 3.0
    keep = trace["ring"][:, 0] > zero
    save(out / "edge_ring.csv", ("t_s", "watts"), [(f"{t - zero:.6f}", f"{w:.3f}") for t, w in trace["ring"][keep]])
    ticks = trace["ticks"][trace["ticks"][:, 0] > zero]
    rows = [(*(f"{t - zero:.6f}" for t in r[:3]), f"{r[3]:.3f}") for r in ticks]
    save(out / "edge_ticks.csv", ("previous_end_s", "begin_s", "end_s", "joules"), rows)
    save(out / "edge_marks.csv", ("t_s", "set", "kind"), [(f"{t - zero:.6f}", s, k) for t, s, k in marks])


def save(path, columns, rows):
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(columns)
        table.writerows(rows)


def read(path):
    with path.open() as file:
        return list(csv.reader(file))[1:]


def lag_at(t, energy_at):
    """A source's lag at one edge, and the powers before and after, from its energy as a function of time."""
    near, far = BEFORE_S
    before = (energy_at(t - near) - energy_at(t - far)) / (far - near)
    near, far = AFTER_S
    after = (energy_at(t + far) - energy_at(t + near)) / (far - near)
    area = energy_at(t + HALF_S) - energy_at(t - HALF_S)
    return (area - (before + after) * HALF_S) / (before - after), before, after


def table(folder):
    ring = np.array(read(folder / "edge_ring.csv"), dtype=float)
    fine = np.arange(ring[0, 0], ring[-1, 0], 0.0005)
    summed = np.concatenate([[0], np.cumsum(np.interp((fine[1:] + fine[:-1]) / 2, *ring.T)) * 0.0005])
    ticks = np.array(read(folder / "edge_ticks.csv"), dtype=float)
    when = nt.tick_times(ticks)
    sources = {
        "ring": lambda t: np.interp(t, fine, summed),
        "counter": lambda t: np.interp(t, when, ticks[:, 3]),
    }
    print("| set | edge | source | n | W before, after | lag, ms: mean ± sd (se) | median |\n|" + "---|" * 7)
    marks = [(float(t), which, kind) for t, which, kind in read(folder / "edge_marks.csv")]
    last = {which: max(t for t, s, _ in marks if s == which) for which in ("plain", "limit")}
    first = {which: min(t for t, s, _ in marks if s == which) for which in ("plain", "limit")}
    for which in ("plain", "limit"):
        for kind in ("rise", "fall"):
            for name, energy_at in sources.items():
                found = [lag_at(t, energy_at) for t, s, k in marks
                         if s == which and k == kind and first[which] < t <= last[which]]  # fmt: skip
                lags, before, after = np.array(found).T
                sd = lags.std(ddof=1) * 1e3
                print(f"| {which} | {kind} | {name} | {len(lags)} | {before.mean():.0f}, {after.mean():.0f} |"
                      f" {lags.mean() * 1e3:+.1f} ± {sd:.1f} ({sd / len(lags) ** 0.5:.1f}) |"
                      f" {np.median(lags) * 1e3:+.1f} |")  # fmt: skip
    rest, delay, tau = fit_falls(ring, [t for t, s, k in marks if (s, k) == ("plain", "fall")])
    print(f"\nfalls of `plain`, ring: delay {delay:.1f} ms, time constant {tau:.1f} ms, rest {rest:.1%} of the step")


def fit_falls(ring, falls):
    """The delay and time constant (ms) that fit the ring's samples after falling edges best, after the rest's size."""
    x, y = [], []
    for t in falls:
        level = [ring[(ring[:, 0] > t + a) & (ring[:, 0] < t + b), 1].mean() for a, b in ((-0.25, -0.02), (0.15, 0.4))]
        near = ring[(ring[:, 0] > t - 0.05) & (ring[:, 0] < t + 0.15)]
        x.extend((near[:, 0] - t) * 1e3)
        y.extend((near[:, 1] - level[1]) / (level[0] - level[1]))
    x, y = np.array(x), np.array(y)
    fits = []
    for delay in np.arange(0.0, 12.0, 0.1):
        for tau in np.arange(4.0, 30.0, 0.1):
            rest = y - np.exp(-np.maximum(x - delay, 0.0) / tau)
            fits.append((float(np.sqrt((rest**2).mean())), delay, tau))
    return min(fits)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runner = commands.add_parser("run")
    runner.add_argument("--out", type=pathlib.Path, required=True)
    runner.add_argument("--edges", type=int, default=44, help="of each set")
    runner.add_argument("--smoke", action="store_true", help="a few seconds only, to see that everything works")
    commands.add_parser("table").add_argument("folder", type=pathlib.Path)
    options = parser.parse_args()
    if options.command == "run":
        run(options.out, options.edges, options.smoke)
    else:
        table(options.folder)


if __name__ == "__main__":
    main()
