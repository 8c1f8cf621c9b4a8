//! The weights of a model, from wherever they come: checked against the layout before anything is loaded, then handed
//! out one by one in the data type that the model runs in.

mod adapter;
mod dummy;
mod gguf;
pub(crate) mod matrices;
mod safetensors;

use std::collections::BTreeSet;
use std::path::Path;

use candle_core::quantized::QMatMul;
use candle_core::{DType, Device, Tensor};

use super::config::Config;
use super::layout::{Layout, TensorSpec};
use crate::error::{Error, Result};

pub(crate) use adapter::Adapter;
#[cfg(feature = "cuda")]
pub(crate) use dummy::Numbers;
pub(crate) use dummy::{DEVIATION, Dummy, OnDevice};
pub(crate) use gguf::{Gguf, config_json};
pub(crate) use safetensors::Safetensors;

/// The weights of a model and the layout that they follow.
pub(crate) struct Weights {
    source: Source,
    adapter: Option<Adapter>,
    layout: Layout,
    own_output: bool,
}

/// Where weights come from.
pub(crate) enum Source {
    /// Files of a folder.
    Safetensors(Safetensors),
    /// A GGUF file.
    Gguf(Box<Gguf>),
    /// Seeded random numbers.
    Dummy(Dummy),
}

impl Weights {
    /// Opens the weights of a model and checks that exactly the tensors of the config are there, in the right shapes.
    /// An adapter is merged into each tensor when it is loaded.
    ///
    /// # Errors
    /// A missing, an unexpected or a wrongly shaped tensor, or one of a type that isn't supported; the message names
    /// the file and the tensor.
    pub(super) fn open(source: Source, adapter: Option<Adapter>, config: &Config) -> Result<Self> {
        let layout = Layout::new(config, |name| source.has(name));
        let stored_output = source.check(config, &layout)?;
        if let Some(adapter) = &adapter {
            let tensors = layout.tensors(true);
            adapter.check_targets(&tensors.into_iter().map(|tensor| layout.full_name(tensor)).collect())?;
        }
        let unties =
            |adapter: &Adapter| adapter.unties(&layout.full_name(&layout.embedding), &layout.output.weight.name);
        let own_output = stored_output || adapter.as_ref().is_some_and(unties);
        Ok(Self { source, adapter, layout, own_output })
    }

    /// Names and shapes.
    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Whether the output layer has weights of its own. A stored copy of the embedding table doesn't count if the
    /// config ties the two, as in transformers 5.
    pub(crate) fn has_own_output(&self) -> bool {
        self.own_output
    }

    /// Number of parameters; the output layer counts if it has weights of its own.
    pub(super) fn parameters(&self) -> u64 {
        self.layout.tensors(self.own_output).into_iter().map(TensorSpec::elements).sum()
    }

    /// The files, in the order of reading.
    pub(crate) fn paths(&self) -> Vec<&Path> {
        let mut paths: Vec<&Path> = match &self.source {
            Source::Safetensors(files) => files.paths().collect(),
            Source::Gguf(file) => vec![file.path()],
            Source::Dummy(_) => Vec::new(),
        };
        paths.extend(self.adapter.iter().flat_map(Adapter::files));
        paths
    }

    /// Bytes of all tensors on disk.
    pub(crate) fn stored_bytes(&self) -> u64 {
        match &self.source {
            Source::Safetensors(files) => files.stored_bytes(),
            Source::Gguf(file) => file.stored_bytes(),
            Source::Dummy(_) => 0,
        }
    }

    /// The data type that the weights ask to run in: the one that most of them are stored in, f32 for quantised ones;
    /// for dummy weights the one that `config.json` names.
    pub(super) fn stored_dtype(&self) -> DType {
        match &self.source {
            Source::Safetensors(files) => files.stored_dtype(),
            Source::Gguf(file) => match file.stored_dtype() {
                "F16" => DType::F16,
                "BF16" => DType::BF16,
                _ => DType::F32,
            },
            Source::Dummy(dummy) => dummy.dtype,
        }
    }

    /// The type that most of the weights are stored in, as records name it.
    pub(crate) fn stored_type(&self) -> String {
        match &self.source {
            Source::Gguf(file) => file.stored_dtype().to_lowercase(),
            Source::Safetensors(_) | Source::Dummy(_) => self.stored_dtype().as_str().to_owned(),
        }
    }

    /// Whether matrices stay quantised in memory.
    pub(crate) fn are_quantised(&self) -> bool {
        matches!(&self.source, Source::Gguf(file) if !matches!(file.stored_dtype(), "F32" | "F16" | "BF16"))
    }

    /// Bytes of a tensor as it is stored.
    pub(crate) fn stored_bytes_of(&self, tensor: &TensorSpec) -> u64 {
        let plain = || tensor.elements() * self.stored_dtype().size_in_bytes() as u64;
        match &self.source {
            Source::Gguf(file) => file
                .dtype(&tensor.name)
                .map_or_else(|_| plain(), |dtype| tensor.elements() / dtype.elements() as u64 * dtype.bytes() as u64),
            Source::Safetensors(_) | Source::Dummy(_) => plain(),
        }
    }

    /// Whether the weights are dummies.
    pub(crate) fn are_dummy(&self) -> bool {
        matches!(self.source, Source::Dummy(_))
    }

    /// The adapter that is merged into them.
    pub(crate) fn adapter(&self) -> Option<&Adapter> {
        self.adapter.as_ref()
    }

    /// Loads a tensor, merges the adapter into it, and casts it.
    ///
    /// # Errors
    /// The tensor can't be read, the adapter doesn't fit it, or the device is full.
    pub(super) fn load(&self, tensor: &TensorSpec, dtype: DType, device: &Device) -> Result<Tensor> {
        match &self.adapter {
            Some(adapter) if self.is_changed(adapter, tensor) => {
                let base = self.load_base(tensor, DType::F32, device)?;
                Ok(adapter.merge(&self.layout.full_name(tensor), base)?.to_dtype(dtype)?)
            }
            _ => self.load_base(tensor, dtype, device),
        }
    }

    /// Matrices stacked row over row, as they are stored; `None` unless all of them are quantised in the same type and
    /// no adapter changes them.
    ///
    /// # Errors
    /// As for [`Weights::load`].
    pub(crate) fn load_quantised(&self, tensors: &[&TensorSpec], device: &Device) -> Result<Option<QMatMul>> {
        let Source::Gguf(file) = &self.source else { return Ok(None) };
        for tensor in tensors {
            if file.dtype(&tensor.name)?.is_plain()
                || self.adapter.as_ref().is_some_and(|adapter| self.is_changed(adapter, tensor))
            {
                return Ok(None);
            }
        }
        let names: Vec<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        file.load_stacked_matmul(&names, device)
    }

    /// Asks the system to read the files ahead, so that the disk works while tensors are cast and uploaded.
    pub(crate) fn read_ahead(&self) {
        for path in self.paths() {
            read_ahead(path);
        }
    }

    /// Refuses an adapter of which something was left over once every tensor is loaded.
    ///
    /// # Errors
    /// As said, with the first names.
    pub(crate) fn check_all_merged(&self) -> Result<()> {
        self.adapter.as_ref().map_or(Ok(()), Adapter::check_all_used)
    }

    /// An untied output layer begins as the embedding table, without what the adapter does to that.
    fn is_changed(&self, adapter: &Adapter, tensor: &TensorSpec) -> bool {
        adapter.touches(&self.layout.full_name(tensor))
            || (*tensor == self.layout.output.weight && !self.source.has(&tensor.name))
    }

    fn load_base(&self, tensor: &TensorSpec, dtype: DType, device: &Device) -> Result<Tensor> {
        let is_copied = *tensor == self.layout.output.weight && !self.source.has(&tensor.name);
        match &self.source {
            Source::Dummy(dummy) => dummy.load(tensor, dtype, device),
            source => {
                let name = if is_copied { &self.layout.embedding.name } else { &tensor.name };
                match source {
                    Source::Gguf(file) => file.load(name, dtype, device),
                    Source::Safetensors(files) => files.load(name, dtype, device),
                    Source::Dummy(dummy) => dummy.load(tensor, dtype, device),
                }
            }
        }
    }
}

impl Source {
    fn has(&self, name: &str) -> bool {
        match self {
            Source::Safetensors(files) => files.has(name),
            Source::Gguf(file) => file.contains(name),
            // dummy tensors have the names that come first
            Source::Dummy(_) => false,
        }
    }

    fn shape(&self, name: &str) -> Result<Vec<usize>> {
        match self {
            Source::Safetensors(files) => Ok(files.shape(name)?.to_vec()),
            Source::Gguf(file) => file.shape(name),
            Source::Dummy(_) => Err(Error::new(format!("dummy tensor `{name}` has no file"))),
        }
    }

    fn names(&self) -> Vec<&str> {
        match self {
            Source::Safetensors(files) => files.tensors().map(|(name, _)| name).collect(),
            Source::Gguf(file) => file.names().collect(),
            Source::Dummy(_) => Vec::new(),
        }
    }

    fn error(&self, name: &str, message: String) -> Error {
        match self {
            Source::Safetensors(files) => files.error(name, message),
            Source::Gguf(file) => Error::input(message).at(format!("{}: tensor `{name}`", file.path().display())),
            Source::Dummy(_) => Error::input(message),
        }
    }

    /// Checks names and shapes and gives whether the output layer has weights of its own.
    fn check(&self, config: &Config, layout: &Layout) -> Result<bool> {
        let output = &layout.output.weight.name;
        match self {
            Source::Dummy(_) => Ok(!config.output.tied),
            Source::Gguf(file) => {
                self.check_stored(config, layout)?;
                Ok(file.contains(output))
            }
            Source::Safetensors(files) => {
                self.check_stored(config, layout)?;
                let is_copy = || files.same_data(output, &layout.embedding.name);
                Ok(files.has(output) && (!config.output.tied || !is_copy()?))
            }
        }
    }

    fn check_stored(&self, config: &Config, layout: &Layout) -> Result<()> {
        let expected = layout.tensors(self.has(&layout.output.weight.name));
        for tensor in &expected {
            let shape = self.shape(&tensor.name)?;
            if shape != tensor.shape {
                let message = format!("has shape {shape:?}, `config.json` asks for {:?}", tensor.shape);
                return Err(self.error(&tensor.name, message));
            }
        }
        let expected: BTreeSet<&str> = expected.iter().map(|tensor| tensor.name.as_str()).collect();
        let unexpected = |name: &&&str| !expected.contains(**name);
        match self.names().iter().find(unexpected) {
            None => Ok(()),
            Some(name) => {
                let message = format!("isn't part of `{}` as `config.json` describes it", config.architecture);
                let hint = "an adapter is named with `adapter:`; a bias has to be stated in `config.json`";
                Err(self.error(name, message).with_hint(hint))
            }
        }
    }
}

/// Only a hint to the system: without it, pages are read as they are touched.
#[cfg(target_os = "linux")]
fn read_ahead(path: &Path) {
    use std::os::fd::AsRawFd;
    let Ok(file) = std::fs::File::open(path) else { return };
    std::thread::spawn(move || {
        // SAFETY: a plain system call on an open file, which lives until it returns.
        unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_WILLNEED) }
    });
}

#[cfg(not(target_os = "linux"))]
fn read_ahead(_: &Path) {}

impl TensorSpec {
    /// Number of values.
    pub(crate) fn elements(&self) -> u64 {
        self.shape.iter().map(|size| *size as u64).product()
    }
}
