//! A trained model as a complete folder in Hugging Face's layout: weights, configuration, tokenizer.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Tensor};
use ept_sweep::error::{Context, Result};
use half::f16;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use crate::files::{make_folder, write_json};
use crate::model::{Model, NORM_EPS, ROPE_THETA};
use crate::vocab::{self, BOS, EOS, MAX_LENGTH, PAD, VOCAB_SIZE};

/// Writes the model to `folder`, weights in half precision, with the tokenizer of the folder `tokenizer`.
///
/// # Errors
/// A file can't be written.
pub(crate) fn save(model: &Model, tokenizer: &Path, folder: &Path) -> Result<()> {
    make_folder(folder)?;
    vocab::copy(tokenizer, folder)?;
    write_json(&folder.join("config.json"), &config(model))?;
    let generation = json!({
        "bos_token_id": BOS.1, "eos_token_id": EOS.1, "pad_token_id": PAD.1, "do_sample": false,
    });
    write_json(&folder.join("generation_config.json"), &generation)?;
    save_weights(model, &folder.join("model.safetensors"))
}

fn save_weights(model: &Model, path: &Path) -> Result<()> {
    let failed = || format!("can't write `{}`", path.display());
    let mut stored = Vec::new();
    for (name, var) in &model.vars {
        stored.push((name.clone(), var.dims().to_vec(), half_bytes(&var.as_detached_tensor())?));
    }
    let view = |(name, shape, bytes)| Ok((name, TensorView::new(Dtype::F16, shape, bytes).context(failed)?));
    let views = stored.iter().map(|(name, shape, bytes)| view((name.clone(), shape.clone(), bytes)));
    let views = views.collect::<Result<Vec<_>>>()?;
    // transformers asks for the format
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(views, Some(metadata), path).context(failed)
}

fn half_bytes(tensor: &Tensor) -> Result<Vec<u8>> {
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
