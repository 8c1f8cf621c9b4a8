//! A GGUF file's metadata as the `config.json` that transformers would have for the same model, so that one reader
//! interprets architectures. Keys are transformers 4's (`rope_theta`, `rope_scaling`).
//!
//! What llama.cpp doesn't store because its code knows it is stated here, family by family, with llama.cpp's
//! `src/llama-model.cpp` as the source.

use serde_json::{Map, Value, json};

use super::tensors::{Gguf, MOST_STACKED, ROPE_DIVISORS, ROPE_LONG, ROPE_SHORT};
use crate::error::Result;
use crate::gguf::GgufFile;

/// `config.json` of the model, made from the metadata and from which tensors there are.
///
/// Llama 3's stretched frequencies are stored as their effect, not as parameters: see
/// [`rope_divisors`](Gguf::rope_divisors), which goes with a plain `rope_theta`.
///
/// # Errors
/// A key that is missing or of another type; the message names file and key.
pub(crate) fn config_json(gguf: &Gguf) -> Result<Map<String, Value>> {
    let reader = Keys { gguf, arch: gguf.family.arch };
    let mut config = reader.common()?;
    reader.rope(&mut config)?;
    reader.family(&mut config)?;
    config.retain(|_, value| !value.is_null());
    Ok(config)
}

/// Reads keys below the architecture's name.
struct Keys<'a> {
    gguf: &'a Gguf,
    arch: &'static str,
}

impl Keys<'_> {
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.arch)
    }

    fn size(&self, key: &str) -> Result<usize> {
        self.gguf.file.size(&self.key(key))
    }

    fn size_or_none(&self, key: &str) -> Result<Option<usize>> {
        self.gguf.file.optional_size(&self.key(key))
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        let value = self.gguf.file.optional_number(&self.key(key))?;
        Ok(value.map(shortest_f32))
    }

    fn has(&self, tensor: &str) -> bool {
        self.gguf.file.tensors().contains_key(tensor)
    }

    fn head_dim(&self) -> Result<usize> {
        match self.size_or_none("attention.key_length")? {
            Some(width) => Ok(width),
            None => Ok(self.size("embedding_length")? / self.size("attention.head_count")?.max(1)),
        }
    }

    /// The fields that every decoder has.
    fn common(&self) -> Result<Map<String, Value>> {
        let family = self.gguf.family;
        let heads = self.size("attention.head_count")?;
        let ends = end_ids(&self.gguf.file)?;
        let eps = ["attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"];
        let eps = eps.iter().map(|key| self.number(key)).collect::<Result<Vec<_>>>()?.into_iter().flatten().next();
        let config = json!({
            "architectures": [family.class],
            "model_type": family.model_type,
            "vocab_size": self.vocab_size()?,
            "hidden_size": self.size("embedding_length")?,
            "intermediate_size": self.size_or_none("feed_forward_length")?,
            "num_hidden_layers": self.size("block_count")?,
            "num_attention_heads": heads,
            "num_key_value_heads": self.size_or_none("attention.head_count_kv")?.unwrap_or(heads),
            "head_dim": self.head_dim()?,
            "max_position_embeddings": self.size("context_length")?,
            "rms_norm_eps": eps,
            "tie_word_embeddings": !self.has("output.weight"),
            "bos_token_id": self.gguf.file.token_id("tokenizer.ggml.bos_token_id", usize::MAX)?,
            "eos_token_id": ends,
            "pad_token_id": self.gguf.file.token_id("tokenizer.ggml.padding_token_id", usize::MAX)?,
            "hidden_act": "silu",
        });
        match config {
            Value::Object(map) => Ok(map),
            _ => Ok(Map::new()),
        }
    }

    /// Rows of the embedding table, which may be padded past the tokenizer's tokens.
    fn vocab_size(&self) -> Result<usize> {
        match self.gguf.file.tensors().get("token_embd.weight").and_then(|table| table.shape.first()) {
            Some(rows) => Ok(*rows),
            None => self.gguf.file.required("token_embd.weight", None),
        }
    }

    fn rope(&self, config: &mut Map<String, Value>) -> Result<()> {
        config.insert("rope_theta".to_owned(), json!(self.number("rope.freq_base")?.unwrap_or(10000.0)));
        let head_dim = self.head_dim()?;
        let rotated = self.size_or_none("rope.dimension_count")?.unwrap_or(head_dim);
        if rotated != head_dim {
            config.insert("partial_rotary_factor".to_owned(), json!(rotated as f64 / head_dim.max(1) as f64));
        }
        let original = self.size_or_none("rope.scaling.original_context_length")?;
        let kind = self.gguf.file.optional_text(&self.key("rope.scaling.type"))?;
        let scaling = match kind.as_deref() {
            _ if self.has(ROPE_LONG) => self.longrope(config, original)?,
            // the divisors say it all
            _ if self.has(ROPE_DIVISORS) => Value::Null,
            None | Some("none") => Value::Null,
            Some("linear") => json!({ "rope_type": "linear", "factor": self.number("rope.scaling.factor")? }),
            Some(kind) => json!({
                "rope_type": kind,
                "factor": self.number("rope.scaling.factor")?,
                "original_max_position_embeddings": original,
                "attention_factor": self.number("rope.scaling.attn_factor")?,
                "beta_fast": self.number("rope.scaling.yarn_beta_fast")?,
                "beta_slow": self.number("rope.scaling.yarn_beta_slow")?,
            }),
        };
        let scaling = match scaling {
            Value::Object(map) => Value::Object(map.into_iter().filter(|(_, value)| !value.is_null()).collect()),
            other => other,
        };
        config.insert("rope_scaling".to_owned(), scaling);
        Ok(())
    }

    /// Phi-3's two lists of divisors, one for texts within the original context and one for longer ones.
    fn longrope(&self, config: &mut Map<String, Value>, original: Option<usize>) -> Result<Value> {
        config.insert("original_max_position_embeddings".to_owned(), json!(original));
        let list = |name: &str| -> Result<Option<Vec<f64>>> {
            let values = self.gguf.vector(name)?;
            Ok(values.map(|values| values.into_iter().map(|value| shortest_f32(value.into())).collect()))
        };
        Ok(json!({ "rope_type": "longrope", "long_factor": list(ROPE_LONG)?, "short_factor": list(ROPE_SHORT)? }))
    }

    /// The fields that only some families have.
    fn family(&self, config: &mut Map<String, Value>) -> Result<()> {
        let own = match self.gguf.family.model_type {
            "llama" | "granite" | "smollm3" | "olmo" => self.llama_like()?,
            "mixtral" => self.mixtral()?,
            "qwen2_moe" | "qwen3_moe" | "olmoe" => self.experts()?,
            "gemma" => json!({ "hidden_activation": "gelu_pytorch_tanh", "hidden_act": "gelu_pytorch_tanh" }),
            "gemma2" | "gemma3_text" => self.gemma()?,
            "phi3" => json!({ "sliding_window": self.window()? }),
            "glm4" => json!({ "attention_bias": self.has("blk.0.attn_q.bias") }),
            "cohere" => json!({
                "logit_scale": self.number("logit_scale")?,
                "use_qk_norm": self.has("blk.0.attn_q_norm.weight"),
            }),
            "stablelm" => json!({
                "use_qkv_bias": self.has("blk.0.attn_q.bias"),
                "qk_layernorm": self.has("blk.0.attn_q_norm.weight"),
                "use_parallel_residual": !self.has("blk.0.ffn_norm.weight"),
            }),
            "starcoder2" => json!({
                "use_bias": self.has("blk.0.attn_q.bias"),
                "hidden_act": "gelu_pytorch_tanh",
                "sliding_window": self.window()?,
            }),
            "phi" => json!({ "hidden_act": "gelu_new", "qk_layernorm": false }),
            "gpt2" => self.gpt2()?,
            "falcon" => self.falcon()?,
            "gpt_neox" => self.neox(config)?,
            _ => Value::Null,
        };
        if let Value::Object(own) = own {
            config.extend(own);
        }
        self.rename_eps(config);
        Ok(())
    }

    /// Families with LayerNorm name its epsilon differently.
    fn rename_eps(&self, config: &mut Map<String, Value>) {
        let name = match self.gguf.family.model_type {
            "gpt2" | "falcon" => "layer_norm_epsilon",
            "starcoder2" => "norm_epsilon",
            "phi" | "stablelm" | "cohere" | "gpt_neox" => "layer_norm_eps",
            _ => return,
        };
        if let Some(eps) = config.remove("rms_norm_eps") {
            config.insert(name.to_owned(), eps);
        }
    }

    fn window(&self) -> Result<Option<usize>> {
        self.size_or_none("attention.sliding_window")
    }

    fn llama_like(&self) -> Result<Value> {
        let layers = self.size("block_count")?;
        // each fourth layer has no rotary embedding: `n_no_rope_layer_step` of llama.cpp
        let no_rope = (self.arch == "smollm3" && layers <= MOST_STACKED)
            .then(|| (0..layers).map(|layer| usize::from((layer + 1) % 4 != 0)).collect::<Vec<_>>());
        Ok(json!({
            "attention_bias": self.has("blk.0.attn_q.bias"),
            "mlp_bias": self.has("blk.0.ffn_up.bias"),
            "sliding_window": self.window()?,
            "no_rope_layers": no_rope,
            "clip_qkv": self.number("attention.clamp_kqv")?.filter(|limit| *limit > 0.0),
            "embedding_multiplier": self.number("embedding_scale")?,
            "residual_multiplier": self.number("residual_scale")?,
            "attention_multiplier": self.number("attention.scale")?,
            "logits_scaling": self.number("logit_scale")?,
        }))
    }

    fn mixtral(&self) -> Result<Value> {
        Ok(json!({
            "num_local_experts": self.size("expert_count")?,
            "num_experts_per_tok": self.size("expert_used_count")?,
            "sliding_window": self.window()?,
        }))
    }

    fn experts(&self) -> Result<Value> {
        let count = self.size("expert_count")?;
        let inner = self.gguf.file.tensors().get("blk.0.ffn_gate_exps.weight").and_then(|stacked| stacked.shape.get(1));
        let inner = self.size_or_none("expert_feed_forward_length")?.or(inner.copied());
        let shared = self.gguf.file.tensors().get("blk.0.ffn_gate_shexp.weight").and_then(|gate| gate.shape.first());
        let mut config = json!({
            "num_experts": count,
            "num_experts_per_tok": self.size("expert_used_count")?,
            "shared_expert_intermediate_size": shared,
            // in llama.cpp a constant of each graph
            "norm_topk_prob": self.arch == "qwen3moe",
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
        });
        // OLMoE calls the width of an expert `intermediate_size`
        let name = if self.arch == "olmoe" { "intermediate_size" } else { "moe_intermediate_size" };
        if let (Value::Object(map), Some(inner)) = (&mut config, inner) {
            map.insert(name.to_owned(), json!(inner));
        }
        Ok(config)
    }

    fn gemma(&self) -> Result<Value> {
        let layers = self.size("block_count")?;
        let third = self.arch == "gemma3";
        // the 27B models scale queries by the width of the residual stream, all others by that of a head
        let widest = if third { 62 } else { 46 };
        let scalar = match layers == widest {
            true => self.size("embedding_length")? / self.size("attention.head_count")?.max(1),
            false => self.head_dim()?,
        };
        let cap = |value: Option<f64>, default: Option<f64>| value.or(default);
        let softcap = (!third).then_some(50.0);
        let final_softcap = (!third).then_some(30.0);
        Ok(json!({
            "hidden_activation": "gelu_pytorch_tanh",
            "hidden_act": "gelu_pytorch_tanh",
            "query_pre_attn_scalar": scalar,
            "sliding_window": self.window()?.unwrap_or(4096),
            "sliding_window_pattern": if third { 6 } else { 2 },
            "rope_local_base_freq": third.then_some(self.number("rope.freq_base_swa")?.unwrap_or(10000.0)),
            "attn_logit_softcapping": cap(self.number("attn_logit_softcapping")?, softcap),
            "final_logit_softcapping": cap(self.number("final_logit_softcapping")?, final_softcap),
        }))
    }

    fn gpt2(&self) -> Result<Value> {
        Ok(json!({
            "n_embd": self.size("embedding_length")?,
            "n_layer": self.size("block_count")?,
            "n_head": self.size("attention.head_count")?,
            "n_positions": self.size("context_length")?,
            "n_inner": self.size("feed_forward_length")?,
            "activation_function": "gelu_new",
            "hidden_act": Value::Null,
            "rope_theta": Value::Null,
        }))
    }

    fn falcon(&self) -> Result<Value> {
        let kv_heads = self.size_or_none("attention.head_count_kv")?.unwrap_or(1);
        let two_norms = self.has("blk.0.attn_norm_2.weight");
        Ok(json!({
            "new_decoder_architecture": kv_heads > 1,
            "multi_query": kv_heads == 1,
            "num_kv_heads": kv_heads,
            "num_ln_in_parallel_attn": if two_norms { 2 } else { 1 },
            "parallel_attn": true,
            "alibi": false,
            "bias": self.has("blk.0.attn_qkv.bias"),
            "activation": "gelu",
            "ffn_hidden_size": self.size_or_none("feed_forward_length")?,
        }))
    }

    fn neox(&self, config: &Map<String, Value>) -> Result<Value> {
        Ok(json!({
            "use_parallel_residual": self.gguf.file.optional_flag(&self.key("use_parallel_residual"))?.unwrap_or(true),
            "rotary_pct": config.get("partial_rotary_factor").cloned().unwrap_or(json!(1.0)),
            "rotary_emb_base": config.get("rope_theta"),
            "attention_bias": self.has("blk.0.attn_qkv.bias"),
            "hidden_act": "gelu",
        }))
    }
}

/// Ids that end a generation: end of sequence, of turn, of message.
fn end_ids(file: &GgufFile) -> Result<Vec<u32>> {
    let keys = ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];
    let mut ids = Vec::new();
    for key in keys {
        if let Some(id) = file.token_id(key, u32::MAX as usize)?.filter(|id| !ids.contains(id)) {
            ids.push(id);
        }
    }
    Ok(ids)
}

/// The f64 that is written as shortly as the f32 was meant: 1e-5 and not 9.999999747378752e-6, as `config.json` has it.
fn shortest_f32(value: f64) -> f64 {
    let narrow = value as f32;
    match f64::from(narrow) == value {
        true => narrow.to_string().parse().unwrap_or(value),
        false => value,
    }
}
