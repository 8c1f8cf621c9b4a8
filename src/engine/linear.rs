//! Linear layers, and the kernels that a model's operations run on.

use candle_core::{DType, Device, Module, Tensor};

use super::cpu::panels::Panels;
use crate::error::Result;

/// What the operations of a model run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernels {
    /// candle's own operations: any device, any data type.
    Stock,
    /// Kernels of this crate for f32 on the CPU.
    Cpu,
}

impl Kernels {
    /// The fastest for a device and a data type.
    pub fn for_run(device: &Device, dtype: DType) -> Self {
        match device.is_cpu() && dtype == DType::F32 {
            true => Kernels::Cpu,
            false => Kernels::Stock,
        }
    }
}

/// y = x · Wᵀ + b.
pub(super) struct Linear {
    weight: Weight,
    bias: Option<Tensor>,
}

enum Weight {
    /// `(n, k)`.
    Matrix(Tensor),
    /// The same for the kernels of the CPU.
    Panels(Panels),
}

impl Linear {
    /// A layer with weights `(n, k)` and a bias `(n)`.
    pub fn new(weight: Tensor, bias: Option<Tensor>, kernels: Kernels) -> Result<Self> {
        let weight = match kernels {
            Kernels::Stock => Weight::Matrix(weight),
            Kernels::Cpu => Weight::Panels(Panels::pack(&weight)?),
        };
        Ok(Self { weight, bias })
    }

    /// `(m, k)` to `(m, n)`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = match &self.weight {
            Weight::Matrix(matrix) => x.matmul(&matrix.t()?)?,
            Weight::Panels(panels) => panels.multiply(x)?,
        };
        match &self.bias {
            Some(bias) => Ok(y.broadcast_add(bias)?),
            None => Ok(y),
        }
    }

    /// The rows of W with these indices `(m)`: `(m, k)`. This is how an embedding table is read.
    pub fn rows(&self, indices: &Tensor) -> Result<Tensor> {
        match &self.weight {
            Weight::Matrix(matrix) => Ok(matrix.index_select(indices, 0)?),
            Weight::Panels(panels) => Ok(panels.select(indices)?),
        }
    }
}

/// RMSNorm (Zhang and Sennrich 2019): x / √(mean(x²) + ε) · weight.
pub(super) struct RmsNorm {
    weight: Tensor,
    eps: f32,
}

impl RmsNorm {
    /// A norm over the last dimension, as wide as `weight`.
    pub fn new(weight: Tensor, eps: f64) -> Self {
        Self { weight, eps: eps as f32 }
    }
}

impl Module for RmsNorm {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        candle_nn::ops::rms_norm(x, &self.weight, self.eps)
    }
}
