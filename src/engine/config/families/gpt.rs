//! GPT-2 and what came before Llama: learned positions or linear biases, LayerNorm, plain feed-forwards.

use super::base::{activation, default_scale, eos_ids, layers, plain_embedding, plain_output};
use crate::engine::config::architecture;
use crate::engine::config::graph::{
    Activation, Alibi, Attention, Config, Embedding, FeedForward, LayerConfig, LearnedPositions, Norm, Residual,
};
use crate::engine::config::names::{FusedOrder, LLAMA, Names, QkvNames};
use crate::engine::config::rope::{self, Rope, RopeDefaults, RopeScaling, RopeStyle};
use crate::error::Result;
use crate::json::Fields;

/// The names of a family's fields and tensors, and its defaults.
struct Gpt {
    hidden: &'static [&'static str],
    heads: &'static [&'static str],
    layers: &'static [&'static str],
    positions: &'static [&'static str],
    default_positions: usize,
    eps: &'static str,
    inner: &'static [&'static str],
    activation: (&'static str, &'static str),
    bias: bool,
    tied: bool,
    eos: &'static [u32],
    names: Names,
}

const GPT2: Gpt = Gpt {
    hidden: &["n_embd", "hidden_size"],
    heads: &["n_head", "num_attention_heads"],
    layers: &["n_layer", "num_hidden_layers"],
    positions: &["n_positions", "max_position_embeddings"],
    default_positions: 1024,
    eps: "layer_norm_epsilon",
    inner: &["n_inner"],
    activation: ("activation_function", "gelu_new"),
    bias: true,
    tied: true,
    eos: &[50_256],
    names: Names {
        prefix: "transformer.",
        embedding: "wte",
        positions: "wpe",
        layers: "h",
        final_norm: Some("ln_f"),
        attention_norm: Some("ln_1"),
        feed_forward_norm: Some("ln_2"),
        qkv: QkvNames::Fused("attn.c_attn", FusedOrder::Blocks),
        attention_output: "attn.c_proj",
        up: "mlp.c_fc",
        down: "mlp.c_proj",
        transposed: true,
        ..LLAMA
    },
};

impl Gpt {
    /// A model with as many key as query heads, without any position embedding.
    fn read(&self, fields: &Fields) -> Result<Config> {
        let hidden_size = fields.required_size(fields.name_in_use(self.hidden))?;
        let heads = fields.required_size(fields.name_in_use(self.heads))?;
        let head_dim = hidden_size / heads;
        let max_positions = fields.size(fields.name_in_use(self.positions))?.unwrap_or(self.default_positions);
        let inner = fields.size(fields.name_in_use(self.inner))?.unwrap_or(4 * hidden_size);
        let layer = LayerConfig {
            window: None,
            rope: None,
            scale: default_scale(head_dim),
            feed_forward: FeedForward::Plain { inner, bias: self.bias },
        };
        if head_dim * heads != hidden_size {
            let message = format!("{heads} heads don't divide a hidden size of {hidden_size}");
            return Err(fields.error(fields.name_in_use(self.heads), message));
        }
        Ok(Config {
            architecture: architecture::named(fields).unwrap_or_default().to_owned(),
            vocab_size: fields.required_size("vocab_size")?,
            hidden_size,
            max_positions,
            embedding: plain_embedding(hidden_size),
            norm: Norm::layer(fields.positive(self.eps)?.unwrap_or(1e-5)),
            residual: Residual::Sequential,
            residual_scale: 1.0,
            attention: Attention {
                heads,
                kv_heads: heads,
                head_dim,
                qkv_bias: self.bias,
                output_bias: self.bias,
                clip: None,
                qk_norm: None,
                softcap: None,
                alibi: None,
            },
            ropes: Vec::new(),
            activation: activation(fields, self.activation.0, self.activation.1)?,
            layers: vec![layer; layers(fields, fields.name_in_use(self.layers))?],
            output: plain_output(fields, self.tied)?,
            eos_ids: eos_ids(fields, self.eos)?,
            names: self.names,
            recompute_past: None,
        })
    }
}

/// GPT-2.
pub(crate) fn gpt2(fields: &Fields) -> Result<Config> {
    let mut config = GPT2.read(fields)?;
    config.embedding.positions = Some(LearnedPositions { rows: config.max_positions, offset: 0 });
    let base = match fields.flag("scale_attn_weights")?.unwrap_or(true) {
        true => default_scale(config.attention.head_dim),
        false => 1.0,
    };
    let by_layer = fields.flag("scale_attn_by_inverse_layer_idx")?.unwrap_or(false);
    for (index, layer) in config.layers.iter_mut().enumerate() {
        layer.scale = if by_layer { base / (index + 1) as f64 } else { base };
    }
    Ok(config)
}

/// StarCoder 1 (GPT-BigCode): GPT-2 with one key head.
pub(crate) fn gpt_bigcode(fields: &Fields) -> Result<Config> {
    let bigcode = Gpt {
        activation: ("activation_function", "gelu_pytorch_tanh"),
        names: Names { transposed: false, ..GPT2.names },
        ..GPT2
    };
    let mut config = bigcode.read(fields)?;
    config.embedding.positions = Some(LearnedPositions { rows: config.max_positions, offset: 0 });
    if !fields.flag("scale_attn_weights")?.unwrap_or(true) {
        config.attention_scale(1.0);
    }
    match fields.flag("multi_query")?.unwrap_or(true) {
        true => config.attention.kv_heads = 1,
        false => config.names.qkv = QkvNames::Fused("attn.c_attn", FusedOrder::ByKeyHead),
    }
    Ok(config)
}

/// GPT-J: parallel layers, the first dimensions of a head rotated in neighbouring pairs.
pub(crate) fn gpt_j(fields: &Fields) -> Result<Config> {
    let names = Names {
        attention_norm: Some("ln_1"),
        feed_forward_norm: None,
        qkv: QkvNames::Apart(["attn.q_proj", "attn.k_proj", "attn.v_proj"]),
        attention_output: "attn.out_proj",
        up: "mlp.fc_in",
        down: "mlp.fc_out",
        transposed: false,
        ..GPT2.names
    };
    let mut config = Gpt { default_positions: 2048, tied: false, names, ..GPT2 }.read(fields)?;
    config.attention_biases(false, false);
    config.residual = Residual::Parallel;
    config.output.bias = true;
    let dims = match fields.spelled("rotary_dim") {
        None => 64,
        Some(_) => fields.size("rotary_dim")?.unwrap_or(config.attention.head_dim),
    };
    if dims > config.attention.head_dim {
        let message = format!("{dims} is more than the width of a head ({})", config.attention.head_dim);
        return Err(fields.error("rotary_dim", message));
    }
    let rope = Rope { theta: 10_000.0, dims, style: RopeStyle::Neighbours, scaling: RopeScaling::Default };
    config.ropes = vec![rope];
    config.layers.iter_mut().for_each(|layer| layer.rope = Some(0));
    Ok(config)
}

/// GPT-NeoX and Pythia: a part of each head rotated, usually parallel layers.
pub(crate) fn gpt_neox(fields: &Fields) -> Result<Config> {
    let neox = Gpt {
        hidden: &["hidden_size"],
        heads: &["num_attention_heads"],
        layers: &["num_hidden_layers"],
        positions: &["max_position_embeddings"],
        default_positions: 2048,
        eps: "layer_norm_eps",
        inner: &["intermediate_size"],
        activation: ("hidden_act", "gelu"),
        bias: true,
        tied: false,
        eos: &[2],
        names: Names {
            prefix: "gpt_neox.",
            embedding: "embed_in",
            final_norm: Some("final_layer_norm"),
            output: "embed_out",
            qkv: QkvNames::Fused("attention.query_key_value", FusedOrder::ByKeyHead),
            attention_output: "attention.dense",
            up: "mlp.dense_h_to_4h",
            down: "mlp.dense_4h_to_h",
            ..LLAMA
        },
    };
    let mut config = neox.read(fields)?;
    let bias = fields.flag("attention_bias")?.unwrap_or(true);
    config.attention_biases(bias, bias);
    if fields.flag("use_parallel_residual")?.unwrap_or(true) {
        config.residual = Residual::Parallel;
    }
    rotate(&mut config, fields, 0.25)?;
    Ok(config)
}

/// OPT: learned positions from row 2 on, optionally norms after the addition and a narrower embedding.
pub(crate) fn opt(fields: &Fields) -> Result<Config> {
    let bias = fields.flag("enable_bias")?.unwrap_or(true);
    let before = fields.flag("do_layer_norm_before")?.unwrap_or(true);
    let last = before && !fields.flag("_remove_final_layer_norm")?.unwrap_or(false);
    let opt = Gpt {
        hidden: &["hidden_size"],
        heads: &["num_attention_heads"],
        layers: &["num_hidden_layers"],
        positions: &["max_position_embeddings"],
        default_positions: 2048,
        eps: "layer_norm_eps",
        inner: &["ffn_dim"],
        activation: ("activation_function", "relu"),
        bias,
        tied: true,
        eos: &[2],
        names: Names {
            prefix: "model.decoder.",
            embedding: "embed_tokens",
            positions: "embed_positions",
            project_in: "project_in",
            project_out: "project_out",
            final_norm: last.then_some("final_layer_norm"),
            attention_norm: Some("self_attn_layer_norm"),
            feed_forward_norm: Some("final_layer_norm"),
            attention_output: "self_attn.out_proj",
            up: "fc1",
            down: "fc2",
            ..LLAMA
        },
    };
    // The class has no field for the epsilon.
    let mut config = opt.read(&fields.without(&["layer_norm_eps"]))?;
    if !before {
        config.residual = Residual::NormAfter;
    }
    if !fields.flag("layer_norm_elementwise_affine")?.unwrap_or(true) {
        config.norm = Norm { weight: false, bias: false, ..config.norm };
    }
    config.embedding = Embedding {
        width: fields.size("word_embed_proj_dim")?.unwrap_or(config.hidden_size),
        positions: Some(LearnedPositions { rows: config.max_positions + 2, offset: 2 }),
        ..config.embedding
    };
    Ok(config)
}

const FUSED_BY_HEAD: QkvNames = QkvNames::Fused("self_attention.query_key_value", FusedOrder::ByKeyHead);

/// Falcon: one norm or two before parallel layers, few key heads, rotation; or linear biases and sequential layers.
pub(crate) fn falcon(fields: &Fields) -> Result<Config> {
    let bias = fields.flag("bias")?.unwrap_or(false);
    let falcon = Gpt {
        hidden: &["hidden_size"],
        heads: &["num_attention_heads", "n_head"],
        layers: &["num_hidden_layers", "n_layer"],
        positions: &["max_position_embeddings"],
        default_positions: 2048,
        eps: "layer_norm_epsilon",
        inner: &["ffn_hidden_size"],
        activation: ("activation", "gelu"),
        bias,
        tied: true,
        eos: &[11],
        names: Names {
            prefix: "transformer.",
            embedding: "word_embeddings",
            layers: "h",
            final_norm: Some("ln_f"),
            qkv: FUSED_BY_HEAD,
            attention_output: "self_attention.dense",
            up: "mlp.dense_h_to_4h",
            down: "mlp.dense_4h_to_h",
            ..LLAMA
        },
    };
    let mut config = falcon.read(fields)?;
    let new = fields.flag("new_decoder_architecture")?.unwrap_or(false);
    let multi_query = fields.flag("multi_query")?.unwrap_or(true);
    config.attention.kv_heads = match (new, multi_query) {
        (true, _) => fields.size("num_kv_heads")?.unwrap_or(config.attention.heads),
        (false, true) => 1,
        (false, false) => config.attention.heads,
    };
    let parallel = fields.flag("parallel_attn")?.unwrap_or(true);
    let norms = fields.size("num_ln_in_parallel_attn")?.unwrap_or(if new { 2 } else { 1 });
    if parallel || new {
        config.residual = Residual::Parallel;
        let two = new && norms == 2;
        config.names.attention_norm = Some(if two { "ln_attn" } else { "input_layernorm" });
        config.names.feed_forward_norm = two.then_some("ln_mlp");
    }
    match fields.flag("alibi")?.unwrap_or(false) {
        true => config.attention.alibi = Some(Alibi::Falcon),
        false => rotate(&mut config, fields, 1.0)?,
    }
    Ok(config)
}

/// BLOOM: linear biases and a norm after the embedding.
pub(crate) fn bloom(fields: &Fields) -> Result<Config> {
    let bloom = Gpt {
        hidden: &["hidden_size", "n_embed"],
        heads: &["n_head", "num_attention_heads"],
        layers: &["n_layer", "num_hidden_layers"],
        positions: &["seq_length"],
        // Linear biases know no limit; BLOOM was trained on this length.
        default_positions: 2048,
        eps: "layer_norm_epsilon",
        inner: &["n_inner"],
        activation: ("hidden_act", "gelu_new"),
        bias: true,
        tied: true,
        eos: &[2],
        names: Names {
            prefix: "transformer.",
            embedding: "word_embeddings",
            embedding_norm: "word_embeddings_layernorm",
            layers: "h",
            final_norm: Some("ln_f"),
            qkv: FUSED_BY_HEAD,
            attention_output: "self_attention.dense",
            up: "mlp.dense_h_to_4h",
            down: "mlp.dense_4h_to_h",
            ..LLAMA
        },
    };
    let mut config = bloom.read(&fields.without(&["hidden_act", "n_inner"]))?;
    config.activation = Activation::GeluTanh;
    if fields.flag("apply_residual_connection_post_layernorm")?.unwrap_or(false) {
        config.residual = Residual::FromNorm;
    }
    config.embedding.norm = true;
    config.attention.alibi = Some(Alibi::Bloom);
    Ok(config)
}

/// Gives every layer the rotary embedding of the file.
fn rotate(config: &mut Config, fields: &Fields, share: f64) -> Result<()> {
    let defaults = RopeDefaults {
        head_dim: config.attention.head_dim,
        max_positions: config.max_positions,
        theta: 10_000.0,
        share,
        style: RopeStyle::Halves,
    };
    config.ropes = vec![rope::read(fields, defaults)?];
    config.layers.iter_mut().for_each(|layer| layer.rope = Some(0));
    Ok(())
}
