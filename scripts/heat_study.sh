#!/bin/bash
# One cell in four thermal states, by two warm-up rules, on one GPU: bash scripts/heat_study.sh OUT [STEP ...]
#
# Steps: cold short steady short_warm steady_warm weights (without arguments, all of them). `ept-sweep`, built with `--features
# cuda`, must be on the PATH. The model has four layers of Llama 3.1 70B's shape and dummy weights. Cell b8 is the one that
# is looked at; b64 is its hot neighbour, at the power limit for much of its time. In each block the model is loaded again,
# and the two cells change places from block to block: b8 runs after a load and an idle baseline, or right after b64.
# `short` warms up for 7.5 s, as `quick` and `standard` did when they watched the thermometer; `steady` until what may still
# be to come is below 0.5 %, or 30 s. The `_warm` runs have b8 alone, without baselines, so that it follows itself. `weights`
# has the same shape with Gaussian, uniform and zero weights. REPEATS sets the blocks of `short` and `steady` (3).
# `python3 scripts/heat_tables.py OUT` prints the table.
set -euo pipefail
out=$(mkdir -p "$1" && cd "$1" && pwd)
shift
steps=${*:-cold short steady short_warm steady_warm weights}
repeats=${REPEATS:-3}

mkdir -p "$out/wide"
cat > "$out/wide/config.json" <<'JSON'
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8192, "intermediate_size": 28672,
 "num_hidden_layers": 4, "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 32000,
 "max_position_embeddings": 8192, "rms_norm_eps": 1e-05, "rope_theta": 500000.0, "hidden_act": "silu",
 "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "bfloat16"}
JSON

# sweep NAME BATCHES MEASURE
sweep() {
    cat > "$out/$1.yaml" <<YAML
name: $1
models:
  - {label: wide, source: ./wide, weights: dummy, dtype: bf16}
sweep: {batch_size: $2, max_new_tokens: 64}
prompts: {random: {tokens: 768}, count: 64}
generation: {length: fixed}
measure: {preset: quick, window_s: 5, $3}
YAML
    ept-sweep run "$out/$1.yaml" --device cuda --out "$out/$1" --fresh
}

weights() {
    cat > "$out/weights.yaml" <<YAML
name: weights
models:
  - {label: gaussian, source: ./wide, weights: dummy, dtype: bf16, role: teacher}
  - {label: uniform, source: ./wide, weights: {dummy: uniform}, dtype: bf16, role: control, teacher: gaussian}
  - {label: zeros, source: ./wide, weights: {dummy: zeros}, dtype: bf16, role: control, teacher: gaussian}
sweep: {batch_size: 8, max_new_tokens: 64}
prompts: {random: {tokens: 768}, count: 64}
generation: {length: fixed}
measure: {preset: quick, window_s: 5, repeats: 2, idle_s: 0, warmup_s: 6, max_warmup_s: 10}
YAML
    ept-sweep run "$out/weights.yaml" --device cuda --out "$out/weights" --fresh
}

short="warmup_s: 7.5, max_warmup_s: 7.5, steady: 0.4"
steady="warmup_s: 5, max_warmup_s: 30, steady: 0.005"
for step in $steps; do
    echo "== $step"
    case $step in
        cold) sleep 40 ;;
        short) sweep short "[8, 64]" "repeats: $repeats, idle_s: 3, seed: 1, $short" ;;
        steady) sweep steady "[8, 64]" "repeats: $repeats, idle_s: 3, seed: 1, $steady" ;;
        short_warm) sweep short_warm 8 "repeats: 3, idle_s: 0, order: by_model, $short" ;;
        steady_warm) sweep steady_warm 8 "repeats: 2, idle_s: 0, order: by_model, $steady" ;;
        weights) weights ;;
        *) echo "unknown step $step" >&2; exit 2 ;;
    esac
done
