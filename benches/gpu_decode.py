"""Decoding on a GPU: this program, its weight products alone, and transformers, in turn on one card at steady state.

    cargo build --release --features cuda
    python3 benches/gpu_decode.py run target/release/ept-sweep --out benches/results/h100-decode
    python3 benches/gpu_decode.py run target/release/ept-sweep --out DIR --engines ours,products --minutes 9
    python3 benches/gpu_decode.py rows benches/results/h100-decode        # the table from what lies in the folder
    python3 benches/tables.py docs/performance.md                         # and the pages that show it

Needs Python 3.10 with torch and transformers 5 (and nvidia-ml-py for temperatures). Llama shapes in bf16 with random
weights, prompts of 128 random tokens, 256 new tokens each, greedy, in fixed length. A time per step is that of whole
calls, prefill included, over 256; an energy per output token is that of the same calls. Both meters are this program's:
in its own run, and in `ept-sweep meter` around the others.

Each engine has a process of its own, which has ended before the next one starts. A process measures a few batch sizes;
a group of them is measured by one engine right after the other, in the second round in the opposite order. Before each
window the same work runs for `--warm-up` seconds, before the first one of all for `--first-warm-up` longer.

Every process leaves a record in the folder: a run of this program (`records.jsonl`, `run.json`, `results.csv`,
`samples/`), or a file with the calls of each window and the meter's readings. `FOLDER.json` beside it has the rows,
computed from all of them; `tests/benches.rs` computes them again. Several runs with the same `--out` add up. Ratios are
only taken on the same card. The first run of this program calibrates the card for the energy floor, which takes about
40 s; the others read its calibration.
"""

import argparse
import csv
import datetime
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
SHAPES = ("llama-3.1-8b", "llama-3.2-1b")
ENGINES = ("products", "ours", "prefill", "transformers")
CALIBRATION_S = 40.0
SOME_FAILED = 3
"""This program's exit code if it finished and some trials failed: the others count."""
GROUP_SPAN = 8
"""Batch sizes of one process of ours: a window is whole passes over as many prompts as the largest of them has."""
PREFILL = {"prompt": 2048, "batch": 8, "shape": "llama-3.1-8b"}
# seconds of a process before its first window, and at each beside warm-up and window: first guesses for --minutes
GUESS = {"ours": (14, 3), "plain": (18, 5), "products": (14, 1), "transformers": (25, 55), "prefill-ours": (14, 1),
         "prefill-transformers": (25, 1)}  # fmt: skip
TINY = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 512, "hidden_size": 64,
        "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 16, "hidden_act": "silu", "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "tie_word_embeddings": True, "bos_token_id": 0, "eos_token_id": 1,
        "torch_dtype": "float32"}  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- processes


def groups(batches):
    """Batch sizes that share a process: multiples of one another, the largest at most `GROUP_SPAN` times the first."""
    found = []
    for batch in sorted(batches):
        if found and batch <= GROUP_SPAN * found[-1][0] and all(batch % other == 0 for other in found[-1]):
            found[-1].append(batch)
        else:
            found.append([batch])
    return found


def tasks(options):
    """(engine, shape, batches), in the order in which they run."""
    wanted, parts = options.engines, [(shape, group) for shape in options.shapes for group in groups(options.batches)]
    pair = [engine for engine in ("products", "ours", "plain") if engine in wanted]
    plan = [(engine, *part) for part in parts for engine in pair]
    if "prefill" in wanted and PREFILL["shape"] in options.shapes:
        plan += [(engine, PREFILL["shape"], [PREFILL["batch"]]) for engine in ("prefill-ours", "prefill-transformers")]
    if "transformers" in wanted:
        plan += [("transformers", *part) for part in parts]
    for round_ in range(1, options.rounds):
        order = [(engine, *part) for part in parts for engine in pair]
        plan += order[::-1] if round_ % 2 else order
    return plan


class Runner:
    """Runs the processes and keeps their records."""

    def __init__(self, options):
        self.options = options
        self.program = options.program.resolve()
        self.out = options.out.resolve()
        self.out.mkdir(parents=True, exist_ok=True)
        self.began = time.monotonic()
        self.took = {}
        self.first = True
        self.device = "cpu" if options.dry_run else "cuda"
        self.environment = dict(os.environ)
        if not options.dry_run:
            self.environment["CUDA_VISIBLE_DEVICES"] = card(options.gpu)
        self.shapes = ROOT / "data/shapes"
        if options.dry_run:
            self.shapes = self.out / "shapes"
            for shape in options.shapes:
                (self.shapes / shape).mkdir(parents=True, exist_ok=True)
                (self.shapes / shape / "config.json").write_text(json.dumps(TINY))

    def left(self):
        minutes = self.options.minutes
        return float("inf") if minutes is None else minutes * 60 - (time.monotonic() - self.began)

    def expected(self, engine, batches):
        """Seconds of a process, after its like or a guess."""
        at_start, each = GUESS[engine]
        windows = 2 if engine == "prefill-transformers" else len(batches)
        guess = at_start + windows * (each + self.options.warm_up + 1.5 * self.options.seconds)
        if self.first:
            guess += self.options.first_warm_up
        if "ours" in engine and not self.calibrated():
            guess += CALIBRATION_S
        return self.took.get((engine, tuple(batches)), guess)

    def run(self, engine, shape, batches):
        now = datetime.datetime.now(datetime.timezone.utc)
        name = f"{now:%Y%m%dT%H%M%S}-{engine}-{shape}-b{'-'.join(map(str, batches))}"
        begin = time.monotonic()
        print(f"[{begin - self.began:5.0f} s] {engine}, {shape}, batch {batches}", flush=True)
        try:
            if engine in ("ours", "plain", "prefill-ours"):
                self.ours(name, engine, shape, batches)
            else:
                self.theirs(name, engine, shape, batches)
        except (subprocess.SubprocessError, OSError) as why:
            print(f"  FAILED: {why}", flush=True)
            shutil.rmtree(self.out / name, ignore_errors=True)
            return False
        self.took[(engine, tuple(batches))] = time.monotonic() - begin
        self.first = False
        return True

    def call(self, command, well=(0,), **more):
        done = subprocess.run(command, env=self.environment, timeout=min(self.left() + 20, 86400), **more)
        if done.returncode not in well:
            raise subprocess.SubprocessError(f"exit code {done.returncode}")

    def lengths(self, engine):
        if engine.startswith("prefill"):
            return (32 if self.options.dry_run else PREFILL["prompt"]), 1
        return (8, 8) if self.options.dry_run else (128, 256)

    def sweep(self, engine, shape, batches):
        """The sweep file of one process of ours."""
        options, (prompt, new) = self.options, self.lengths(engine)
        where = os.path.relpath(self.shapes / shape, self.out)
        where = where if where.startswith("..") else f"./{where}"
        dtype = "f32" if options.dry_run else "bf16"
        meter = "modelled" if options.dry_run else "nvml"
        warm_up = options.warm_up + (options.first_warm_up if self.first else 0.0)
        calibrated = self.calibrated()
        calibration = f", calibration: ./{calibrated}" if calibrated else ""
        # a fixed warm-up, the same for all engines: the bound is so wide that nothing prolongs it
        steady = "" if options.dry_run else f", max_warmup_s: {warm_up}, steady: 0.4"
        return (
            f"name: {engine}\n"
            f"models:\n  - {{label: {shape}, source: {where}, weights: dummy, dtype: {dtype}}}\n"
            f"sweep: {{batch_size: {batches}, max_new_tokens: {new}}}\n"
            f"prompts: {{random: {{tokens: {prompt}}}, count: {max(batches)}}}\n"
            "generation: {length: fixed}\n"
            + ("engine: {kernels: plain}\n" if engine == "plain" else "")
            + f"measure: {{meter: {meter}, preset: quick, repeats: 1, window_s: {options.seconds}, idle_s: 0, "
            f"warmup_s: {warm_up}{steady}{calibration}}}\n"
        )

    def calibrated(self):
        """An earlier run in the folder that has calibrated this card for the energy floor, so that it's done once."""
        for file in sorted(self.out.glob("*/run.json")):
            known = [c for part in json.loads(file.read_text())["parts"] for c in part.get("calibrations", [])]
            if any(c["uuid"] == self.environment.get("CUDA_VISIBLE_DEVICES") for c in known):
                return file.parent.name
        return None

    def ours(self, name, engine, shape, batches):
        file = self.out / f"{name}.yaml"
        file.write_text(self.sweep(engine, shape, batches))
        folder = self.out / name
        command = [self.program, "run", file, "--out", folder, "--device", self.device, "--offline", "--quiet"]
        try:
            self.call(command, well=(0, SOME_FAILED), stdout=subprocess.DEVNULL)
        finally:
            file.unlink()
            # what can be made again from the records
            shutil.rmtree(folder / "figures", ignore_errors=True)
            for made in ("report.html", "report.md", "results.parquet", "generations.jsonl", ".lock"):
                (folder / made).unlink(missing_ok=True)

    def theirs(self, name, engine, shape, batches):
        options, (prompt, new) = self.options, self.lengths(engine)
        what = engine.removesuffix("-transformers")
        with tempfile.TemporaryDirectory() as scratch:
            calls, meter = pathlib.Path(scratch) / "calls.json", pathlib.Path(scratch) / "meter.json"
            command = [self.program, "meter", "--quiet", "--out", meter, "--idle", "0"]
            command += ["--meter", "modelled" if options.dry_run else "nvml", "--", sys.executable]
            command += [HERE / "gpu_engines.py", what, "--shape", self.shapes / shape, "--out", calls]
            command += ["--batches", ",".join(map(str, batches)), "--prompt", str(prompt), "--new", str(new)]
            command += ["--seconds", str(options.seconds), "--warm-up", str(options.warm_up), "--device", self.device]
            command += ["--first-warm-up", str(options.first_warm_up if self.first else 0.0)]
            self.call(command)
            record = {"engine": engine, "shape": shape, "prompt": prompt, "new": new}
            record |= json.loads(calls.read_text()) | {"meter": kept(json.loads(meter.read_text()))}
        (self.out / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")


def kept(meter):
    """What the rows and their readers need of the meter's file."""
    gpus = meter["meter"]["gpus"]
    keys = ("started_at", "seconds", "energy_j", "energy_method", "validity", "conditions", "stages", "version",
            "git_revision")  # fmt: skip
    return {key: meter[key] for key in keys} | {"name": meter["meter"]["name"], "gpus": gpus}


def card(index):
    """UUID of the GPU with this number in nvidia-smi, so that every process is given the same one."""
    command = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[index]


def run(options):
    runner = Runner(options)
    left_out, failed = [], []
    for engine, shape, batches in tasks(options):
        if runner.expected(engine, batches) > runner.left():
            left_out.append(f"{engine} {shape} {batches}")
            continue
        if not runner.run(engine, shape, batches):
            failed.append(f"{engine} {shape} {batches}")
        write_rows(runner.out, runner.shapes)
    print(f"{time.monotonic() - runner.began:.0f} s in all", flush=True)
    if left_out:
        print("left out for want of time: " + "; ".join(left_out))
    if failed:
        sys.exit("failed: " + "; ".join(failed))


# --------------------------------------------------------------------------------------------------------------- rows


def step_bytes(config, batch, prompt, new, width):
    """Bytes that a step has to read: the weights of all layers and of the output layer once, and the KV cache.

    Of the cache it is what lies in it at a step, on average over a call's `new` steps; the first is prefill's and reads
    none of it.
    """
    hidden, inner, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    head = config["head_dim"]
    q, kv = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    weights = layers * (hidden * (2 * q + 2 * kv) + 3 * hidden * inner) + config["vocab_size"] * hidden
    columns = sum(prompt + step for step in range(1, new)) / new
    return weights * width, batch * layers * 2 * kv * columns * width


def windows_of_ours(folder):
    """The measured windows of a run of this program, as dictionaries."""
    info = json.loads((folder / "run.json").read_text())
    with (folder / "results.csv").open(newline="") as file:
        table = {(line["cell"], int(line["block"])): line for line in csv.DictReader(file)}
    for line in (folder / "records.jsonl").read_text().splitlines():
        trial = json.loads(line)
        if trial["kind"] != "trial":
            continue
        outcome, cell = trial["outcome"], trial["cell"]
        part = info["parts"][trial["part"]]
        if outcome["outcome"] != "measured":
            print(f"{folder.name}: {cell['id']} {outcome['outcome']}: {outcome['message']}")
            continue
        window, conditions = outcome["window"], outcome["conditions"]
        ends = [c["temperature_end_c"] for c in conditions if c["temperature_end_c"] is not None]
        yield {
            "engine": info["name"],
            "shape": cell["model"],
            "batch": cell["batch_size"],
            "seconds": window["t1_s"] - window["t0_s"],
            "steps": window["batches"] * cell["max_new_tokens"],
            "calls": window["batches"],
            "tokens": outcome["tokens_out"],
            "joules": outcome["energy"]["total_j"],
            "invalid": outcome["validity"]["invalid_reasons"],
            "temperature_c": max(ends, default=None),
            "floor": number(table[cell["id"], trial["block"]].get("floor_multiple")),
            "load_s": outcome["load"]["duration_s"],
            "gpus": part["meter"]["gpus"],
            "commit": part["git_revision"],
            "source": folder.name,
        }


def number(text):
    return float(text) if text else None


def windows_of_theirs(file):
    record = json.loads(file.read_text())
    stages = {stage["name"]: stage for stage in record["meter"]["stages"]}
    for window in record["windows"]:
        stage = stages[window["stage"]]
        invalid = stage["validity"]["invalid_reasons"] + record["meter"]["validity"]["invalid_reasons"]
        yield {
            "engine": record["engine"] + (f"-{window['logits']}" if "logits" in window else ""),
            "shape": record["shape"],
            "batch": window["batch"],
            "seconds": window["seconds"],
            "steps": window["calls"] * window["steps_per_call"],
            "calls": window["calls"],
            "tokens": window["calls"] * window["tokens_per_call"],
            "joules": stage["energy_j"],
            "invalid": sorted(set(invalid)),
            "temperature_c": (window["temperature_c"] or [None])[-1],
            "floor": None,
            "gpus": record["meter"]["gpus"],
            "commit": record["meter"]["git_revision"],
            "source": file.name,
            "read": record.get("read"),
        }


def all_windows(folder):
    found = []
    for entry in sorted(folder.iterdir()):
        if (entry / "records.jsonl").exists():
            if (entry / "results.csv").exists():
                found += windows_of_ours(entry)
            else:
                print(f"{entry.name} was broken off and is left out: remove it")
        elif entry.suffix == ".json":
            found += windows_of_theirs(entry)
    return found


def card_of(window):
    gpu = window["gpus"][0] if window["gpus"] else {"name": "no GPU", "uuid": None}
    return gpu["name"], gpu["uuid"]


def mean(values):
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def row(engine, shape, batch, own):
    """One row: the windows of an engine at a batch size on one card, together."""
    name, uuid = card_of(own[0])
    valid = [w for w in own if not w["invalid"] and w["joules"] is not None]
    tokens = sum(w["tokens"] for w in valid)
    each = [w["joules"] / w["tokens"] for w in valid]
    return {
        "engine": engine,
        "shape": shape,
        "batch": batch,
        "ms_per_step": 1e3 * sum(w["seconds"] for w in own) / sum(w["steps"] for w in own),
        "j_per_output_token": sum(w["joules"] for w in valid) / tokens if tokens else None,
        "j_lowest_window": min(each, default=None),
        "j_highest_window": max(each, default=None),
        "windows": len(own),
        "invalid_reasons": sorted({reason for w in own for reason in w["invalid"]}),
        "temperature_c": mean(w["temperature_c"] for w in own),
        "card": name,
        "uuid": uuid,
        "commit": own[0]["commit"],
        "sources": sorted({w["source"] for w in own}),
    }


def tabled(windows):
    """The windows of one engine, shape, batch and card together, in the order of the table."""
    found = {}
    for w in windows:
        found.setdefault((card_of(w)[1] or "", w["engine"], w["shape"], w["batch"]), []).append(w)
    return found


def write_rows(folder, shapes):
    """Writes FOLDER.json from the records in the folder."""
    windows = all_windows(folder)
    bandwidth = {}
    for w in windows:
        if w.get("read"):
            found = w["read"]["bytes"] / w["read"]["seconds"]
            bandwidth[card_of(w)[1]] = max(found, bandwidth.get(card_of(w)[1], 0.0))
    decode, prefill = [], []
    for (_, engine, shape, batch), own in tabled(windows).items():
        this = row(engine, shape, batch, own)
        if engine.startswith("prefill"):
            prefill.append(this | {"ms_per_call": this["ms_per_step"]})
            del prefill[-1]["ms_per_step"]
            continue
        config = json.loads((shapes / shape / "config.json").read_text())
        width = 2 if own[0]["gpus"] else 4
        weights, cache = step_bytes(config, batch, 128, 256, width)
        read = weights + (0 if engine == "products" else cache)
        limit = bandwidth.get(this["uuid"])
        this["bytes_per_step"] = read
        this["share_of_bandwidth_limit"] = read / limit / (this["ms_per_step"] / 1e3) if limit else None
        this["multiple_of_energy_floor"] = mean(w["floor"] for w in own)
        decode.append(this)
    products = {(r["uuid"], r["shape"], r["batch"]): r for r in decode if r["engine"] == "products"}
    for this in decode:
        base = products.get((this["uuid"], this["shape"], this["batch"]))
        for name, key in (("ratio_to_products", "ms_per_step"), ("joules_ratio_to_products", "j_per_output_token")):
            this[name] = this[key] / base[key] if base and base[key] and this[key] else None
    order = {engine: place for place, engine in enumerate(("ours", "plain", "products", "transformers"))}
    decode.sort(key=lambda r: (r["uuid"] or "", r["shape"], order.get(r["engine"], 9), r["batch"]))
    loads = [{"shape": w["shape"], "load_s": w["load_s"], "uuid": card_of(w)[1], "source": w["source"]}
             for w in first_of_each_load(windows)]  # fmt: skip
    cards = [{"card": name, "uuid": uuid, "read_bandwidth": bandwidth.get(uuid)}
             for name, uuid in sorted({card_of(w) for w in windows}, key=str)]  # fmt: skip
    whole = {"cards": cards, "rows": decode, "prefill": prefill, "loading": loads}
    target = folder.with_name(folder.name + ".json")
    scratch = target.with_suffix(".tmp")
    scratch.write_text(json.dumps(whole, indent=1) + "\n")
    scratch.replace(target)


def first_of_each_load(windows):
    seen = set()
    for w in windows:
        if "load_s" in w and w["source"] not in seen:
            seen.add(w["source"])
            yield w


def listed(known):
    def parse(text):
        found = text.split(",")
        unknown = [name for name in found if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]}: not one of {', '.join(known)}")
        return found

    return parse


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run", help="measure, and write the rows")
    runs.add_argument("program", type=pathlib.Path, help="the binary, built with `--features cuda`")
    runs.add_argument("--out", type=pathlib.Path, required=True, help="folder of the records; the rows go to OUT.json")
    runs.add_argument("--shapes", type=listed(SHAPES), default=list(SHAPES))
    runs.add_argument("--batches", type=lambda text: [int(n) for n in text.split(",")], default=[1, 8, 32, 64, 128])
    runs.add_argument("--engines", type=listed((*ENGINES, "plain")), default=list(ENGINES))
    runs.add_argument("--rounds", type=int, default=2, help="of ours and products")
    runs.add_argument("--seconds", type=float, default=6.0, help="shortest window; a GPU's counter needs 5")
    runs.add_argument("--warm-up", type=float, default=6.0, help="seconds of the same work before each window")
    runs.add_argument("--first-warm-up", type=float, default=15.0, help="so many more before the first one of all")
    runs.add_argument("--minutes", type=float, help="leave out what doesn't fit into so many")
    runs.add_argument("--gpu", type=int, default=0, help="number in nvidia-smi")
    runs.add_argument("--dry-run", action="store_true", help="tiny shapes on the processor with a modelled meter")
    rows = commands.add_parser("rows", help="write the rows again from the records in a folder")
    rows.add_argument("out", type=pathlib.Path)
    options = parser.parse_args()
    if options.command == "run":
        run(options)
    else:
        folder = options.out.resolve()
        write_rows(folder, folder / "shapes" if (folder / "shapes").exists() else ROOT / "data/shapes")


if __name__ == "__main__":
    main()
