//! On what a model, or a part of it, runs.

use candle_core::{DType, Device};

/// The operations that a model runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernels {
    /// candle's own operations: any device, any data type.
    Stock,
    /// Kernels of this crate for f32 on the CPU.
    Cpu,
}

impl Kernels {
    /// The fastest for a device and a data type.
    pub(crate) fn for_run(device: &Device, dtype: DType) -> Self {
        match device.is_cpu() && dtype == DType::F32 {
            true => Kernels::Cpu,
            false => Kernels::Stock,
        }
    }
}

/// On what, and in which type, a part of a model runs.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) device: Device,
    /// Data type of weights and activations.
    pub(crate) dtype: DType,
    pub(crate) kernels: Kernels,
}
