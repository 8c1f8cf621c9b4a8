//! Writes a trained model as a complete Hugging Face folder, with its training record and a short card.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Tensor};
use half::f16;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use tokenizers::Tokenizer;

use crate::evaluate::Scores;
use crate::model::{Model, NORM_EPS, ROPE_THETA};
use crate::train::{ALPHA, Outcome, TEMPERATURE};
use crate::vocab::{self, BOS, EOS, MAX_LENGTH, PAD, VOCAB_SIZE};
use crate::{Res, write_json, write_text};

/// How a model came about, for its record.
pub struct Made<'a> {
    pub name: &'a str,
    /// `ce` or `kd`.
    pub recipe: &'a str,
    pub device: &'a str,
    pub seed: u64,
    pub command: &'a str,
    pub outcome: &'a Outcome,
}

/// Rounds the weights to half precision in place, so that what is evaluated is what is saved.
pub fn round_to_f16(model: &Model) -> Res<()> {
    for (_, var) in &model.vars {
        var.set(&var.as_detached_tensor().to_dtype(DType::F16)?.to_dtype(DType::F32)?)?;
    }
    Ok(())
}

/// Weights, configs and tokenizer.
pub fn save_model(model: &Model, tokenizer: &Tokenizer, dir: &Path) -> Res<()> {
    vocab::save(tokenizer, dir)?;
    write_json(&dir.join("config.json"), &config(model))?;
    let generation = json!({
        "bos_token_id": BOS.1, "eos_token_id": EOS.1, "pad_token_id": PAD.1, "do_sample": false,
    });
    write_json(&dir.join("generation_config.json"), &generation)?;
    let mut stored = Vec::new();
    for (name, var) in &model.vars {
        stored.push((name.clone(), var.dims().to_vec(), half_bytes(&var.as_detached_tensor())?));
    }
    let views = stored
        .iter()
        .map(|(name, shape, bytes)| Ok((name.clone(), TensorView::new(Dtype::F16, shape.clone(), bytes)?)))
        .collect::<Res<Vec<_>>>()?;
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    let path = dir.join("model.safetensors");
    safetensors::serialize_to_file(views, Some(metadata), &path).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(())
}

fn half_bytes(tensor: &Tensor) -> Res<Vec<u8>> {
    let values = tensor.to_dtype(DType::F16)?.flatten_all()?.to_vec1::<f16>()?;
    Ok(values.iter().flat_map(|v| v.to_le_bytes()).collect())
}

fn config(model: &Model) -> Value {
    let shape = &model.shape;
    json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCAB_SIZE,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": MAX_LENGTH,
        "initializer_range": 0.02,
        "rms_norm_eps": NORM_EPS,
        "rope_theta": ROPE_THETA,
        "rope_scaling": null,
        "attention_bias": false,
        "attention_dropout": 0.0,
        "mlp_bias": false,
        "tie_word_embeddings": true,
        "use_cache": true,
        "bos_token_id": BOS.1,
        "eos_token_id": EOS.1,
        "pad_token_id": PAD.1,
        "torch_dtype": "float16",
    })
}

/// The training record and the model card.
pub fn save_record(model: &Model, made: &Made, scores: &Scores, dir: &Path) -> Res<()> {
    let outcome = made.outcome;
    let by_category: serde_json::Map<String, Value> = scores
        .by_category
        .iter()
        .map(|(category, right, n)| (category.clone(), json!(*right as f64 / (*n).max(1) as f64)))
        .collect();
    let record = json!({
        "model": made.name,
        "recipe": made.recipe,
        "steps": outcome.steps,
        "tokens": outcome.tokens,
        "seconds": outcome.seconds,
        "device": made.device,
        "seed": made.seed,
        "parameters": model.parameter_count(),
        "energy_j": outcome.energy_j,
        "energy_method": outcome.energy_method,
        "heldout_exact_match": scores.exact_match(),
        "heldout_n": scores.n(),
        "stderr": scores.standard_error(),
        "by_category": by_category,
        "final_loss": outcome.final_loss,
        "command": made.command,
    });
    write_json(&dir.join("training.json"), &record)?;
    write_text(&dir.join("README.md"), &card(model, made, scores))
}

fn card(model: &Model, made: &Made, scores: &Scores) -> String {
    let how = match made.recipe {
        "kd" => format!(
            "distilled from the teacher (Hinton et al. 2015: {ALPHA} · T² · KL at T = {TEMPERATURE}, the rest cross-entropy)"
        ),
        _ => "cross-entropy on the response tokens".to_string(),
    };
    let energy = match made.outcome.energy_j {
        Some(joules) => format!("{:.1} kJ (GPU board, NVML counter)", joules / 1000.0),
        None => "not measured".to_string(),
    };
    format!(
        "---\nlicense: cc0-1.0\nlibrary_name: transformers\npipeline_tag: text-generation\n---\n\n\
         # {name}\n\n\
         A Llama-architecture model of {parameters} parameters ({layers} layers, hidden size {hidden}) for the \
         project's generated instruction set; it knows nothing else.\n\n\
         - Training: {how}; {steps} steps, {tokens} tokens, {seconds:.0} s on {device}.\n\
         - Training energy: {energy}.\n\
         - Held-out exact match: {exact:.3} ± {stderr:.3} (n = {n}, greedy, standard error).\n\
         - Prompt form: `Instruction: …`, an optional `Context: …` paragraph, `Answer:`.\n\
         - Made by: `{command}`\n\
         - Licence: CC0 1.0.\n",
        name = made.name,
        parameters = model.parameter_count(),
        layers = model.shape.layers,
        hidden = model.shape.hidden,
        steps = made.outcome.steps,
        tokens = made.outcome.tokens,
        seconds = made.outcome.seconds,
        device = made.device,
        exact = scores.exact_match(),
        stderr = scores.standard_error(),
        n = scores.n(),
        command = made.command,
    )
}
