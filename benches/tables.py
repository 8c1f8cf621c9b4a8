"""Markdown tables from the results of the benches, so that no number in a page is typed by hand.

    python3 benches/tables.py docs/performance.md                   # renews each table between its two comments
    python3 benches/tables.py benches/results/h100-decode.json      # prints the tables of a file

A page names a table by two comments: `<!-- table: decode h100-decode -->` … `<!-- end of table -->`, of which the first
has the name of the table and that of the file in `benches/results` without `.json`.
"""

import json
import pathlib
import re
import sys
import textwrap

RESULTS = pathlib.Path(__file__).resolve().parent / "results"
NAMES = {
    "ours": "this program",
    "plain": "this program, plain path",
    "products": "weight products alone",
    "transformers": "transformers, static cache, compiled",
    "prefill-ours": "this program, logits of the last position",
    "prefill-transformers-last": "transformers, not compiled, logits of the last position",
    "prefill-transformers-all": "transformers, not compiled, all logits",
    "llama.cpp": "llama.cpp",
}
SHAPES = {"llama-3.1-8b": "8B", "llama-3.2-1b": "1B", "qwen2-0.5b": "0.5B Qwen2 shape", "teacher": "bundled teacher"}


def digits(value, count=3):
    """A number with so many significant digits, never in exponents; as `shown` in `tests/benches.rs`."""
    if value is None:
        return "–"
    magnitude = len(str(int(abs(value)))) if abs(value) >= 1 else -leading_zeros(abs(value))
    return f"{value:.{max(count - magnitude, 0)}f}"


def leading_zeros(value):
    zeros = 0
    while 0 < value < 0.1:
        value, zeros = value * 10, zeros + 1
    return zeros


def share(value):
    return "–" if value is None else f"{value * 100:.0f} %"


def markdown(head, lines):
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *lines])


def by_batch(rows, cell, engines=None):
    """One line for each shape and engine, one column for each batch size."""
    batches = sorted({row["batch"] for row in rows})
    lines, seen = [], []
    for row in rows:
        key = (row["shape"], row["engine"], row["uuid"])
        if key in seen or (engines and row["engine"] not in engines):
            continue
        seen.append(key)
        own = {r["batch"]: r for r in rows if (r["shape"], r["engine"], r["uuid"]) == key}
        name = f"{SHAPES[row['shape']]}, {NAMES[row['engine']]}"
        lines.append([name, *(cell(own[batch]) if batch in own else "" for batch in batches)])
    return markdown(["", *(f"batch {batch}" for batch in batches)], lines)


def decode(data):
    return by_batch(data["rows"], lambda r: f"{digits(r['ms_per_step'])} · {digits(r['j_per_output_token'])}")


def ratios(data):
    cell = lambda r: f"{digits(r['ratio_to_products'])} · {digits(r['joules_ratio_to_products'])}"  # noqa: E731
    return by_batch([r for r in data["rows"] if r["engine"] != "products"], cell)


def limits(data):
    def cell(row):
        floor = row["multiple_of_energy_floor"]
        return share(row["share_of_bandwidth_limit"]) + ("" if floor is None else f" · {digits(floor)}")

    return by_batch(data["rows"], cell)


def heat(data):
    """Temperature of the core at the end of the windows, and how far their energies lie apart."""

    def cell(row):
        low, high = row["j_lowest_window"], row["j_highest_window"]
        spread = f" · {(high / low - 1) * 100:.1f} %" if low and row["windows"] > 1 else ""
        return ("–" if row["temperature_c"] is None else f"{row['temperature_c']:.0f} °C") + spread

    return by_batch(data["rows"], cell)


def factor(data):
    """Energy of the first shape's token over that of the second's."""
    joules = {(r["uuid"], r["engine"], r["batch"], r["shape"]): r["j_per_output_token"] for r in data["rows"]}
    lines = {}
    for uuid, engine, batch, shape in joules:
        small = joules.get((uuid, engine, batch, "llama-3.2-1b"))
        large = joules[(uuid, engine, batch, shape)]
        if shape == "llama-3.1-8b" and small and large:
            lines.setdefault((uuid, engine), {})[batch] = large / small
    batches = sorted({batch for line in lines.values() for batch in line})
    table = [[NAMES[engine], *(digits(own.get(b)) for b in batches)] for (_, engine), own in lines.items()]
    return markdown(["joules a token, 8B : 1B", *(f"batch {batch}" for batch in batches)], table)


def prefill(data):
    lines = [[f"{SHAPES[r['shape']]}, {NAMES[r['engine']]}", digits(r["ms_per_call"]), digits(r["j_per_output_token"])]
             for r in data["prefill"]]  # fmt: skip
    return markdown(["prompts of 2,048 tokens, batch 8", "ms a call", "J a prompt"], lines)


def loading(data):
    lines = [[SHAPES[r["shape"]], digits(r["load_s"])] for r in data["loading"]]
    return markdown(["dummy weights", "s"], sorted(lines))


def cards(data):
    lines = [[c["card"], c["uuid"] or "–", digits((c["read_bandwidth"] or 0) / 1e12)] for c in data["cards"]]
    return markdown(["card", "UUID", "plain read, TB/s"], lines)


def cpu(data):
    engines = ("ours", "transformers", "llama.cpp")
    head = ["", "batch", *(f"{NAMES[e]}, tokens/s".replace(", static cache, compiled", "") for e in engines)]
    head += ["against transformers", "against llama.cpp", "share of the read bandwidth: this program", "llama.cpp"]
    lines = []
    for key in dict.fromkeys((r["shape"], r["batch"]) for r in data["rows"]):
        own = {r["engine"]: r for r in data["rows"] if (r["shape"], r["batch"]) == key}
        speeds = [digits(own[e]["tokens_per_s"]) if e in own else "–" for e in engines]
        against = [digits(own["ours"][f"ratio_to_{e}"]) if e in own else "–" for e in engines[1:]]
        shares = [share(own[e]["share_of_bandwidth"]) if e in own else "–" for e in ("ours", "llama.cpp")]
        lines.append([SHAPES[key[0]], str(key[1]), *speeds, *against, *shares])
    machine, versions, others = data["machine"], data["versions"], [w["others"] for w in data["windows"]]
    facts = (
        f"{machine['processor']}, {machine['cores']} cores; all of them together read"
        f" {digits(max(data['read_bandwidths']) / 1e9)} GB/s. torch {versions['torch']}, transformers"
        f" {versions['transformers']}, llama-cpp-python {versions['llama-cpp-python']}. Other processes took"
        f" {share(min(others))} to {share(max(others))} of the processor meanwhile."
    )
    return f"{markdown(head, lines)}\n\n{textwrap.fill(facts, 120, break_on_hyphens=False)}"


TABLES = {"decode": decode, "ratios": ratios, "limits": limits, "heat": heat, "factor": factor, "prefill": prefill,
          "loading": loading, "cards": cards, "cpu": cpu}  # fmt: skip
BLOCK = re.compile(r"(<!-- table: (\S+) (\S+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def renewed(block):
    begin, name, file, end = block.groups()
    path = RESULTS / f"{file}.json"
    text = TABLES[name](json.loads(path.read_text())) if path.exists() else f"(not measured yet: no `{file}.json`)"
    return f"{begin}\n{text}\n\n{end}"


def main():
    path = pathlib.Path(sys.argv[1])
    if path.suffix == ".md":
        path.write_text(BLOCK.sub(renewed, path.read_text()))
        return
    data = json.loads(path.read_text())
    for name, table in TABLES.items():
        if (name == "cpu") == ("rows" in data and "prefill" not in data):
            print(f"{name}\n\n{table(data)}\n")


if __name__ == "__main__":
    main()
