//! From a model of the sweep file to a loaded one.

use std::path::PathBuf;

use super::codec::{Codec, RandomCodec};
use super::finder::Finder;
use super::location::Location;
use super::prompting::text_codec;
use crate::clock::{Clock, SimulatedDevice};
use crate::engine::Engine;
use crate::engine::load::{self, DeviceChoice, LoadOptions, ModelSummary};
use crate::engine::synthetic::Synthetic;
use crate::error::{Error, Result};
use crate::hub;
use crate::record::{DummyWeights, KernelsChoice};
use crate::sweep::spec::{Dtype, ModelSource, ModelSpec, PromptSpec};

/// Seed of dummy weights.
const DUMMY_SEED: u64 = 42;

/// An engine and its tokenizer.
pub(crate) struct Model {
    pub(crate) engine: Box<dyn Engine>,
    pub(crate) codec: Codec,
}

/// How models are found and where they run.
#[derive(Debug, Clone)]
pub(crate) struct Loader {
    /// Folder of the sweep file: relative sources start there.
    pub(crate) base: PathBuf,
    /// Where models run.
    pub(crate) device: DeviceChoice,
    finder: Finder,
    /// What the sweep file says about prompts; `None`: they go in as plain text.
    prompts: Option<PromptSpec>,
    /// The operations that models run on.
    kernels: KernelsChoice,
}

impl Loader {
    /// A loader for the sources of a file in the folder `base`; `watch` is notified of downloads from the hub.
    pub(crate) fn new(base: PathBuf, device: DeviceChoice, offline: bool, watch: hub::Watch) -> Self {
        Self { base, device, finder: Finder::new(offline, watch), prompts: None, kernels: KernelsChoice::Auto }
    }

    /// The same loader for models that are given prompts as the sweep file says.
    #[must_use]
    pub(crate) fn with_prompts(self, prompts: &PromptSpec) -> Self {
        Self { prompts: Some(prompts.clone()), ..self }
    }

    /// The same loader for models that run on these operations.
    #[must_use]
    pub(crate) fn with_kernels(self, kernels: KernelsChoice) -> Self {
        Self { kernels, ..self }
    }

    /// Whether a model comes from the hub.
    pub(crate) fn is_from_hub(&self, model: &ModelSpec) -> bool {
        matches!(&model.source, ModelSource::Name(name) if self.finder.is_from_hub(&self.base, name))
    }

    /// Finds a model's files; those of a hub id in the hub.
    ///
    /// # Errors
    /// The folder or file doesn't exist, or the hub can't give the model.
    pub(crate) fn locate(&self, model: &ModelSpec) -> Result<Location> {
        let ModelSource::Name(name) = &model.source else { return Ok(Location::Simulated) };
        let found = self.finder.find(&self.base, name, model.revision.as_deref());
        found.map_err(|error| error.at(format!("model `{}`", model.label)))
    }

    /// A model's summary, from its configuration and the headers of its weights; `None` for a simulated one.
    ///
    /// # Errors
    /// The model or its adapter can't be found or isn't supported.
    pub(crate) fn inspect(&self, model: &ModelSpec) -> Result<Option<ModelSummary>> {
        let at = |error: Error| error.at(format!("model `{}`", model.label));
        let location = self.locate(model)?;
        let Some((path, commit)) = location.files() else { return Ok(None) };
        self.with_options(model, commit, |options| load::inspect(path, options)).map(Some).map_err(at)
    }

    /// Computes the digests of a model's files, which are then known for the life of the process.
    ///
    /// # Errors
    /// As for [`Loader::inspect`], or a file can't be read.
    pub(crate) fn hash(&self, model: &ModelSpec) -> Result<()> {
        let at = |error: Error| error.at(format!("model `{}`", model.label));
        let location = self.locate(model)?;
        let Some((path, commit)) = location.files() else { return Ok(()) };
        self.with_options(model, commit, |options| load::hash(path, options)).map_err(at)
    }

    /// Does some work with what the sweep file says about loading a model: the options borrow the adapter's path.
    fn with_options<T>(
        &self,
        model: &ModelSpec,
        commit: Option<&str>,
        work: impl FnOnce(&LoadOptions<'_>) -> Result<T>,
    ) -> Result<T> {
        let adapter = model.adapter.as_deref().map(|adapter| self.adapter(adapter)).transpose()?;
        let devices = load::devices(self.device, model.devices.as_deref());
        work(&LoadOptions {
            dtype: model.dtype.map(Dtype::name),
            revision: commit.map(str::to_owned),
            more_devices: devices.into_iter().skip(1).collect(),
            adapter: adapter.as_deref(),
            dummy: model.weights.dummy().map(|distribution| DummyWeights { seed: DUMMY_SEED, distribution }),
            kernels: self.kernels,
        })
    }

    fn adapter(&self, source: &str) -> Result<PathBuf> {
        let found =
            self.finder.find(&self.base, source, None).map_err(|error| error.at(format!("adapter `{source}`")))?;
        match found {
            Location::Folder { path, .. } => Ok(path),
            Location::Gguf { .. } | Location::Simulated => {
                Err(Error::input(format!("adapter `{source}` isn't a folder or a repository")).with_hint(
                    "name what PEFT's `save_pretrained` writes: `adapter_config.json` and `adapter_model.safetensors`",
                ))
            }
        }
    }

    /// The first of the devices that a model runs on.
    pub(crate) fn first_device(&self, model: &ModelSpec) -> DeviceChoice {
        load::devices(self.device, model.devices.as_deref()).first().copied().unwrap_or(self.device)
    }

    /// Bytes that are free on the devices that a model runs on, if that is known.
    pub(crate) fn free_memory(&self, model: &ModelSpec) -> Option<u64> {
        load::devices(self.device, model.devices.as_deref()).into_iter().map(DeviceChoice::free_memory).sum()
    }

    /// The data type that a model will run in, given what its weights are stored in.
    pub(crate) fn dtype(&self, model: &ModelSpec, summary: Option<&ModelSummary>) -> String {
        let asked = model.dtype.map(Dtype::name);
        let only = summary.and_then(|summary| summary.only_dtype);
        let stored = summary.map(|summary| summary.stored_dtype.as_str());
        match asked.or(only).or(stored).unwrap_or("f32") {
            // the processor has no bf16 products and slow ones of f16: the engine runs such weights in f32
            "bf16" if !self.first_device(model).is_gpu() => "f32".to_owned(),
            "f16" if asked.is_none() && !self.first_device(model).is_gpu() => "f32".to_owned(),
            dtype => dtype.to_owned(),
        }
    }

    /// Loads a model for one block, without its tokenizer.
    ///
    /// # Errors
    /// Its files are missing, malformed or not supported, or it doesn't fit.
    pub(crate) fn engine(&self, model: &ModelSpec, clock: &Clock) -> Result<Box<dyn Engine>> {
        let at = |error: Error| error.at(format!("model `{}`", model.label));
        if let ModelSource::Synthetic(spec) = &model.source {
            return Ok(Box::new(Synthetic::new(spec.as_ref().clone(), device(clock)?).map_err(at)?));
        }
        let location = self.locate(model)?;
        let Some((path, commit)) = location.files() else {
            return Err(at(Error::new(format!("`{}` has no files", model.source.name()))));
        };
        let device = self.first_device(model);
        self.with_options(model, commit, |options| load::load(path, options, device)).map_err(at)
    }

    /// How a model's prompts and answers are turned into token ids and back.
    ///
    /// # Errors
    /// The model can't be found, or its tokenizer or chat template is missing or damaged.
    pub(crate) fn codec(&self, model: &ModelSpec) -> Result<Codec> {
        let at = |error: Error| error.at(format!("model `{}`", model.label));
        let location = self.locate(model)?;
        if location == Location::Simulated {
            return Ok(Codec::Words);
        }
        match self.prompts.as_ref().and_then(|prompts| prompts.random) {
            None => {
                let codec = |text| text_codec(self.prompts.as_ref(), &self.base, model, text);
                location.text().and_then(codec).map_err(at)
            }
            Some(random) => {
                let vocab_size = self.inspect(model)?.map_or(0, |summary| summary.vocab_size);
                let tokenizer = match location.has_tokenizer().map_err(at)? {
                    true => Some(location.text().map_err(at)?.tokenizer),
                    false => None,
                };
                Ok(Codec::Random(Box::new(RandomCodec { vocab_size, tokens: random.tokens, tokenizer })))
            }
        }
    }

    /// Loads a model for one block.
    ///
    /// # Errors
    /// As for [`Loader::engine`] and [`Loader::codec`].
    pub(crate) fn load(&self, model: &ModelSpec, clock: &Clock) -> Result<Model> {
        Ok(Model { engine: self.engine(model, clock)?, codec: self.codec(model)? })
    }
}

fn device(clock: &Clock) -> Result<SimulatedDevice> {
    match clock {
        Clock::Simulated(device) => Ok(device.clone()),
        Clock::Monotonic(_) => Err(Error::new("a simulated model needs the simulated clock")),
    }
}
