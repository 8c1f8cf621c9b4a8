#!/usr/bin/env python3
"""Prints the tables of docs/measurement.md from the runs of scripts/measurement_study.sh: measurement_tables.py OUT.

Needs only the standard library; reads results.csv and records.jsonl."""

import csv
import json
import math
import statistics
import sys
from pathlib import Path

out = Path(sys.argv[1])
T975 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


def rows(name):
    path = out / name / "results.csv"
    return list(csv.DictReader(path.open())) if path.exists() else []


def numbers(table, key):
    return [float(row[key]) for row in table if row.get(key) not in (None, "")]


def spread(values):
    """Mean and coefficient of variation in percent."""
    mean = statistics.mean(values)
    return mean, 100 * statistics.stdev(values) / mean if len(values) > 1 else math.nan


print("| window | valid | E/T_out ours, mJ | CV | E_sum/T_out, mJ | CV | E_sum/E | residuals, % | largest |")
print("|---|---|---|---|---|---|---|---|---|")
for seconds in (1, 2, 5, 10, 20):
    table = [row for row in rows(f"win{seconds}") if row["outcome"] == "measured"]
    if not table:
        continue
    ours = [float(row["E_run_J"]) / float(row["T_out"]) * 1e3 for row in table if row["E_run_J"]]
    ept_bench = [float(row["E_sum_J"]) / float(row["T_out"]) * 1e3 for row in table if row["E_sum_J"]]
    ratio = [float(row["E_sum_J"]) / float(row["E_run_J"]) for row in table if row["E_run_J"] and row["E_sum_J"]]
    residuals = [100 * value for value in numbers(table, "residual")]
    valid = sum(row["valid"] == "true" for row in table)
    length = statistics.mean(numbers(table, "window_s"))
    (a, cv_a), (b, cv_b) = spread(ours), spread(ept_bench)
    shown = " ".join(f"{value:+.2f}" for value in residuals)
    largest = max(map(abs, residuals))
    print(f"| {seconds} s ({length:.1f} s) | {valid} of {len(table)} | {a:.2f} | {cv_a:.2f} % | {b:.2f} | {cv_b:.2f} % "
          f"| {100 * (statistics.mean(ratio) - 1):+.2f} % | {shown} | {largest:.2f} |")

print("\n| window | temperature, °C | SM clock, MHz | power, W | tokens/s | clock events | warnings |")
print("|---|---|---|---|---|---|---|")
for seconds in (1, 2, 5, 10, 20):
    table = [row for row in rows(f"win{seconds}") if row["outcome"] == "measured"]
    if not table:
        continue
    heat = [f"{float(row['temperature_start_c']):.0f}→{float(row['temperature_end_c']):.0f}" for row in table]
    clock, power = numbers(table, "sm_clock_mhz"), numbers(table, "power_w")
    speed = numbers(table, "tokens_per_s")
    codes = sorted({code for row in table for code in row["warnings"].split(",") if code})
    print(f"| {seconds} s | {', '.join(heat)} | {statistics.mean(clock):.0f} | {statistics.mean(power):.1f} "
          f"(CV {spread(power)[1]:.2f} %) | {statistics.mean(speed):.0f} (CV {spread(speed)[1]:.2f} %) "
          f"| {', '.join(sorted({row['throttle'] for row in table})) or '–'} | {', '.join(codes) or '–'} |")

records = out / "win10" / "records.jsonl"
if records.exists():
    print("\n| idle baseline | power, W | standard deviation of its five parts, W | temperature, °C |")
    print("|---|---|---|---|")
    for line in map(json.loads, records.open()):
        if line["kind"] == "baseline":
            idle = line["idle"]
            parts = idle["segments_w"]
            sd = statistics.stdev(parts) if len(parts) > 1 else math.nan
            print(f"| {line['time']} block {line['block'] + 1} | {idle['power_w']:.2f} | {sd:.2f} | {idle['temperature_c']} |")

table = [row for row in rows("prefill") if row["outcome"] == "measured" and row["E_run_J"]]
if table:
    print("\n| new tokens | E per pass, J | CV | prefill inside the window, J per pass | decode, J per pass | residuals, % |")
    print("|---|---|---|---|---|---|")
    by_length = {}
    for row in table:
        by_length.setdefault(int(row["max_new_tokens"]), []).append(row)
    for length, group in sorted(by_length.items()):
        energy = [float(row["E_run_J"]) / float(row["passes"]) for row in group]
        split = [tuple(float(row[key]) / float(row["passes"]) for key in ("prefill_J", "decode_J")) for row in group if row["prefill_J"]]
        mean, cv = spread(energy)
        inside = f"{statistics.mean(s[0] for s in split):.2f} | {statistics.mean(s[1] for s in split):.2f}" if split else "– | –"
        print(f"| {length} | {mean:.2f} | {cv:.2f} % | {inside} | {' '.join(f'{100 * v:+.2f}' for v in numbers(group, 'residual'))} |")
