#!/usr/bin/env python3
"""Writes a GGUF file of a Llama shape whose matrices are random blocks of a quantised type, to measure its energy.

    python3 benches/dummy_gguf.py data/shapes/llama-3.1-8b q4_k 8b-q4_k.gguf

Values spread by 0.02 around 0, as those of `weights: dummy` do. All matrices are of the one type, the embedding table and
the output layer too; norms are f32 and 1. Needs numpy. The integers of a matrix are slices of one pool of random bytes, which
makes the file quick to write: nothing that reads it compares blocks.
"""

import argparse
import json
import pathlib
import struct

import numpy as np

ALIGNMENT = 32
POOL = 1 << 26
# type: its number in GGUF, values and bytes of a block, and where the block has numbers in f16 that aren't random
TYPES = {
    "q8_0": (8, 32, 34, [(0, 2.71e-4)]),
    "q4_0": (2, 32, 18, [(0, 4.34e-3)]),
    "q4_k": (12, 256, 144, [(0, 7.75e-5), (2, 5.8e-4)]),
    "q6_k": (14, 256, 210, [(208, 1.46e-5)]),
}  # fmt: skip
F32, TEXT, U32, NUMBER = 0, 8, 4, 6


def text(value):
    return struct.pack("<Q", len(value.encode())) + value.encode()


def entry(key, kind, value):
    packed = {TEXT: text, U32: lambda v: struct.pack("<I", v), NUMBER: lambda v: struct.pack("<f", v)}[kind](value)
    return text(key) + struct.pack("<I", kind) + packed


def metadata(config, name):
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    width = config.get("head_dim") or config["hidden_size"] // heads
    return [
        entry("general.architecture", TEXT, "llama"), entry("general.name", TEXT, name),
        entry("general.alignment", U32, ALIGNMENT), entry("llama.block_count", U32, config["num_hidden_layers"]),
        entry("llama.context_length", U32, config["max_position_embeddings"]),
        entry("llama.embedding_length", U32, config["hidden_size"]),
        entry("llama.feed_forward_length", U32, config["intermediate_size"]),
        entry("llama.attention.head_count", U32, heads), entry("llama.attention.head_count_kv", U32, kv_heads),
        entry("llama.attention.key_length", U32, width), entry("llama.attention.value_length", U32, width),
        entry("llama.rope.dimension_count", U32, width), entry("llama.vocab_size", U32, config["vocab_size"]),
        entry("llama.attention.layer_norm_rms_epsilon", NUMBER, config["rms_norm_eps"]),
        entry("llama.rope.freq_base", NUMBER, config["rope_theta"]),
        entry("tokenizer.ggml.eos_token_id", U32, config["eos_token_id"]),
    ]  # fmt: skip


def tensors(config):
    """Names with rows and columns; vectors have no columns."""
    hidden, inner, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    width = config.get("head_dim") or hidden // config["num_attention_heads"]
    queries, keys = config["num_attention_heads"] * width, config["num_key_value_heads"] * width
    yield "token_embd", vocabulary, hidden
    for layer in range(config["num_hidden_layers"]):
        for part, rows, columns in (
            ("attn_norm", hidden, None), ("attn_q", queries, hidden), ("attn_k", keys, hidden), ("attn_v", keys, hidden),
            ("attn_output", hidden, queries), ("ffn_norm", hidden, None), ("ffn_gate", inner, hidden),
            ("ffn_up", inner, hidden), ("ffn_down", hidden, inner),
        ):  # fmt: skip
            yield f"blk.{layer}.{part}", rows, columns
    yield "output_norm", hidden, None
    if not config.get("tie_word_embeddings"):
        yield "output", vocabulary, hidden


def write(folder, kind, path):
    config = json.loads((folder / "config.json").read_text())
    number, values, size, fixed = TYPES[kind]
    pool = np.random.default_rng(42).integers(0, 256, POOL // size * size, dtype=np.uint8).reshape(-1, size)
    for place, scale in fixed:
        pool[:, place : place + 2] = np.frombuffer(np.float16(scale).tobytes(), dtype=np.uint8)
    infos, at = [], 0
    for name, rows, columns in tensors(config):
        count = 4 * rows if columns is None else rows * columns // values * size
        if columns is not None and columns % values:
            raise SystemExit(f"{folder}: rows of {columns} values of `{name}` aren't whole blocks of {kind}")
        infos.append((name, rows, columns, at, count))
        at += -(-count // ALIGNMENT) * ALIGNMENT
    with path.open("wb") as file:
        entries = metadata(config, f"{folder.name}, dummy {kind}")
        file.write(b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(entries)) + b"".join(entries))
        for name, rows, columns, at, _ in infos:
            sizes = (rows,) if columns is None else (columns, rows)
            stored = F32 if columns is None else number
            file.write(text(f"{name}.weight") + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, stored, at))
        file.write(bytes(-file.tell() % ALIGNMENT))
        begin = file.tell()
        for name, rows, columns, at, count in infos:
            file.write(bytes(begin + at - file.tell()))
            if columns is None:
                file.write(np.ones(rows, dtype="<f4").tobytes())
            while columns is not None and count > 0:
                part = pool.reshape(-1)[: min(count, pool.size)]
                file.write(part.data)
                count -= part.size
        file.write(bytes(-file.tell() % ALIGNMENT))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", type=pathlib.Path, help="folder with config.json")
    parser.add_argument("type", choices=TYPES)
    parser.add_argument("out", type=pathlib.Path)
    options = parser.parse_args()
    write(options.shape, options.type, options.out)


if __name__ == "__main__":
    main()
