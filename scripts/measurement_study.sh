#!/bin/bash
# The measurements behind docs/measurement.md, on one GPU: bash scripts/measurement_study.sh OUT [STEP ...]
#
# Steps: config win1 win2 win5 win10 win20 prefill sampler (without arguments, all of them). `ept-sweep` and the example
# `sampler_cost`, built with `--features cuda`, must be on the PATH. The model has four layers of Llama 3.1 70B's shape
# and random weights: wide enough that the GPU, not the host, sets the pace of decoding, and small enough to be made in
# seconds.
# `python3 scripts/measurement_tables.py OUT` prints the tables.
set -euo pipefail
out=$(mkdir -p "$1" && cd "$1" && pwd)
shift
steps=${*:-config win1 win2 win5 win10 win20 prefill sampler}

config() {
    mkdir -p "$out/wide"
    cat > "$out/wide/config.json" <<'JSON'
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8192, "intermediate_size": 28672,
 "num_hidden_layers": 4, "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 32000,
 "max_position_embeddings": 8192, "rms_norm_eps": 1e-05, "rope_theta": 500000.0, "hidden_act": "silu",
 "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "bfloat16"}
JSON
}

# sweep NAME BATCH LENGTHS PROMPT COUNT MEASURE
sweep() {
    cat > "$out/$1.yaml" <<YAML
name: $1
models:
  - {label: wide, source: ./wide, weights: dummy, dtype: bf16}
sweep: {batch_size: $2, max_new_tokens: $3}
prompts: {random: {tokens: $4}, count: $5}
generation: {length: fixed}
measure: {repeats: 5, order: by_model, $6}
YAML
    ept-sweep run "$out/$1.yaml" --device cuda --out "$out/$1" --fresh 2>&1 | grep -v '^\s*$'
}

for step in $steps; do
    case $step in
        config) config ;;
        win10) sweep win10 8 128 128 8 "warmup_s: 4, max_warmup_s: 10, window_s: 10, idle_s: 10" ;;
        win*) sweep "$step" 8 128 128 8 "warmup_s: 4, max_warmup_s: 10, window_s: ${step#win}, idle_s: 0" ;;
        prefill) sweep prefill 24 "[8, 64]" 2048 24 "warmup_s: 3, max_warmup_s: 6, window_s: 5, idle_s: 0, prefill: true" ;;
        sampler) sampler_cost "$out/wide" 40 1.5 | tee "$out/sampler.txt" ;;
        *) echo "unknown step $step" >&2; exit 2 ;;
    esac
done
