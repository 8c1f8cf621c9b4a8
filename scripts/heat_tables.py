#!/usr/bin/env python3
"""The tables of docs/measurement.md on heat, from the run directories of scripts/heat_study.sh.

    python3 scripts/heat_tables.py OUT
    python3 scripts/heat_tables.py reports/published/h100-heat

For each run: the energy of each cell's trials with what ran before them, temperatures and what was still to come after
the warm-up, and the spread over the trials. Reads records.jsonl alone, without packages.
"""
import json
import statistics
import sys
from pathlib import Path


def trials(run: Path):
    lines = [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]
    found = [line for line in lines if line.get("kind") == "trial" and line["outcome"]["outcome"] == "measured"]
    before = None
    for line in found:
        state = "after idle" if before is None or before["block"] != line["block"] else f"after {before['cell']['id']}"
        if run.name.endswith("_warm") and before is not None:
            state = "after itself"
        before = line
        yield state, line


def percent(value, digits=2):
    return "–" if value is None else f"{100 * value:+.{digits}f} %"


def main() -> None:
    out = Path(sys.argv[1])
    print("| run | cell | block | state | mJ a token | against the mean | core, °C | memory, °C | SM MHz | warm-up, s | "
          "still to come (at most) | residual (sd) |")
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    spreads = {}
    for run in sorted(out.iterdir()):
        if not (run / "records.jsonl").is_file():
            continue
        rows = list(trials(run))
        for cell in sorted({line["cell"]["id"] for _, line in rows}):
            own = [(state, line) for state, line in rows if line["cell"]["id"] == cell]
            energies = [line["outcome"]["energy"]["total_j"] / line["outcome"]["tokens_out"] for _, line in own]
            mean = statistics.mean(energies)
            for (state, line), energy in zip(own, energies):
                outcome = line["outcome"]
                gpu, heat, window = outcome["conditions"][0], outcome.get("heat") or {}, outcome["energy"]
                core = f"{gpu['temperature_start_c']:.0f}–{gpu['temperature_end_c']:.0f}"
                ends = (gpu.get("memory_temperature_start_c"), gpu.get("memory_temperature_end_c"))
                memory = "–" if None in ends else f"{ends[0]:.0f}–{ends[1]:.0f}"
                print(f"| {run.name} | {cell} | {line['block'] + 1} | {state} | {1e3 * energy:.2f} "
                      f"| {percent(energy / mean - 1)} | {core} | {memory} | {gpu['sm_clock_mhz']:.0f} "
                      f"| {outcome['warmup']['duration_s']:.1f} | {percent(heat.get('remainder'))} "
                      f"({percent(heat.get('remainder_at_most'))}) | {percent(window['residual'])} "
                      f"({percent(window.get('residual_sd'))}) |")
            spreads.setdefault(cell, {})[run.name] = energies
    print("\n| cell | rule | n | mean, mJ | highest − lowest | standard deviation |")
    print("|---|---|---|---|---|---|")
    for cell, runs in spreads.items():
        for rule in ("short", "steady"):
            energies = [e for name, own in runs.items() if rule in name for e in own]
            if len(energies) > 1:
                mean = statistics.mean(energies)
                print(f"| {cell} | {rule} | {len(energies)} | {1e3 * mean:.2f} "
                      f"| {percent((max(energies) - min(energies)) / mean)} "
                      f"| {percent(statistics.stdev(energies) / mean)} |")


if __name__ == "__main__":
    main()
