//! Matrices as a model multiplies by them: those that take the same input in one, row over row.

use candle_core::{DType, Device, Tensor};

use super::Weights;
use crate::engine::config::{Attention, FusedOrder};
use crate::engine::layout::{MatrixSpec, QkvSpec};
use crate::error::Result;

/// The weights of y = x · Wᵀ + b.
pub(crate) struct Matrix {
    /// `(outputs, inputs)`.
    pub(crate) weight: Tensor,
    /// `(outputs)`.
    pub(crate) bias: Option<Tensor>,
}

impl Weights {
    /// Matrices with the same number of columns as one, row over row.
    ///
    /// # Errors
    /// As for [`Weights::load`].
    pub(crate) fn load_rows(&self, parts: &[&MatrixSpec], dtype: DType, device: &Device) -> Result<Matrix> {
        let matrices = parts.iter().map(|part| self.load_matrix(part, dtype, device)).collect::<Result<Vec<_>>>()?;
        Ok(Matrix { weight: stacked(matrices)?, bias: self.load_bias(parts, dtype, device)? })
    }

    /// The query, key and value projections as one: all queries, all keys, all values.
    ///
    /// # Errors
    /// As for [`Weights::load`].
    pub(crate) fn load_qkv(
        &self,
        qkv: &QkvSpec,
        attention: &Attention,
        dtype: DType,
        device: &Device,
    ) -> Result<Matrix> {
        match qkv {
            QkvSpec::Apart(parts) => self.load_rows(&parts.each_ref(), dtype, device),
            QkvSpec::Fused(part, FusedOrder::Blocks) => self.load_rows(&[part], dtype, device),
            QkvSpec::Fused(part, FusedOrder::ByKeyHead) => {
                let Matrix { weight, bias } = self.load_rows(&[part], dtype, device)?;
                let bias = bias.map(|bias| by_blocks(&bias, attention)).transpose()?;
                Ok(Matrix { weight: by_blocks(&weight, attention)?, bias })
            }
        }
    }

    fn load_matrix(&self, part: &MatrixSpec, dtype: DType, device: &Device) -> Result<Tensor> {
        let weight = self.load(&part.weight, dtype, device)?;
        match part.transposed {
            true => Ok(weight.t()?.contiguous()?),
            false => Ok(weight),
        }
    }

    /// The biases of all parts one after the other; zeros for parts without one, if others have one.
    ///
    /// # Errors
    /// As for [`Weights::load`].
    pub(crate) fn load_bias(&self, parts: &[&MatrixSpec], dtype: DType, device: &Device) -> Result<Option<Tensor>> {
        if parts.iter().all(|part| part.bias.is_none()) {
            return Ok(None);
        }
        let bias = |part: &&MatrixSpec| match &part.bias {
            Some(bias) => self.load(bias, dtype, device),
            None => Ok(Tensor::zeros(part.weight.shape[0], dtype, device)?),
        };
        Ok(Some(stacked(parts.iter().map(bias).collect::<Result<Vec<_>>>()?)?))
    }
}

fn stacked(mut parts: Vec<Tensor>) -> Result<Tensor> {
    match parts.len() {
        1 => Ok(parts.remove(0)),
        _ => Ok(Tensor::cat(&parts, 0)?),
    }
}

/// Rows ordered by key head become all queries, all keys, all values.
fn by_blocks(rows: &Tensor, attention: &Attention) -> Result<Tensor> {
    let Attention { heads, kv_heads, head_dim, .. } = *attention;
    let rest = rows.dims()[1..].iter().product::<usize>();
    let groups = rows.reshape((kv_heads, heads / kv_heads + 2, head_dim * rest))?;
    let part = |first: usize, count: usize| -> Result<Tensor> {
        Ok(groups.narrow(1, first, count)?.reshape((kv_heads * count * head_dim, rest))?)
    };
    let shared = heads / kv_heads;
    let blocks = Tensor::cat(&[part(0, shared)?, part(shared, 1)?, part(shared + 1, 1)?], 0)?;
    Ok(blocks.reshape(rows.shape())?)
}
