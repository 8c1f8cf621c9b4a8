//! From llama.cpp's tensor names to transformers', family by family, and what llama.cpp's converter did to a tensor on
//! the way that has to be undone.
//!
//! The names are those of `gguf/constants.py` and `gguf/tensor_mapping.py` of the `gguf` package; the changes are those
//! of llama.cpp's `convert_hf_to_gguf.py`.

/// A family of models as llama.cpp names it in `general.architecture`.
#[derive(Debug)]
pub(super) struct Family {
    /// Value of `general.architecture`.
    pub(crate) arch: &'static str,
    /// transformers' class, `architectures[0]` of a `config.json`.
    pub(crate) class: &'static str,
    /// transformers' `model_type`.
    pub(crate) model_type: &'static str,
    /// Prefix of a layer's number in transformers.
    layers: &'static str,
    /// Stems outside the layers, in addition to those of [`TOP`].
    top: Names,
    /// Stems inside a layer, in addition to those of [`BLOCK`].
    block: Names,
    changes: Changes,
}

type Names = &'static [(&'static str, &'static str)];

/// A change that the converter makes to the tensors of a family.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Changes {
    Nothing,
    /// `LlamaModel.permute`: rows of the query and key projections, for a rotation of neighbours.
    InterleavedHeads,
    /// `data_torch + 1` for every norm.
    NormsPlusOne,
    /// `data_torch.transpose(1, 0)` of `Conv1D` weights.
    TransposedConv1d,
    /// Groups of queries with their key and value → all queries, all keys, all values.
    FalconQkv,
    /// Query, key and value of each head → all queries, all keys, all values.
    NeoxQkv,
}

/// How a stored tensor gets back into the form that it has in transformers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Undo {
    Nothing,
    /// Rows of each of this many heads: (pairs, 2) → (2, pairs).
    Deinterleave {
        heads: usize,
    },
    /// Subtract 1.
    MinusOne,
    /// (out, in) → (in, out).
    Transpose,
    /// Rows: all queries, keys, values → groups of `heads / groups` queries, a key and a value.
    Regroup {
        heads: usize,
        groups: usize,
    },
    /// (n) → (1, n).
    Row,
}

/// Where a tensor of transformers comes from.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Source {
    /// Name in the GGUF file.
    pub(crate) tensor: String,
    /// Which of the matrices (or rows) that are stacked in it.
    pub(crate) part: Option<usize>,
    pub(crate) undo: Undo,
}

const TOP: Names = &[("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];

const BLOCK: Names = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("ffn_gate_inp", "mlp.gate"),
    ("ffn_gate_exps", "mlp.experts.{}.gate_proj"),
    ("ffn_up_exps", "mlp.experts.{}.up_proj"),
    ("ffn_down_exps", "mlp.experts.{}.down_proj"),
];

const MIXTRAL: Names = &[
    ("ffn_gate_inp", "block_sparse_moe.gate"),
    ("ffn_gate_exps", "block_sparse_moe.experts.{}.w1"),
    ("ffn_down_exps", "block_sparse_moe.experts.{}.w2"),
    ("ffn_up_exps", "block_sparse_moe.experts.{}.w3"),
];

const GEMMA_SANDWICH: Names = &[
    ("post_attention_norm", "post_attention_layernorm"),
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
];

const PHI3: Names = &[("attn_qkv", "self_attn.qkv_proj"), ("ffn_up", "mlp.gate_up_proj")];

const GLM4: Names = &[
    ("post_attention_norm", "post_self_attn_layernorm"),
    ("post_ffw_norm", "post_mlp_layernorm"),
    ("ffn_up", "mlp.gate_up_proj"),
];

const OLMO2: Names =
    &[("post_attention_norm", "post_attention_layernorm"), ("post_ffw_norm", "post_feedforward_layernorm")];

const QWEN2_MOE: Names = &[
    ("ffn_gate_inp_shexp", "mlp.shared_expert_gate"),
    ("ffn_gate_shexp", "mlp.shared_expert.gate_proj"),
    ("ffn_up_shexp", "mlp.shared_expert.up_proj"),
    ("ffn_down_shexp", "mlp.shared_expert.down_proj"),
];

const STABLELM: Names =
    &[("attn_q_norm", "self_attn.q_layernorm.norms.{}"), ("attn_k_norm", "self_attn.k_layernorm.norms.{}")];

const STARCODER2: Names = &[("ffn_up", "mlp.c_fc"), ("ffn_down", "mlp.c_proj")];

const PHI2_TOP: Names = &[("output_norm", "model.final_layernorm")];
const PHI2: Names = &[("attn_output", "self_attn.dense"), ("ffn_up", "mlp.fc1"), ("ffn_down", "mlp.fc2")];

const GPT2_TOP: Names =
    &[("token_embd", "transformer.wte"), ("position_embd", "transformer.wpe"), ("output_norm", "transformer.ln_f")];
const GPT2: Names = &[
    ("attn_norm", "ln_1"),
    ("attn_qkv", "attn.c_attn"),
    ("attn_output", "attn.c_proj"),
    ("ffn_norm", "ln_2"),
    ("ffn_up", "mlp.c_fc"),
    ("ffn_down", "mlp.c_proj"),
];

const FALCON_TOP: Names = &[("token_embd", "transformer.word_embeddings"), ("output_norm", "transformer.ln_f")];
const FALCON: Names = &[
    ("attn_qkv", "self_attention.query_key_value"),
    ("attn_output", "self_attention.dense"),
    ("ffn_up", "mlp.dense_h_to_4h"),
    ("ffn_down", "mlp.dense_4h_to_h"),
];
/// Of the layers with a norm for attention and one for the feed-forward (40B).
const FALCON_TWO_NORMS: Names = &[("attn_norm", "ln_mlp"), ("attn_norm_2", "ln_attn")];

const NEOX_TOP: Names =
    &[("token_embd", "gpt_neox.embed_in"), ("output_norm", "gpt_neox.final_layer_norm"), ("output", "embed_out")];
const NEOX: Names = &[
    ("attn_qkv", "attention.query_key_value"),
    ("attn_output", "attention.dense"),
    ("ffn_up", "mlp.dense_h_to_4h"),
    ("ffn_down", "mlp.dense_4h_to_h"),
];

const fn family(arch: &'static str, class: &'static str, model_type: &'static str) -> Family {
    Family { arch, class, model_type, layers: "model.layers", top: &[], block: &[], changes: Changes::Nothing }
}

impl Family {
    const fn named(self, block: Names) -> Self {
        Self { block, ..self }
    }

    const fn under(self, layers: &'static str, top: Names) -> Self {
        Self { layers, top, ..self }
    }

    const fn with(self, changes: Changes) -> Self {
        Self { changes, ..self }
    }
}

/// Every family that is known here. What a decoder can run is its own matter.
pub(super) const FAMILIES: [Family; 24] = [
    family("llama", "LlamaForCausalLM", "llama").with(Changes::InterleavedHeads),
    family("qwen2", "Qwen2ForCausalLM", "qwen2"),
    family("qwen3", "Qwen3ForCausalLM", "qwen3"),
    family("gemma", "GemmaForCausalLM", "gemma").with(Changes::NormsPlusOne),
    family("gemma2", "Gemma2ForCausalLM", "gemma2").named(GEMMA_SANDWICH).with(Changes::NormsPlusOne),
    family("gemma3", "Gemma3ForCausalLM", "gemma3_text").named(GEMMA_SANDWICH).with(Changes::NormsPlusOne),
    family("phi2", "PhiForCausalLM", "phi").named(PHI2).under("model.layers", PHI2_TOP),
    family("phi3", "Phi3ForCausalLM", "phi3").named(PHI3),
    family("gpt2", "GPT2LMHeadModel", "gpt2")
        .named(GPT2)
        .under("transformer.h", GPT2_TOP)
        .with(Changes::TransposedConv1d),
    family("starcoder2", "Starcoder2ForCausalLM", "starcoder2").named(STARCODER2),
    family("stablelm", "StableLmForCausalLM", "stablelm").named(STABLELM),
    family("olmo", "OlmoForCausalLM", "olmo").with(Changes::InterleavedHeads),
    family("olmo2", "Olmo2ForCausalLM", "olmo2").named(OLMO2),
    family("olmoe", "OlmoeForCausalLM", "olmoe"),
    family("granite", "GraniteForCausalLM", "granite").with(Changes::InterleavedHeads),
    family("smollm3", "SmolLM3ForCausalLM", "smollm3").with(Changes::InterleavedHeads),
    family("qwen2moe", "Qwen2MoeForCausalLM", "qwen2_moe").named(QWEN2_MOE),
    family("qwen3moe", "Qwen3MoeForCausalLM", "qwen3_moe"),
    family("command-r", "CohereForCausalLM", "cohere"),
    family("glm4", "Glm4ForCausalLM", "glm4").named(GLM4),
    family("falcon", "FalconForCausalLM", "falcon")
        .named(FALCON)
        .under("transformer.h", FALCON_TOP)
        .with(Changes::FalconQkv),
    family("gptneox", "GPTNeoXForCausalLM", "gpt_neox")
        .named(NEOX)
        .under("gpt_neox.layers", NEOX_TOP)
        .with(Changes::NeoxQkv),
    MIXTRAL_FAMILY,
    FALCON_40B_FAMILY,
];

/// Mixtral has llama.cpp's architecture `llama` and experts.
const MIXTRAL_FAMILY: Family =
    family("llama", "MixtralForCausalLM", "mixtral").named(MIXTRAL).with(Changes::InterleavedHeads);

/// The same files as the other Falcons, with two norms a layer.
const FALCON_40B_FAMILY: Family = family("falcon", "FalconForCausalLM", "falcon")
    .named(FALCON_TWO_NORMS)
    .under("transformer.h", FALCON_TOP)
    .with(Changes::FalconQkv);

/// Sizes that decide between families with one architecture, and by which rows are grouped.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    /// Experts of a layer; 0 if there are none.
    pub(crate) experts: usize,
    /// Layers have a norm for attention and one for the feed-forward, both before.
    pub(crate) two_norms: bool,
}

/// The family of an architecture.
pub(super) fn find(arch: &str, layout: &Layout) -> Option<&'static Family> {
    const MIXTRAL: &Family = &MIXTRAL_FAMILY;
    const FALCON_40B: &Family = &FALCON_40B_FAMILY;
    match arch {
        "llama" if layout.experts > 0 => Some(MIXTRAL),
        "falcon" if layout.two_norms => Some(FALCON_40B),
        _ => FAMILIES.iter().find(|family| family.arch == arch),
    }
}

impl Family {
    /// The tensors of transformers that a tensor of the file holds: usually one; of stacked experts (or stacked norms)
    /// one for each of the `stacked` slices. None for a name that isn't part of the family.
    pub(super) fn sources(&self, tensor: &str, stacked: usize, layout: &Layout) -> Option<Vec<(String, Source)>> {
        let (stem, kind) = tensor.rsplit_once('.').filter(|(_, kind)| ["weight", "bias"].contains(kind))?;
        let (place, hf) = match stem.strip_prefix("blk.") {
            None => ("".to_owned(), lookup(stem, &[self.top, TOP])?.to_owned()),
            Some(rest) => {
                let (layer, stem) = rest.split_once('.')?;
                layer.parse::<u32>().ok()?;
                (format!("{}.{layer}.", self.layers), self.block_name(stem)?)
            }
        };
        let source = |part| Source { tensor: tensor.to_owned(), part, undo: self.undo(&hf, kind, layout) };
        Some(match hf.contains("{}") {
            false => vec![(format!("{place}{hf}.{kind}"), source(None))],
            true => (0..stacked)
                .map(|part| (format!("{place}{}.{kind}", hf.replace("{}", &part.to_string())), source(Some(part))))
                .collect(),
        })
    }

    fn block_name(&self, stem: &str) -> Option<String> {
        let names = [self.block, if self.arch == "falcon" { FALCON } else { &[] }, BLOCK];
        if let Some(name) = lookup(stem, &names) {
            return Some(name.to_owned());
        }
        // experts in tensors of their own, as older converters wrote them: `ffn_up.3`
        let (stem, expert) = stem.rsplit_once('.')?;
        expert.parse::<u32>().ok()?;
        Some(lookup(&format!("{stem}_exps"), &names)?.replace("{}", expert))
    }

    fn undo(&self, hf: &str, kind: &str, layout: &Layout) -> Undo {
        let ends = |endings: &[&str]| endings.iter().any(|ending| hf.ends_with(ending));
        match self.changes {
            Changes::InterleavedHeads if hf.ends_with("self_attn.q_proj") => Undo::Deinterleave { heads: layout.heads },
            Changes::InterleavedHeads if hf.ends_with("self_attn.k_proj") => {
                Undo::Deinterleave { heads: layout.kv_heads }
            }
            Changes::NormsPlusOne if kind == "weight" && hf.ends_with("norm") => Undo::MinusOne,
            Changes::TransposedConv1d if kind == "weight" && ends(&["c_attn", "c_proj", "c_fc"]) => Undo::Transpose,
            Changes::FalconQkv if hf.ends_with("query_key_value") => {
                Undo::Regroup { heads: layout.heads, groups: layout.kv_heads }
            }
            Changes::NeoxQkv if hf.ends_with("query_key_value") => {
                Undo::Regroup { heads: layout.heads, groups: layout.heads }
            }
            _ if hf.ends_with("shared_expert_gate") => Undo::Row,
            _ => Undo::Nothing,
        }
    }
}

fn lookup(stem: &str, tables: &[Names]) -> Option<&'static str> {
    tables.iter().find_map(|names| names.iter().find(|(gguf, _)| *gguf == stem).map(|(_, hf)| *hf))
}

impl Undo {
    /// For each row in transformers' order, which of the `rows` stored ones it is; `None` if the order is the same or
    /// `rows` doesn't divide as it has to.
    pub(crate) fn row_order(self, rows: usize) -> Option<Vec<usize>> {
        match self {
            Undo::Deinterleave { heads } => {
                let width = whole(rows, heads)?;
                let half = whole(width, 2)?;
                // transformers' row (half p, pair j) of a head is the stored row (pair j, half p)
                let row = |row: usize| row / width * width + (row % half) * 2 + row % width / half;
                Some((0..rows).map(row).collect())
            }
            Undo::Regroup { heads, groups } => {
                let queries = whole(heads, groups)?;
                let width = whole(rows, heads.checked_add(groups.checked_mul(2)?)?)?;
                let row = |row: usize| {
                    let (slot, inside) = (row / width, row % width);
                    let (group, member) = (slot / (queries + 2), slot % (queries + 2));
                    let stored = match member {
                        member if member < queries => group * queries + member,
                        member => heads + (member - queries) * groups + group,
                    };
                    stored * width + inside
                };
                Some((0..rows).map(row).collect())
            }
            Undo::Nothing | Undo::MinusOne | Undo::Transpose | Undo::Row => None,
        }
    }

    /// Whether rows are in another order.
    pub(crate) fn reorders_rows(self) -> bool {
        matches!(self, Undo::Deinterleave { .. } | Undo::Regroup { .. })
    }
}

/// `total / parts`, if that is a whole number and not 0.
fn whole(total: usize, parts: usize) -> Option<usize> {
    (parts > 0 && total >= parts && total.is_multiple_of(parts)).then(|| total / parts)
}
