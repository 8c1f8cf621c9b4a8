//! From logits to one token for each row.

use candle_core::{DType, Tensor};

use crate::error::{Error, Result};

/// The token chosen for one row at one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Choice {
    /// Chosen among all tokens.
    pub(crate) any: u32,
    /// Chosen without the end-of-sequence tokens; the same as `any` unless that is one of them.
    pub(crate) not_eos: u32,
}

/// Brings logits `(m, vocabulary)` to the host, in f32, row after row: 4 bytes for each token of the vocabulary.
pub(crate) fn to_host(logits: &Tensor) -> Result<Vec<f32>> {
    Ok(logits.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}

pub(crate) fn not_numbers() -> Error {
    Error::new("the model's logits aren't numbers").with_hint("run it with `dtype: f32` (or bf16)")
}
