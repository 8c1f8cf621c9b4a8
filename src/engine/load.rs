//! From a model's files to an engine.

use std::path::Path;

use candle_core::{DType, Device};

use super::config::{Config, RopeScaling};
use super::decoder::{Chosen, Decoder, Kernels, Place};
use super::device;
use super::dtype::{quantised_dtype, run_dtype, stated_dtype};
use super::generate::DecoderEngine;
#[cfg(feature = "cuda")]
use super::gpu;
use super::grouped::{self, GroupedConfig, GroupedEngine};
use super::identity::digests;
use super::interface::Engine;
use super::weights::{Adapter, DEVIATION, Dummy, Gguf, OnDevice, Safetensors, Source, Weights, config_json};
use super::workload::{bytes_per_step, workload};
use crate::error::{Error, Result};
use crate::record::{DummyDistribution, DummyWeights, ModelInfo, Padding};

pub(crate) use super::device::devices;
pub use super::device::{DeviceChoice, uuid};
pub use super::options::LoadOptions;
pub(crate) use super::summary::MemoryNeed;
pub use super::summary::ModelSummary;
pub(crate) use super::workload::products as product_dtype;

/// A model's config with its weights, checked against each other; nothing is loaded yet.
struct Opened {
    config: Config,
    weights: Weights,
}

impl Opened {
    fn new(path: &Path, options: &LoadOptions<'_>) -> Result<Self> {
        let mut adapter = options.adapter.map(Adapter::open).transpose()?;
        let (config, source) = match options.dummy {
            _ if is_gguf(path) => gguf(path)?,
            Some(numbers) => {
                let config = Config::read(path)?;
                let dtype = stated_dtype(path)?;
                let norms_add_one = config.norm.one_plus;
                (config, Source::Dummy(Dummy { numbers, dtype, norms_add_one, on_device: maker() }))
            }
            None => (Config::read(path)?, Source::Safetensors(Safetensors::open(path)?)),
        };
        if let Some(adapter) = &mut adapter {
            adapter.set_conv1d(config.names.transposed);
        }
        let weights = Weights::open(source, adapter, &config)?;
        Ok(Self { config, weights })
    }

    /// The data type to run in, with notes for the record.
    fn dtype(&self, options: &LoadOptions<'_>, on_cpu: bool) -> Result<(DType, Vec<String>)> {
        match self.weights.are_quantised() {
            true => Ok((quantised_dtype(options.dtype, &self.weights.stored_type())?, Vec::new())),
            false => run_dtype(options.dtype, self.weights.stored_dtype(), on_cpu),
        }
    }
}

/// What makes dummy weights on a device.
#[cfg(feature = "cuda")]
fn maker() -> Option<OnDevice> {
    Some(gpu::maker())
}

/// The same; this build has nothing that could.
#[cfg(not(feature = "cuda"))]
fn maker() -> Option<OnDevice> {
    None
}

/// Whether a model is a GGUF file and no folder.
fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"))
}

/// A GGUF file, and what its metadata say of the model.
fn gguf(path: &Path) -> Result<(Config, Source)> {
    let file = Gguf::open(path)?;
    let mut config = Config::from_json(path, &config_json(&file)?)?;
    if let Some(divisors) = file.rope_divisors()? {
        for rope in &mut config.ropes {
            if divisors.len() != rope.dims / 2 {
                let message =
                    format!("`rope_freqs.weight` has {} values, {} pairs are rotated", divisors.len(), rope.dims / 2);
                return Err(Error::input(message).at(path.display()));
            }
            rope.scaling = RopeScaling::Divisors(divisors.clone());
        }
    }
    Ok((config, Source::Gguf(Box::new(file))))
}

/// Reads what a model is from its config and the headers of its weights.
///
/// # Errors
/// A model that isn't supported, or files that are missing or damaged.
pub fn inspect(folder: &Path, options: &LoadOptions<'_>) -> Result<ModelSummary> {
    if let Some(grouped) = grouped_config(folder, options)? {
        return grouped::inspect(grouped, folder);
    }
    let Opened { config, weights } = Opened::new(folder, options)?;
    if weights.are_quantised() {
        quantised_dtype(options.dtype, &weights.stored_type())?;
    }
    options.more_devices.iter().try_for_each(|device| device.check())?;
    Ok(ModelSummary::of(&config, &weights))
}

/// Computes the digests of a model's files ahead of loading it: they are kept for the life of the process.
///
/// # Errors
/// As for [`inspect`], or a file can't be read.
pub(crate) fn hash(folder: &Path, options: &LoadOptions<'_>) -> Result<()> {
    let digested = match grouped_config(folder, options)? {
        Some(_) => digests(folder, Safetensors::open(folder)?.paths())?,
        None => digests(folder, Opened::new(folder, options)?.weights.paths())?,
    };
    drop(digested);
    Ok(())
}

/// Loads a model of the kind that runs in groups.
///
/// # Errors
/// A model that isn't supported, files that are missing or damaged, or a device that isn't there or is full.
pub fn load(folder: &Path, options: &LoadOptions<'_>, device: DeviceChoice) -> Result<Box<dyn Engine>> {
    match grouped_config(folder, options)? {
        Some(grouped) => Ok(Box::new(grouped::load(grouped, folder, options, device)?)),
        None => Ok(Box::new(load_decoder(folder, options, device, None)?)),
    }
}

/// The configuration of a model outside the decoder; `None` for one of the decoder's.
fn grouped_config(folder: &Path, options: &LoadOptions<'_>) -> Result<Option<GroupedConfig>> {
    if is_gguf(folder) {
        return Ok(None);
    }
    let Some(config) = GroupedConfig::read(folder)? else { return Ok(None) };
    let refused = match options {
        LoadOptions { adapter: Some(_), .. } => "an adapter",
        LoadOptions { dummy: Some(_), .. } => "dummy weights",
        LoadOptions { more_devices, .. } if !more_devices.is_empty() => "several devices",
        _ => return Ok(Some(config)),
    };
    Err(Error::input(format!("a model outside the decoder can't be run with {refused}")).at(folder.display()))
}

/// Loads a model whose prompts run in groups of equal length, with its own type.
///
/// # Errors
/// As for [`load`]; another model is an error.
pub fn load_grouped(folder: &Path, options: &LoadOptions<'_>, device: DeviceChoice) -> Result<GroupedEngine> {
    match grouped_config(folder, options)? {
        Some(grouped) => grouped::load(grouped, folder, options, device),
        None => Err(Error::input("the decoder runs it").at(folder.display())),
    }
}

/// Loads a model of the decoder, with its own type. `kernels` are chosen by device and data type if none are named.
///
/// # Errors
/// As for [`load`].
pub fn load_decoder(
    folder: &Path,
    options: &LoadOptions<'_>,
    device: DeviceChoice,
    kernels: Option<Kernels>,
) -> Result<DecoderEngine> {
    let opened = Opened::new(folder, options)?;
    let devices = open_devices(&opened.config, device, options)?;
    let (dtype, mut notes) = opened.dtype(options, devices.iter().any(Device::is_cpu))?;
    let Chosen { kernels, fallback } = match kernels {
        Some(kernels) => Chosen { kernels, fallback: Vec::new() },
        None => choose_kernels(&opened, options, &devices, dtype),
    };
    let place = |device: &Device| Place { kernels, device: device.clone(), dtype };
    let places: Vec<Place> = devices.iter().map(place).collect();
    let Opened { config, weights } = opened;
    // the disk reads ahead while tensors are cast and uploaded
    weights.read_ahead();
    notes.extend(weights.are_quantised().then(|| quantised_note(&weights.stored_type(), kernels)));
    notes.extend(weight_notes(&config, &weights, options));
    let info = ModelInfo {
        architecture: config.architecture.clone(),
        engine: "decoder".to_owned(),
        parameters: Some(weights.parameters()),
        weight_bytes: Some(bytes_per_step(&weights, dtype)),
        dtype: dtype.as_str().to_owned(),
        stored_dtype: Some(weights.stored_type()),
        device: devices.iter().map(device::name).collect::<Vec<_>>().join(", "),
        revision: options.revision.clone(),
        files: digests(folder, weights.paths())?,
        padding: Padding::Left,
        dummy: options.dummy.filter(|_| weights.are_dummy()),
        kernels: Some(kernels.used()),
        fallback,
        workload: Some(workload(&config, &weights, dtype, !devices.iter().any(Device::is_cpu))),
        launches_per_step: None,
        notes,
    };
    let engine = load_engine(config, &weights, &places, info)?;
    weights.check_all_merged()?;
    Ok(engine)
}

/// The operations that a whole model runs on: the same on all of its devices.
fn choose_kernels(opened: &Opened, options: &LoadOptions<'_>, devices: &[Device], dtype: DType) -> Chosen {
    let choose =
        |device: &Device| Kernels::choose(options.kernels, device, dtype, || gpu_obstacles(opened, devices, dtype));
    let mut all = devices.iter().map(choose);
    let stock = |fallback| Chosen { kernels: Kernels::Stock, fallback };
    let Some(first) = all.next() else { return stock(Vec::new()) };
    match all.all(|other| other.kernels == first.kernels) {
        true => first,
        false => stock(vec!["the layers are spread over devices of different kinds".to_owned()]),
    }
}

/// What of a model, or of the way it is run, the kernels for GPUs don't cover, and why.
#[cfg(feature = "cuda")]
fn gpu_obstacles(opened: &Opened, devices: &[Device], dtype: DType) -> Vec<String> {
    gpu::obstacles(&opened.config, &opened.weights, dtype, devices)
}

/// The same; this build has none.
#[cfg(not(feature = "cuda"))]
fn gpu_obstacles(_: &Opened, _: &[Device], _: DType) -> Vec<String> {
    vec!["this build has no kernels for GPUs".to_owned()]
}

/// Loads the weights for the kernels that the places name.
fn load_engine(config: Config, weights: &Weights, places: &[Place], info: ModelInfo) -> Result<DecoderEngine> {
    #[cfg(feature = "cuda")]
    if let [place @ Place { kernels: Kernels::Gpu, device, dtype }] = places {
        let model = gpu::Model::load(&config, weights, device, *dtype)?;
        let info = ModelInfo { launches_per_step: Some(model.launches_per_step()?), ..info };
        return Ok(DecoderEngine::on_gpu(config, model, place.clone(), info));
    }
    let decoder = Decoder::load(&config, weights, places)?;
    Ok(DecoderEngine::new(config, decoder, info))
}

/// Opens the devices that the layers are spread over.
fn open_devices(config: &Config, first: DeviceChoice, options: &LoadOptions<'_>) -> Result<Vec<Device>> {
    let choices = [&[first], options.more_devices.as_slice()].concat();
    if choices.len() > config.layers.len() {
        let message = format!("{} layers can't be spread over {} devices", config.layers.len(), choices.len());
        return Err(Error::input(message).with_hint("name fewer `devices`"));
    }
    choices.iter().map(|choice| choice.open()).collect()
}

/// How quantised matrices are multiplied.
fn quantised_note(stored: &str, kernels: Kernels) -> String {
    let products = match kernels {
        Kernels::Gpu => "take activations in f32, of more than 64 tokens at a time in f16",
        Kernels::Stock | Kernels::Cpu => "quantise activations to 8 bits",
    };
    format!("matrices stay in {stored}; their products {products}")
}

/// Notes for the record about the weights.
fn weight_notes(config: &Config, weights: &Weights, options: &LoadOptions<'_>) -> Vec<String> {
    let mut notes: Vec<String> = weights.adapter().map(adapter_note).into_iter().collect();
    notes.extend(output_note(config, weights));
    notes.extend(options.dummy.filter(|_| weights.are_dummy()).map(dummy_note));
    notes
}

fn dummy_note(dummy: DummyWeights) -> String {
    match dummy.distribution {
        DummyDistribution::Zeros => "dummy weights: all zero".to_owned(),
        random => format!("dummy weights: {}, standard deviation {DEVIATION} (seed {})", random.words(), dummy.seed),
    }
}

fn adapter_note(adapter: &Adapter) -> String {
    match adapter.base_model() {
        Some(base) => format!("{}; trained on `{base}`", adapter.describe()),
        None => adapter.describe(),
    }
}

/// A note for a model whose output layer isn't what the config says.
fn output_note(config: &Config, weights: &Weights) -> Option<String> {
    match (config.output.tied, weights.has_own_output()) {
        (true, true) => {
            Some("`lm_head.weight` differs from the embedding table and is used in spite of tying".to_owned())
        }
        (false, false) => Some("`lm_head.weight` is absent; the embedding table is used as in tied models".to_owned()),
        _ => None,
    }
}
