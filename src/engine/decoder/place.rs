//! On what a model, or a part of it, runs.

use candle_core::{DType, Device};

use crate::record::{KernelsChoice, KernelsUsed};

/// The operations that a model runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernels {
    /// candle's own operations: any device, any data type.
    Stock,
    /// Kernels of this crate for f32 on the CPU.
    Cpu,
    /// Kernels of this crate for NVIDIA GPUs.
    Gpu,
}

/// The operations for a model, and why they aren't faster ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chosen {
    pub(crate) kernels: Kernels,
    /// What the faster ones don't cover; empty if there are none, or none are wanted.
    pub(crate) fallback: Vec<String>,
}

impl Kernels {
    /// The operations for a model on a device. `gpu_obstacles` says what of the model the kernels for GPUs don't cover.
    pub(crate) fn choose(
        choice: KernelsChoice,
        device: &Device,
        dtype: DType,
        gpu_obstacles: impl FnOnce() -> Vec<String>,
    ) -> Chosen {
        let stock = |fallback| Chosen { kernels: Kernels::Stock, fallback };
        match (choice, device) {
            (KernelsChoice::Plain, _) => stock(Vec::new()),
            (KernelsChoice::Auto, Device::Cpu) if dtype == DType::F32 => {
                Chosen { kernels: Kernels::Cpu, fallback: Vec::new() }
            }
            (KernelsChoice::Auto, Device::Cpu) => {
                stock(vec![format!("the CPU kernels run in f32, not in {}", dtype.as_str())])
            }
            (KernelsChoice::Auto, Device::Cuda(_)) => match gpu_obstacles() {
                obstacles if obstacles.is_empty() => Chosen { kernels: Kernels::Gpu, fallback: obstacles },
                obstacles => stock(obstacles),
            },
            (KernelsChoice::Auto, Device::Metal(_)) => stock(vec!["there are no kernels for Metal".to_owned()]),
        }
    }

    /// As records name them.
    pub(crate) fn used(self) -> KernelsUsed {
        match self {
            Kernels::Stock => KernelsUsed::Plain,
            Kernels::Cpu => KernelsUsed::Cpu,
            Kernels::Gpu => KernelsUsed::Gpu,
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
