"""Decoding on the processor in f32: this program, transformers and llama.cpp, in turn on the same weights.

    cargo build --release
    pip install torch transformers gguf safetensors llama-cpp-python    # builds llama.cpp for this processor
    python3 benches/cpu_decode.py run target/release/ept-sweep --out benches/results/cpu-decode.json
    python3 benches/cpu_decode.py rows benches/results/cpu-decode.json    # the rows again, from the file's windows

Prompts of 64 random tokens, 64 new tokens each, greedy, in fixed length; tokens per second are new tokens over the time
of whole calls, prefill included. A Qwen2 shape of half a billion parameters at batch 1 and 4, and the shape of the
bundled teacher at batch 1, with random weights, which are written once as safetensors and once as GGUF (some 4 GB in a
scratch folder). All engines use all cores. Each measurement is a process of its own: warm-up, then calls for
`--seconds`. In each round every engine runs once on each cell, in alternating order; a row has the median of its
rounds, a ratio the median of the ratios within them. A measurement while other processes took more than 5 % of the
processor (`--others`) is repeated, three times at most, and the share is recorded.

transformers and llama.cpp may live in different environments: `--python` and `--llama-python` name their interpreters.
Before measuring, both continue one prompt, and their tokens are compared. The read bandwidth is that of
`read_bandwidth.c`, compiled with `cc`.
"""

import argparse
import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
PROMPT, NEW = 64, 64
ENGINES = ("ours", "transformers", "llama.cpp")
CELLS = (("qwen2-0.5b", 1), ("qwen2-0.5b", 4), ("teacher", 1))
QWEN = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": 151936, "hidden_size": 896,
        "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
        "hidden_act": "silu", "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
        "tie_word_embeddings": True, "bos_token_id": 151643, "eos_token_id": 151645, "use_sliding_window": False,
        "torch_dtype": "float32"}  # fmt: skip


def shapes():
    teacher = json.loads((ROOT / "data/models/teacher/config.json").read_text()) | {"torch_dtype": "float32"}
    return {"qwen2-0.5b": QWEN, "teacher": teacher}


# ------------------------------------------------------------------------------------------------------------ weights


def sizes(config):
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    head = config.get("head_dim") or hidden // heads
    return hidden, config["intermediate_size"], heads * head, config["num_key_value_heads"] * head, head


def tensors(config):
    """(name in safetensors, name in GGUF, shape) of every tensor."""
    hidden, inner, q, kv, _ = sizes(config)
    biased = config["model_type"] == "qwen2"
    yield "model.embed_tokens.weight", "token_embd.weight", (config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        ours, theirs = f"model.layers.{layer}", f"blk.{layer}"
        for name, short, rows in (("q", "q", q), ("k", "k", kv), ("v", "v", kv)):
            yield f"{ours}.self_attn.{name}_proj.weight", f"{theirs}.attn_{short}.weight", (rows, hidden)
            if biased:
                yield f"{ours}.self_attn.{name}_proj.bias", f"{theirs}.attn_{short}.bias", (rows,)
        yield f"{ours}.self_attn.o_proj.weight", f"{theirs}.attn_output.weight", (hidden, q)
        yield f"{ours}.mlp.gate_proj.weight", f"{theirs}.ffn_gate.weight", (inner, hidden)
        yield f"{ours}.mlp.up_proj.weight", f"{theirs}.ffn_up.weight", (inner, hidden)
        yield f"{ours}.mlp.down_proj.weight", f"{theirs}.ffn_down.weight", (hidden, inner)
        yield f"{ours}.input_layernorm.weight", f"{theirs}.attn_norm.weight", (hidden,)
        yield f"{ours}.post_attention_layernorm.weight", f"{theirs}.ffn_norm.weight", (hidden,)
    yield "model.norm.weight", "output_norm.weight", (hidden,)


def interleaved(weight, heads):
    """Rows of queries or keys in the order that llama.cpp's rotation of the Llama family expects."""
    head = weight.shape[0] // heads
    return weight.reshape(heads, 2, head // 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def write_model(config, folder):
    """The same random weights as a folder for transformers and as `model.gguf`."""
    import gguf
    import numpy as np
    from safetensors.numpy import save_file

    if (folder / "model.safetensors").exists():
        return  # written last, by an earlier run with the same scratch folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    chance = np.random.default_rng(1)
    _, inner, _, _, head = sizes(config)
    writer = gguf.GGUFWriter(folder / "model.gguf", config["model_type"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(inner)
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    whole = {}
    for name, short, shape in tensors(config):
        if "norm" in name:
            whole[name] = np.ones(shape, np.float32)
        else:
            whole[name] = chance.standard_normal(shape, np.float32) * np.float32(0.04)
        stored = whole[name]
        if config["model_type"] == "llama" and ("q_proj" in name or "k_proj" in name):
            stored = interleaved(stored, config["num_attention_heads" if "q_proj" in name else "num_key_value_heads"])
        writer.add_tensor(short, stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_file(whole, folder / "unfinished", metadata={"format": "pt"})
    (folder / "unfinished").rename(folder / "model.safetensors")


# ------------------------------------------------------------------------------------------------------------ engines


def prompt(row, vocabulary):
    return [(i * 31 + row * 17 + 5) % (vocabulary - 10) + 5 for i in range(PROMPT)]


def repeat(call, seconds):
    """Calls for at least so many seconds after a third as much of warm-up."""
    for least in (seconds / 3, seconds):
        start, calls = time.perf_counter(), 0
        while calls == 0 or time.perf_counter() < start + least:
            call()
            calls += 1
        took = time.perf_counter() - start
    return calls, took


def transformers_engine(folder, batch):
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.set_num_threads(os.cpu_count())
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None
    ids = torch.tensor([prompt(row, model.config.vocab_size) for row in range(batch)])

    def call():
        with torch.inference_mode():
            out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=NEW)
        assert out.shape == (batch, PROMPT + NEW)
        return out[:, PROMPT:].tolist()

    return call


def llama_cpp_engine(folder, batch):
    import llama_cpp as llama
    import numpy as np

    llama.llama_backend_init()
    silent = llama.llama_log_callback(lambda *_: None)
    llama.llama_log_set(silent, None)
    model = llama.llama_model_load_from_file(str(folder / "model.gguf").encode(), llama.llama_model_default_params())
    options = llama.llama_context_default_params()
    options.n_ctx = batch * (PROMPT + NEW)
    options.n_batch = options.n_ubatch = batch * PROMPT
    options.n_seq_max = batch
    options.n_threads = options.n_threads_batch = os.cpu_count()
    options.type_k = options.type_v = llama.GGML_TYPE_F32
    context = llama.llama_init_from_model(model, options)
    vocabulary = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
    rows = [prompt(row, vocabulary) for row in range(batch)]
    work = llama.llama_batch_init(batch * PROMPT, 0, batch)

    def decode(tokens):
        """Tokens as (id, column, row, whether its logits are needed)."""
        work.n_tokens = len(tokens)
        for i, (token, column, row, wanted) in enumerate(tokens):
            work.token[i], work.pos[i], work.n_seq_id[i] = token, column, 1
            work.seq_id[i][0], work.logits[i] = row, wanted
        assert llama.llama_decode(context, work) == 0
        places = [i for i, token in enumerate(tokens) if token[3]]
        logits = [llama.llama_get_logits_ith(context, i) for i in places]
        return [int(np.ctypeslib.as_array(each, (vocabulary,)).argmax()) for each in logits]

    def call(silent=silent):
        llama.llama_memory_clear(llama.llama_get_memory(context), True)
        first = [(token, i, row, i == PROMPT - 1) for row, ids in enumerate(rows) for i, token in enumerate(ids)]
        chosen = [decode(first)]
        for step in range(NEW - 1):
            chosen.append(decode([(token, PROMPT + step, row, True) for row, token in enumerate(chosen[-1])]))
        return [list(answer) for answer in zip(*chosen)]

    return call


def engine(options):
    """One measurement of an engine in Python, as JSON on standard output."""
    make = {"transformers": transformers_engine, "llama.cpp": llama_cpp_engine}[options.engine]
    call = make(options.folder, options.batch)
    found = {"tokens": call()}
    if options.seconds:
        calls, seconds = repeat(call, options.seconds)
        found = {"calls": calls, "tokens": calls * options.batch * NEW, "seconds": seconds}
    print(json.dumps(found))


# -------------------------------------------------------------------------------------------------------- measurement


def read_bandwidth(scratch):
    """Bytes a second that all cores read together."""
    program = scratch / "read_bandwidth"
    if not program.exists():
        options = ["-O3", "-march=native", "-pthread"]
        subprocess.run(["cc", *options, HERE / "read_bandwidth.c", "-o", program], check=True)
    done = subprocess.run([program, str(os.cpu_count())], check=True, capture_output=True, text=True)
    return float(done.stdout)


class Onlooker:
    """Runs a command, and looks at who else uses the processor while its last window runs."""

    TAIL_S = 1.0
    """Writing reports and ending takes about as long."""

    def __init__(self, command):
        self.looks = []
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        watch = threading.Thread(target=self.watch)
        watch.start()
        self.output, _ = self.process.communicate()
        watch.join()
        if self.process.returncode != 0:
            raise subprocess.CalledProcessError(self.process.returncode, command)

    def watch(self):
        while self.process.poll() is None:
            try:
                whole = [int(n) for n in pathlib.Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
                stat = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                break
            self.looks.append((time.perf_counter(), sum(whole) - whole[3] - whole[4], int(stat[11]) + int(stat[12])))
            time.sleep(0.1)

    def others(self, seconds):
        """Share of all cores that others took in the middle of the last so many seconds before the end."""
        end = self.looks[-1][0] - self.TAIL_S
        own = [look for look in self.looks if end - 0.7 * seconds <= look[0] <= end]
        if len(own) < 2:
            return 0.0
        wall, busy, mine = (last - first for first, last in zip(own[0], own[-1]))
        return round(max(0.0, busy - mine) / os.sysconf("SC_CLK_TCK") / (wall * os.cpu_count()), 4)


class Bench:
    def __init__(self, options, scratch):
        self.options, self.scratch = options, scratch
        self.pythons = {"transformers": options.python, "llama.cpp": options.llama_python or options.python}

    def python(self, engine, shape, batch, seconds):
        command = [self.pythons[engine], __file__, "engine", engine, self.scratch / shape, str(batch), str(seconds)]
        done = Onlooker(command)
        return json.loads(done.output.strip().splitlines()[-1]) | {"others": done.others(seconds)}

    def ours(self, shape, batch):
        """This program's own run: whole passes over the prompts, with a modelled meter, which costs nothing."""
        sweep = self.scratch / "ours.yaml"
        sweep.write_text(
            f"name: ours\nmodels:\n  - {{label: m, source: ./{shape}, dtype: f32}}\n"
            f"sweep: {{batch_size: {batch}, max_new_tokens: {NEW}}}\n"
            f"prompts: {{random: {{tokens: {PROMPT}}}, count: {batch}}}\ngeneration: {{length: fixed}}\n"
            f"measure: {{meter: modelled, preset: quick, repeats: 1, window_s: {self.options.seconds}, idle_s: 0, "
            f"warmup_s: {self.options.seconds / 3}}}\n"
        )
        out = self.scratch / "ours"
        command = [self.options.program, "run", sweep, "--out", out, "--fresh", "--quiet", "--offline"]
        done = Onlooker(command)
        lines = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
        outcome = next(line["outcome"] for line in lines if line["kind"] == "trial")
        window = outcome["window"]
        seconds = window["t1_s"] - window["t0_s"]
        found = {"calls": window["batches"], "tokens": outcome["tokens_out"], "seconds": seconds}
        return found | {"others": done.others(self.options.seconds)}

    def measure(self, engine, shape, batch):
        """One measurement; the quietest of three, if others disturb it."""
        tries = []
        while not tries or (tries[-1]["others"] > self.options.others and len(tries) < 3):
            if engine == "ours":
                tries.append(self.ours(shape, batch))
            else:
                tries.append(self.python(engine, shape, batch, self.options.seconds))
        return min(tries, key=lambda each: each["others"])


def run(options):
    found = {
        "machine": {"processor": processor(), "cores": os.cpu_count()},
        "versions": versions(options),
        "settings": {"prompt": PROMPT, "new": NEW, "seconds": options.seconds, "dtype": "f32"},
        "read_bandwidths": [],
        "windows": [],
    }
    with contextlib.ExitStack() as stack:
        scratch = options.scratch or stack.enter_context(tempfile.TemporaryDirectory())
        bench = Bench(options, pathlib.Path(scratch))
        cells = [cell for cell in CELLS if cell[0] in options.shapes]
        for shape in dict.fromkeys(shape for shape, _ in cells):
            subprocess.run([bench.pythons["llama.cpp"], __file__, "weights", shape, bench.scratch / shape], check=True)
            same_tokens(bench, shape)
        for round_ in range(options.rounds):
            found["read_bandwidths"].append(read_bandwidth(bench.scratch))
            print(f"round {round_ + 1}: read {found['read_bandwidths'][-1] / 1e9:.1f} GB/s", flush=True)
            for shape, batch in cells:
                for engine in ENGINES if round_ % 2 == 0 else ENGINES[::-1]:
                    window = {"engine": engine, "shape": shape, "batch": batch, "round": round_}
                    window |= bench.measure(engine, shape, batch)
                    found["windows"].append(window)
                    speed = window["tokens"] / window["seconds"]
                    others = f"others {window['others']:.1%}"
                    print(f"{shape} b{batch} {engine}: {speed:.1f} tokens/s, {others}", flush=True)
                    options.out.write_text(json.dumps(found | {"rows": rows(found)}, indent=1) + "\n")


def same_tokens(bench, shape):
    theirs, ours = (bench.python(engine, shape, 1, 0)["tokens"] for engine in ("transformers", "llama.cpp"))
    alike = sum(a == b for a, b in zip(theirs[0], ours[0]))
    print(f"{shape}: transformers and llama.cpp agree in {alike} of {NEW} tokens", flush=True)
    if alike < NEW / 4:
        sys.exit(f"{shape}: the two checkpoints aren't the same model")


def processor():
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def versions(options):
    def installed(python, *packages):
        code = f"import importlib.metadata as m; print(*(m.version(p) for p in {packages}))"
        found = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True)
        return dict(zip(packages, found.stdout.split()))

    program = subprocess.run([options.program, "--version"], check=True, capture_output=True, text=True)
    found = installed(options.python, "transformers", "torch")
    found |= installed(options.llama_python or options.python, "llama-cpp-python")
    return found | {"ept-sweep": program.stdout.split()[-1]}


# --------------------------------------------------------------------------------------------------------------- rows


def step_bytes(config, batch):
    """Bytes that a step has to read: all matrices once, and of the KV cache what lies in it on average."""
    hidden, inner, q, kv, _ = sizes(config)
    weights = config["num_hidden_layers"] * (hidden * (2 * q + 2 * kv) + 3 * hidden * inner)
    weights += config["vocab_size"] * hidden
    columns = sum(PROMPT + step for step in range(1, NEW)) / NEW
    return 4 * (weights + batch * config["num_hidden_layers"] * 2 * kv * columns)


def rows(found):
    """One row for each engine and cell, from the windows."""
    configs, bandwidth = shapes(), max(found["read_bandwidths"])
    speeds = {}
    for window in found["windows"]:
        key = (window["shape"], window["batch"], window["engine"])
        speeds.setdefault(key, {})[window["round"]] = window["tokens"] / window["seconds"]
    made = []
    for (shape, batch, engine), own in speeds.items():
        speed = statistics.median(own.values())
        row = {"engine": engine, "shape": shape, "batch": batch, "tokens_per_s": speed, "windows": len(own)}
        row["lowest"], row["highest"] = min(own.values()), max(own.values())
        row["share_of_bandwidth"] = step_bytes(configs[shape], batch) * speed / batch / bandwidth
        for other in ENGINES[1:] if engine == "ours" else ():
            theirs = speeds.get((shape, batch, other), {})
            ratios = [own[round_] / theirs[round_] for round_ in own if round_ in theirs]
            row[f"ratio_to_{other}"] = statistics.median(ratios) if ratios else None
        made.append(row)
    return made


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run", help="measure, and write the file")
    runs.add_argument("program", type=lambda text: pathlib.Path(text).resolve(), help="the binary")
    runs.add_argument("--out", type=pathlib.Path, required=True)
    runs.add_argument("--shapes", type=lambda text: text.split(","), default=["qwen2-0.5b", "teacher"])
    runs.add_argument("--rounds", type=int, default=3)
    runs.add_argument("--seconds", type=float, default=6.0)
    runs.add_argument("--others", type=float, default=0.05, help="share of the processor that others may take")
    runs.add_argument("--python", default=sys.executable, help="interpreter with torch and transformers")
    runs.add_argument("--llama-python", help="interpreter with llama-cpp-python and gguf")
    runs.add_argument("--scratch", help="folder for the weights, which stay there for the next run")
    again = commands.add_parser("rows", help="compute the rows of a file again from its windows")
    again.add_argument("out", type=pathlib.Path)
    one = commands.add_parser("engine", help="(one measurement, for `run`)")
    one.add_argument("engine", choices=ENGINES[1:])
    one.add_argument("folder", type=pathlib.Path)
    one.add_argument("batch", type=int)
    one.add_argument("seconds", type=float)
    model = commands.add_parser("weights", help="(writes the random weights, for `run`)")
    model.add_argument("shape")
    model.add_argument("folder", type=pathlib.Path)
    options = parser.parse_args()
    if options.command == "run":
        run(options)
    elif options.command == "rows":
        found = json.loads(options.out.read_text())
        options.out.write_text(json.dumps(found | {"rows": rows(found)}, indent=1) + "\n")
    elif options.command == "engine":
        engine(options)
    else:
        write_model(shapes()[options.shape], options.folder)


if __name__ == "__main__":
    main()
