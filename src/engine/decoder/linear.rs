//! Linear layers.

use candle_core::quantized::QMatMul;
use candle_core::{DType, Module, Tensor};

use super::place::{Kernels, Place};
use crate::engine::config::{Attention, FusedOrder};
use crate::engine::cpu::panels::Panels;
use crate::engine::layout::{GateUpSpec, MatrixSpec, QkvSpec};
use crate::engine::weights::Weights;
use crate::engine::weights::matrices::Matrix;
use crate::error::{Error, Result};

/// y = x · Wᵀ + b.
pub(crate) struct Linear {
    weight: Weight,
    bias: Option<Tensor>,
}

enum Weight {
    /// `(n, k)`.
    Matrix(Tensor),
    /// The same for the kernels of the CPU.
    Panels(Panels),
    /// Quantised matrices whose outputs are put side by side.
    Quantised(Vec<QMatMul>),
}

impl Linear {
    /// A layer with weights `(n, k)` and a bias `(n)`.
    pub(super) fn new(weight: Tensor, bias: Option<Tensor>, kernels: Kernels) -> Result<Self> {
        let weight = match kernels {
            Kernels::Stock | Kernels::Gpu => Weight::Matrix(weight),
            Kernels::Cpu => Weight::Panels(Panels::pack(&weight)?),
        };
        Ok(Self { weight, bias })
    }

    /// Loads matrices with the same number of columns as one, row over row.
    pub(super) fn load(weights: &Weights, parts: &[&MatrixSpec], place: &Place) -> Result<Self> {
        if let Some(quantised) = quantised(weights, parts, place)? {
            return Ok(Self {
                weight: Weight::Quantised(quantised),
                bias: weights.load_bias(parts, place.dtype, &place.device)?,
            });
        }
        Self::from_matrix(weights.load_rows(parts, place.dtype, &place.device)?, place)
    }

    fn from_matrix(matrix: Matrix, place: &Place) -> Result<Self> {
        Self::new(matrix.weight, matrix.bias, place.kernels)
    }

    /// Loads the query, key and value projections as one: all queries, all keys, all values.
    pub(crate) fn load_qkv(weights: &Weights, qkv: &QkvSpec, attention: &Attention, place: &Place) -> Result<Self> {
        match qkv {
            QkvSpec::Apart(parts) => Self::load(weights, &parts.each_ref(), place),
            QkvSpec::Fused(part, FusedOrder::Blocks) => Self::load(weights, &[part], place),
            QkvSpec::Fused(_, FusedOrder::ByKeyHead) => {
                Self::from_matrix(weights.load_qkv(qkv, attention, place.dtype, &place.device)?, place)
            }
        }
    }

    /// Loads gate and up projection as one, the gate's rows first.
    pub(crate) fn load_gate_up(weights: &Weights, gate_up: &GateUpSpec, place: &Place) -> Result<Self> {
        Self::load(weights, &gate_up.parts(), place)
    }

    /// The rows of W with these indices `(m)`: `(m, k)`. This is how an embedding table is read.
    pub(super) fn rows(&self, indices: &Tensor) -> Result<Tensor> {
        match &self.weight {
            Weight::Matrix(matrix) => Ok(matrix.index_select(indices, 0)?),
            Weight::Panels(panels) => Ok(panels.select(indices)?),
            Weight::Quantised(_) => Err(Error::new("rows of a quantised matrix can't be looked up")),
        }
    }

    /// `(m, k)` to `(m, n)`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = match &self.weight {
            Weight::Matrix(matrix) => x.matmul(&matrix.t()?)?,
            Weight::Panels(panels) => panels.multiply(x)?,
            Weight::Quantised(matrices) => {
                // candle's quantised products take and give f32
                let dtype = x.dtype();
                let x = x.to_dtype(DType::F32)?;
                let parts =
                    matrices.iter().map(|matrix| matrix.forward(&x)).collect::<candle_core::Result<Vec<_>>>()?;
                side_by_side(parts)?.to_dtype(dtype)?
            }
        };
        match &self.bias {
            Some(bias) => Ok(y.broadcast_add(bias)?),
            None => Ok(y),
        }
    }
}

/// The matrices as they are stored, if all of them are quantised; stacked if they have the same type.
fn quantised(weights: &Weights, parts: &[&MatrixSpec], place: &Place) -> Result<Option<Vec<QMatMul>>> {
    let tensors: Vec<_> = parts.iter().map(|part| &part.weight).collect();
    if let Some(stacked) = weights.load_quantised(&tensors, &place.device)? {
        return Ok(Some(vec![stacked]));
    }
    let apart = tensors.iter().map(|tensor| weights.load_quantised(&[tensor], &place.device));
    Ok(apart.collect::<Result<Vec<_>>>()?.into_iter().collect())
}

fn side_by_side(mut parts: Vec<Tensor>) -> Result<Tensor> {
    match parts.len() {
        1 => Ok(parts.remove(0)),
        _ => Ok(Tensor::cat(&parts, 1)?),
    }
}
