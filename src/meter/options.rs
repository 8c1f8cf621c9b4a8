//! What a meter has to know about the work that it measures.

use super::process_tree::ProcessTree;
use crate::record::ModelCoefficients;

/// What a meter has to know about the work that it measures.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MeterOptions {
    /// The GPUs that the engine runs on: `auto` takes NVML only then, since the energy of an idle GPU isn't the
    /// model's. Empty: the engine runs on the processor.
    pub engine_gpus: Vec<EngineGpu>,
    /// NVML indices of the GPUs to charge; `None`: those that the engine runs on.
    pub gpu_indices: Option<Vec<u32>>,
    /// For the modelled meter.
    pub coefficients: ModelCoefficients,
    /// Leave out the processor's counters next to the GPUs.
    pub without_cpu: bool,
    /// The work is a command of its own, and not this process: nobody knows which device it uses, so `auto` takes the
    /// best meter of the machine, with all GPUs that `CUDA_VISIBLE_DEVICES` names.
    pub command: Option<ProcessTree>,
}

/// A GPU as CUDA names it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EngineGpu {
    /// CUDA's ordinal in this process.
    pub ordinal: usize,
    /// `GPU-…`, if CUDA reports it: the only name that NVML and CUDA share for certain.
    pub uuid: Option<String>,
}
