"""The engines in Python that `gpu_decode.py` compares with: one kind of work on one shape at several batch sizes.

    ept-sweep meter --out METER.json --idle 0 -- python3 benches/gpu_engines.py products --shape FOLDER \
        --batches 1,8 --out CALLS.json

`products`: nothing but a decode step's weight products, by cuBLAS in one CUDA graph: queries, keys and values in one
product, gate and up in one, all layers with weights of their own, and the output layer.
`transformers`: `generate` with a static cache, whose decode step transformers compiles with `torch.compile`
(`reduce-overhead`, which makes CUDA graphs of it).
`prefill`: a forward pass of transformers over the prompts, not compiled, with the logits of the last position, and with
all logits.

Weights and prompts are random. Each window follows a warm-up of the same work and is followed by more of it. The
meter's stages are named as the windows (`b8`); what was done in each is written to CALLS.json, with seconds by this
process's clock between two synchronisations.
"""

import argparse
import json
import os
import pathlib
import time

import torch

GUARD_S = 0.4
"""Work after a window, until the counter's next ticks have come."""


class Device:
    """Where the work runs: a GPU, or the processor to try everything out."""

    def __init__(self, name):
        self.name = name
        self.cuda = name == "cuda"
        self.dtype = torch.bfloat16 if self.cuda else torch.float32
        self.options = {"device": name, "dtype": self.dtype}
        self.nvml = None
        if self.cuda:
            torch.cuda.init()
            self.nvml = self.thermometer()

    def thermometer(self):
        try:
            import pynvml

            pynvml.nvmlInit()
            uuid = str(torch.cuda.get_device_properties(0).uuid)
            handle = pynvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}")
        except Exception as why:  # without it, only the temperatures are missing
            print("no thermometer:", why, flush=True)
            return None
        return lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)

    def temperature(self):
        return self.nvml() if self.nvml else None

    def synchronize(self):
        if self.cuda:
            torch.cuda.synchronize()


class Windows:
    """Measures windows of calls, and marks them for the meter."""

    def __init__(self, device, options):
        self.device, self.seconds, self.warm_up = device, options.seconds, options.warm_up
        self.out = options.out
        self.rows = []
        path = os.environ.get("EPT_SWEEP_MARKS")
        self.marks = open(path, "a", buffering=1) if path else None

    def mark(self, name=""):
        if self.marks:
            print(name, file=self.marks)

    def repeat(self, call, seconds):
        """Calls for at least so many seconds, with no more than two under way; how many, and how long they took."""
        self.device.synchronize()
        start, calls, events = time.perf_counter(), 0, []
        while calls == 0 or time.perf_counter() < start + seconds:
            call()
            calls += 1
            if self.device.cuda:
                events.append(torch.cuda.Event())
                events[-1].record()
                if len(events) > 2:
                    events.pop(0).synchronize()
        self.device.synchronize()
        return calls, time.perf_counter() - start

    def measure(self, name, call, facts, extra_warm_up=0.0):
        """One window. A call that lasts a second or more may end it up to one call late."""
        self.repeat(call, self.warm_up + extra_warm_up)
        before = self.device.temperature()
        self.mark(name)
        calls, seconds = self.repeat(call, self.seconds)
        self.mark()
        after = self.device.temperature()
        self.repeat(call, GUARD_S)
        self.rows.append({"stage": name, **facts, "calls": calls, "seconds": seconds, "temperature_c": [before, after]})
        self.out.write_text(json.dumps({"windows": self.rows}))  # a process that is stopped leaves what it has
        print(f"{name}: {calls} calls, {seconds / calls * 1e3:.3f} ms each", flush=True)


def products_of(config):
    """(rows, columns) of each product of one layer, and of the output layer."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    width = config.get("head_dim") or hidden // heads
    layer = [((heads + 2 * groups) * width, hidden), (hidden, heads * width), (2 * inner, hidden), (hidden, inner)]
    return layer, (config["vocab_size"], hidden)


class Products:
    """A decode step's weight products."""

    def __init__(self, device, config):
        self.device = device
        layer, output = products_of(config)
        shapes = layer * config["num_hidden_layers"] + [output]
        self.weights = [torch.empty(shape, **device.options).normal_(0, 0.02) for shape in shapes]

    def step(self, batch):
        """A call that runs the products of one step, some 20 ms of them on a GPU, and how many steps that is."""
        inputs = {w.shape[1]: torch.randn(batch, w.shape[1], **self.device.options) for w in self.weights}
        outputs = {w.shape[0]: torch.empty(batch, w.shape[0], **self.device.options) for w in self.weights}

        def products():
            for weight in self.weights:
                torch.mm(inputs[weight.shape[1]], weight.t(), out=outputs[weight.shape[0]])

        if not self.device.cuda:
            return products, 1
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            products()
            products()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            products()
        start = time.perf_counter()
        for _ in range(10):
            graph.replay()
        torch.cuda.synchronize()
        steps = max(1, round(0.02 / ((time.perf_counter() - start) / 10)))

        def several():
            for _ in range(steps):
                graph.replay()

        return several, steps


def read_bandwidth(device):
    """Bytes a second of a plain read: the best of several sums over more numbers than any cache holds."""
    count = (4 << 30) // 4 if device.cuda else (256 << 20) // 4
    numbers = torch.empty(count, device=device.name, dtype=torch.float32).normal_()
    best = float("inf")
    for _ in range(12):
        device.synchronize()
        start = time.perf_counter()
        numbers.sum()
        device.synchronize()
        best = min(best, time.perf_counter() - start)
    return {"bytes": count * 4, "seconds": best}


def run_products(options, device, windows, config):
    result = {"read": read_bandwidth(device)}
    products = Products(device, config)
    for place, batch in enumerate(options.batches):
        call, steps = products.step(batch)
        facts = {"batch": batch, "steps_per_call": steps, "tokens_per_call": steps * batch}
        windows.measure(f"b{batch}", call, facts, options.first_warm_up if place == 0 else 0.0)
    return result


def load_transformers(options, device):
    """A model of the shape with random weights, made on the device."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(options.shape)
    torch.set_default_dtype(device.dtype)
    with torch.device(device.name):
        model = AutoModelForCausalLM.from_config(config, dtype=device.dtype)
    torch.set_default_dtype(torch.float32)
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            parameter.fill_(1) if "norm" in name else parameter.normal_(0, 0.02)
    model.eval()
    # answers of full length, and no check for their end
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = None
    return model


def prompts(options, device, model, batch):
    return torch.randint(10, model.config.vocab_size - 10, (batch, options.prompt), device=device.name)


@torch.inference_mode()
def run_transformers(options, device, windows, _config):
    from transformers.generation.configuration_utils import CompileConfig

    model = load_transformers(options, device)
    compiling = {}
    for place, batch in enumerate(options.batches):
        torch.compiler.reset()
        ids = prompts(options, device, model, batch)
        given = {
            "attention_mask": torch.ones_like(ids),
            "do_sample": False,
            "max_new_tokens": options.new,
            "cache_implementation": "static",
            "compile_config": CompileConfig(dynamic=False) if device.cuda else None,
        }

        def call(ids=ids, given=given):
            out = model.generate(ids, **given)
            assert out.shape[1] == options.prompt + options.new

        start = time.perf_counter()
        call()
        device.synchronize()
        compiling[batch] = time.perf_counter() - start
        print(f"b{batch}: first call {compiling[batch]:.1f} s", flush=True)
        facts = {"batch": batch, "steps_per_call": options.new, "tokens_per_call": options.new * batch}
        windows.measure(f"b{batch}", call, facts, options.first_warm_up if place == 0 else 0.0)
    return {"first_call_s": compiling}


@torch.inference_mode()
def run_prefill(options, device, windows, _config):
    model = load_transformers(options, device)
    for batch in options.batches:
        ids = prompts(options, device, model, batch)
        for name, keep in (("last", 1), ("all", 0)):

            def call(ids=ids, keep=keep):
                return model(input_ids=ids, use_cache=True, logits_to_keep=keep).logits[:, -1].argmax(-1)

            call()
            facts = {"batch": batch, "steps_per_call": 1, "tokens_per_call": batch, "logits": name}
            windows.measure(f"b{batch} {name}", call, facts)
    return {}


RUNS = {"products": run_products, "transformers": run_transformers, "prefill": run_prefill}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=RUNS)
    parser.add_argument("--shape", type=pathlib.Path, required=True, help="folder with config.json")
    parser.add_argument("--batches", type=lambda text: [int(n) for n in text.split(",")], required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--new", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=6.0, help="shortest window")
    parser.add_argument("--warm-up", type=float, default=6.0, help="seconds of the same work before a window")
    parser.add_argument("--first-warm-up", type=float, default=0.0, help="so many more before the first one")
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    began = time.perf_counter()
    device = Device(options.device)
    torch.manual_seed(1)
    config = json.loads((options.shape / "config.json").read_text())
    windows = Windows(device, options)
    result = RUNS[options.engine](options, device, windows, config)
    result |= {"windows": windows.rows, "torch": torch.__version__, "process_s": time.perf_counter() - began}
    if options.engine != "products":
        import transformers

        result["transformers"] = transformers.__version__
    options.out.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
