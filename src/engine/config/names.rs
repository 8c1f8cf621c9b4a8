//! Names and arrangement of a model's tensors, as data.

/// Names of the parts of a model, below `prefix`. A part that a family doesn't have is `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Names {
    /// In front of everything but the output layer; some checkpoints leave it out.
    pub(crate) prefix: &'static str,
    /// Embedding table.
    pub(crate) embedding: &'static str,
    /// Table of learned positions.
    pub(crate) positions: &'static str,
    /// Norm after the embedding.
    pub(crate) embedding_norm: &'static str,
    /// From the width of the embedding to the hidden size.
    pub(crate) project_in: &'static str,
    /// Back again.
    pub(crate) project_out: &'static str,
    /// In front of the index of a layer.
    pub(crate) layers: &'static str,
    /// Norm before the output layer.
    pub(crate) final_norm: Option<&'static str>,
    /// Output layer, without the prefix.
    pub(crate) output: &'static str,
    /// Norm before attention (after the addition in [`Residual::NormAfter`](super::graph::Residual::NormAfter)).
    pub(crate) attention_norm: Option<&'static str>,
    /// Norm of what attention gives.
    pub(crate) attended_norm: Option<&'static str>,
    /// Norm before the feed-forward; a parallel layer without one shares attention's.
    pub(crate) feed_forward_norm: Option<&'static str>,
    /// Norm of what the feed-forward gives.
    pub(crate) fed_norm: Option<&'static str>,
    /// Query, key and value projections.
    pub(crate) qkv: QkvNames,
    /// Norms of queries and keys.
    pub(crate) qk_norms: [&'static str; 2],
    /// Output projection of attention.
    pub(crate) attention_output: &'static str,
    /// The first projections of a gated feed-forward.
    pub(crate) gate_up: GateUpNames,
    /// The first projection of a plain feed-forward.
    pub(crate) up: &'static str,
    /// The last projection.
    pub(crate) down: &'static str,
    /// Parts of a mixture of experts.
    pub(crate) experts: ExpertNames,
    /// Matrices are stored `(columns, rows)`, as by GPT-2's `Conv1D`.
    pub(crate) transposed: bool,
}

/// Query, key and value projections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum QkvNames {
    /// Three matrices.
    Apart([&'static str; 3]),
    /// One matrix.
    Fused(&'static str, FusedOrder),
}

/// Order of the rows of a fused query-key-value projection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FusedOrder {
    /// All queries, all keys, all values.
    Blocks,
    /// For each key head: its query heads, the key, the value.
    ByKeyHead,
}

/// The first projections of a gated feed-forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GateUpNames {
    /// Gate and up.
    Apart([&'static str; 2]),
    /// One matrix, the gate's rows first.
    Fused(&'static str),
}

/// Parts of a mixture of experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ExpertNames {
    /// Folders that the mixture may lie in; releases of transformers differ.
    pub(crate) folders: &'static [&'static str],
    /// Gate, up and down projection of an expert below `experts.{i}`.
    pub(crate) parts: [&'static str; 3],
}

/// As Llama names them, and most after it.
pub(crate) const LLAMA: Names = Names {
    prefix: "model.",
    embedding: "embed_tokens",
    positions: "",
    embedding_norm: "",
    project_in: "",
    project_out: "",
    layers: "layers",
    final_norm: Some("norm"),
    output: "lm_head",
    attention_norm: Some("input_layernorm"),
    attended_norm: None,
    feed_forward_norm: Some("post_attention_layernorm"),
    fed_norm: None,
    qkv: QkvNames::Apart(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
    qk_norms: ["self_attn.q_norm", "self_attn.k_norm"],
    attention_output: "self_attn.o_proj",
    gate_up: GateUpNames::Apart(["mlp.gate_proj", "mlp.up_proj"]),
    up: "mlp.up_proj",
    down: "mlp.down_proj",
    experts: ExpertNames { folders: &["mlp"], parts: ["gate_proj", "up_proj", "down_proj"] },
    transposed: false,
};
