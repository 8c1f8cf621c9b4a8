//! How a model is to be loaded.

use std::path::Path;

use super::device::DeviceChoice;
use crate::record::{DummyWeights, KernelsChoice};

/// How to load a model.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions<'a> {
    /// `f32`, `f16` or `bf16`; by default the type that the weights are stored in.
    pub dtype: Option<&'a str>,
    /// Revision of the source, to be recorded.
    pub revision: Option<String>,
    /// Further devices: the layers are spread over the first and these.
    pub more_devices: Vec<DeviceChoice>,
    /// Folder of a PEFT LoRA adapter to merge.
    pub adapter: Option<&'a Path>,
    /// Dummy weights in place of those of the folder, which then needs no more than `config.json`.
    pub dummy: Option<DummyWeights>,
    /// The operations to run on.
    pub kernels: KernelsChoice,
}
