//! The weights of a model, from wherever they come: checked against the layout before anything is loaded, then handed out
//! one by one in the data type that the model runs in.

mod dummy;
mod safetensors;

use std::collections::BTreeSet;
use std::path::Path;

use std::sync::Arc;

use candle_core::quantized::QTensor;
use candle_core::{DType, Device, Tensor};

use super::config::Config;
use super::layout::{Layout, TensorSpec};
use crate::error::Result;

pub use dummy::Dummy;
pub use safetensors::Safetensors;

/// The weights of a model and the layout that they follow.
pub struct Weights {
    source: Source,
    layout: Layout,
    own_output: bool,
}

/// Where weights come from.
pub enum Source {
    /// Files of a folder.
    Safetensors(Safetensors),
    /// Seeded random numbers.
    Dummy(Dummy),
}

impl Weights {
    /// Opens the weights of a model and checks that exactly the tensors of the config are there, in the right shapes.
    ///
    /// # Errors
    /// A missing, an unexpected or a wrongly shaped tensor, or one of a type that isn't served; the message names the
    /// file and the tensor.
    pub fn open(source: Source, config: &Config) -> Result<Self> {
        let layout = Layout::new(config, |name| source.has(name));
        let own_output = source.check(config, &layout)?;
        Ok(Self { source, layout, own_output })
    }

    /// Names and shapes.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Whether the output layer has weights of its own. A stored copy of the embedding table doesn't count where the
    /// config ties the two, as in transformers 5.
    pub fn has_own_output(&self) -> bool {
        self.own_output
    }

    /// Number of parameters; the output layer counts where it has weights of its own.
    pub fn parameters(&self) -> u64 {
        self.layout.tensors(self.own_output).into_iter().map(TensorSpec::elements).sum()
    }

    /// The files, in the order of reading.
    pub fn paths(&self) -> Vec<&Path> {
        match &self.source {
            Source::Safetensors(files) => files.paths().collect(),
            Source::Dummy(_) => Vec::new(),
        }
    }

    /// Bytes of all tensors on disk.
    pub fn stored_bytes(&self) -> u64 {
        match &self.source {
            Source::Safetensors(files) => files.stored_bytes(),
            Source::Dummy(_) => 0,
        }
    }

    /// The data type that most of the weights are stored in; for dummy weights the one that `config.json` names.
    pub fn stored_dtype(&self) -> DType {
        match &self.source {
            Source::Safetensors(files) => files.stored_dtype(),
            Source::Dummy(dummy) => dummy.dtype,
        }
    }

    /// The type that most of the weights are stored in, as records name it.
    pub fn stored_type(&self) -> String {
        self.stored_dtype().as_str().to_owned()
    }

    /// Whether matrices stay quantised in memory.
    pub fn are_quantised(&self) -> bool {
        false
    }

    /// Bytes of a tensor as it is stored.
    pub fn stored_bytes_of(&self, tensor: &TensorSpec) -> u64 {
        tensor.elements() * self.stored_dtype().size_in_bytes() as u64
    }

    /// Whether the weights are made up.
    pub fn are_dummy(&self) -> bool {
        matches!(self.source, Source::Dummy(_))
    }

    /// Loads a tensor and casts it.
    ///
    /// # Errors
    /// The tensor can't be read, or the device is full.
    pub fn load(&self, tensor: &TensorSpec, dtype: DType, device: &Device) -> Result<Tensor> {
        match &self.source {
            Source::Safetensors(files) => files.load(&tensor.name, dtype, device),
            Source::Dummy(dummy) => dummy.load(tensor, dtype, device),
        }
    }
}

impl Weights {
    /// A matrix as it is stored, where it is stored quantised.
    ///
    /// # Errors
    /// As for [`Weights::load`].
    pub fn quantised(&self, _tensor: &TensorSpec, _device: &Device) -> Result<Option<Arc<QTensor>>> {
        Ok(None)
    }
}

impl Source {
    fn has(&self, name: &str) -> bool {
        match self {
            Source::Safetensors(files) => files.has(name),
            // Made-up tensors have the names that come first.
            Source::Dummy(_) => false,
        }
    }

    /// Checks names and shapes and gives whether the output layer has weights of its own.
    fn check(&self, config: &Config, layout: &Layout) -> Result<bool> {
        match self {
            Source::Safetensors(files) => check_files(files, config, layout),
            Source::Dummy(_) => Ok(!config.output.tied),
        }
    }
}

fn check_files(files: &Safetensors, config: &Config, layout: &Layout) -> Result<bool> {
    let has_output = files.has(&layout.output.weight.name);
    let expected = layout.tensors(has_output);
    for tensor in &expected {
        let shape = files.shape(&tensor.name)?;
        if shape != tensor.shape {
            let message = format!("has shape {shape:?}, `config.json` asks for {:?}", tensor.shape);
            return Err(files.error(&tensor.name, message));
        }
    }
    let expected: BTreeSet<&str> = expected.iter().map(|tensor| tensor.name.as_str()).collect();
    if let Some((name, _)) =
        files.tensors().find(|(name, _)| !expected.contains(name) && !Safetensors::is_recomputed(name))
    {
        let message = format!("isn't part of `{}` as `config.json` describes it", config.architecture);
        return Err(files
            .error(name, message)
            .hint("an adapter is named with `adapter:`; a bias has to be stated in `config.json`"));
    }
    Ok(has_output && (!config.output.tied || !files.same_data(&layout.output.weight.name, &layout.embedding.name)?))
}

impl TensorSpec {
    /// Number of values.
    pub fn elements(&self) -> u64 {
        self.shape.iter().map(|size| *size as u64).product()
    }
}
