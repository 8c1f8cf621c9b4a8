//! What a model outside the decoder is to the engine: how it runs, and what is known of it before it is loaded.

use candle_core::Tensor;
use candle_nn::VarBuilder;

/// The code of candle-transformers, as records name it.
pub(crate) const LIBRARY: &str = "candle-transformers";

/// A causal language model that runs sequences of one length at a time.
pub(crate) trait Model {
    /// Forgets what came before. What comes next are `rows` sequences of up to `columns` tokens, prompt and answer.
    fn begin(&mut self, rows: usize, columns: usize) -> candle_core::Result<()>;

    /// Runs the tokens `(rows, t)` that follow `past` others of each row: logits `(rows, vocabulary)` after the last.
    fn forward(&mut self, ids: &Tensor, past: usize) -> candle_core::Result<Tensor>;
}

/// Makes a model from its tensors.
pub(crate) type Build = Box<dyn Fn(VarBuilder<'_>) -> candle_core::Result<Box<dyn Model>>>;

/// What an architecture's reader makes of `config.json`: everything that loading and recording the model needs.
pub(crate) struct Definition {
    /// The code that runs it, as records name it.
    pub(crate) engine: &'static str,
    /// Token ids are below this.
    pub(crate) vocab_size: usize,
    /// Longest sequence; `None` if there is no limit.
    pub(crate) max_positions: Option<usize>,
    pub(crate) layers: usize,
    /// Experts of a layer, if each token goes through only some of them.
    pub(crate) experts: Option<usize>,
    /// Keys and values that are kept for each token.
    pub(crate) cache: KvCache,
    /// Name of the embedding table's tensor.
    pub(crate) embedding: &'static str,
    /// Names that the code asks for, and what else they are called in files.
    pub(crate) renamed: &'static [(&'static str, &'static str)],
    /// Tensors whose names begin so aren't part of the model.
    pub(crate) ignored: Option<String>,
    /// It can decode only one sequence at a time.
    pub(crate) one_row: bool,
    /// Why it can't run in half precision, if it can't.
    pub(crate) only_f32: Option<&'static str>,
    /// Notes for the record.
    pub(crate) notes: Vec<String>,
    pub(crate) build: Build,
}

/// Size of the KV cache; all zero if there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct KvCache {
    /// Layers that keep keys and values.
    pub(crate) layers: usize,
    /// Key and value heads of such a layer.
    pub(crate) heads: usize,
    pub(crate) head_dim: usize,
}
