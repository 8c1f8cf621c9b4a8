//! From a model's files to an engine.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device};

use super::Engine;
use super::config::{Config, RopeScaling, read_object};
use super::decoder::{Decoder, Kernels, Place};
use super::device;
use super::generate::DecoderEngine;
use super::grouped::{self, GroupedEngine};
use super::layout::TensorSpec;
use super::weights::{Adapter, Dummy, Gguf, Safetensors, Source, Weights, config_json};
use crate::digest::sha256_file_once;
use crate::error::{Error, Result};
use crate::record::{ModelInfo, Padding};
use crate::text::GgufTokenizer;

pub use super::device::{DeviceChoice, devices, uuid};
pub use super::summary::{MemoryNeed, ModelSummary};

/// Files beside the weights whose digests are recorded.
const FILES: [&str; 6] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "model.safetensors.index.json",
];

/// How to load a model.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions<'a> {
    /// `f32`, `f16` or `bf16`; by default what the weights are stored in.
    pub dtype: Option<&'a str>,
    /// Revision of the source, to be recorded.
    pub revision: Option<String>,
    /// Further devices: the layers are spread over the first and these.
    pub more_devices: Vec<DeviceChoice>,
    /// Folder of a PEFT LoRA adapter to merge.
    pub adapter: Option<&'a Path>,
    /// Seed of made-up weights, in place of those of the folder, which then needs no more than `config.json`.
    pub dummy: Option<u64>,
}

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
            Some(seed) => {
                let config = Config::read(path)?;
                let dtype = stated_dtype(path)?;
                let norms_add_one = config.norm.one_plus;
                (config, Source::Dummy(Dummy { seed, dtype, norms_add_one }))
            }
            None => (Config::read(path)?, Source::Safetensors(Safetensors::open(path)?)),
        };
        if let Some(adapter) = &mut adapter {
            adapter.set_conv1d(config.names.transposed);
        }
        let weights = Weights::open(source, adapter, &config)?;
        Ok(Self { config, weights })
    }
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

/// What a GGUF file says about its tokenizer.
///
/// # Errors
/// The file is damaged or holds no tokenizer.
pub fn gguf_tokenizer(path: &Path) -> Result<GgufTokenizer> {
    Gguf::open(path)?.tokenizer()
}

/// Reads what a model is from its config and the headers of its weights.
///
/// # Errors
/// A model that isn't served, or files that are missing or damaged.
pub fn inspect(folder: &Path, options: &LoadOptions<'_>) -> Result<ModelSummary> {
    if let Some(card) = grouped_card(folder, options)? {
        return grouped::inspect(card, folder);
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
pub fn hash(folder: &Path, options: &LoadOptions<'_>) -> Result<()> {
    let digested = match grouped_card(folder, options)? {
        Some(_) => digests(folder, Safetensors::open(folder)?.paths())?,
        None => digests(folder, Opened::new(folder, options)?.weights.paths())?,
    };
    drop(digested);
    Ok(())
}

/// Loads a model.
///
/// # Errors
/// A model that isn't served, files that are missing or damaged, or a device that isn't there or is full.
pub fn load(folder: &Path, options: &LoadOptions<'_>, device: DeviceChoice) -> Result<Box<dyn Engine>> {
    match grouped_card(folder, options)? {
        Some(card) => Ok(Box::new(grouped::load(card, folder, options, device)?)),
        None => Ok(Box::new(load_decoder(folder, options, device, None)?)),
    }
}

/// What is known of a model outside the decoder; `None` for one of the decoder's.
fn grouped_card(folder: &Path, options: &LoadOptions<'_>) -> Result<Option<grouped::Card>> {
    if is_gguf(folder) {
        return Ok(None);
    }
    let Some(card) = grouped::Card::read(folder)? else { return Ok(None) };
    let refused = match options {
        LoadOptions { adapter: Some(_), .. } => "an adapter",
        LoadOptions { dummy: Some(_), .. } => "dummy weights",
        LoadOptions { more_devices, .. } if !more_devices.is_empty() => "several devices",
        _ => return Ok(Some(card)),
    };
    Err(Error::input(format!("a model outside the decoder can't be run with {refused}")).at(folder.display()))
}

/// Loads a model whose prompts run in groups of equal length, as what it is.
///
/// # Errors
/// As for [`load`]; another model is an error.
pub fn load_grouped(folder: &Path, options: &LoadOptions<'_>, device: DeviceChoice) -> Result<GroupedEngine> {
    match grouped_card(folder, options)? {
        Some(card) => grouped::load(card, folder, options, device),
        None => Err(Error::input("the decoder runs it").at(folder.display())),
    }
}

/// Loads a model as what it is. `kernels` are chosen by device and data type where none are named.
///
/// # Errors
/// As for [`load`].
pub fn load_decoder(
    folder: &Path,
    options: &LoadOptions<'_>,
    device: DeviceChoice,
    kernels: Option<Kernels>,
) -> Result<DecoderEngine> {
    let Opened { config, weights } = Opened::new(folder, options)?;
    let choices = [&[device], options.more_devices.as_slice()].concat();
    if choices.len() > config.layers.len() {
        let message = format!("{} layers can't be spread over {} devices", config.layers.len(), choices.len());
        return Err(Error::input(message).hint("name fewer `devices`"));
    }
    let devices = choices.iter().map(|choice| choice.open()).collect::<Result<Vec<_>>>()?;
    let on_cpu = devices.iter().any(Device::is_cpu);
    let (dtype, mut notes) = match weights.are_quantised() {
        true => quantised_dtype(options.dtype, &weights.stored_type())?,
        false => run_dtype(options.dtype, weights.stored_dtype(), on_cpu)?,
    };
    let place = |device: &Device| {
        let kernels = kernels.unwrap_or(Kernels::for_run(device, dtype));
        Place { kernels, device: device.clone(), dtype }
    };
    let places: Vec<Place> = devices.iter().map(place).collect();
    weights.read_ahead();
    let decoder = Decoder::load(&config, &weights, &places)?;
    weights.check_all_merged()?;
    notes.extend(weights.adapter().map(adapter_note));
    notes.extend(output_note(&config, &weights));
    if weights.are_dummy() {
        notes.push(format!("dummy weights: seeded random numbers (seed {})", options.dummy.unwrap_or_default()));
    }
    let info = ModelInfo {
        architecture: config.architecture.clone(),
        engine: "decoder".to_owned(),
        parameters: Some(weights.parameters()),
        weight_bytes: Some(bytes_per_step(&config, &weights, dtype)),
        dtype: dtype.as_str().to_owned(),
        stored_dtype: Some(weights.stored_type()),
        device: devices.iter().map(device::name).collect::<Vec<_>>().join(", "),
        revision: options.revision.clone(),
        files: digests(folder, weights.paths())?,
        padding: Padding::Left,
        notes,
    };
    Ok(DecoderEngine::new(config, decoder, info))
}

/// The data type that `config.json` names, for weights that aren't there.
fn stated_dtype(folder: &Path) -> Result<DType> {
    let json = read_object(&folder.join("config.json"))?;
    let stated = ["dtype", "torch_dtype"].iter().find_map(|field| json.get(*field)?.as_str());
    Ok(match stated {
        Some("float16") => DType::F16,
        Some("float32") => DType::F32,
        _ => DType::BF16,
    })
}

/// The data type to run in, and what a reader has to know about it.
pub(super) fn run_dtype(asked: Option<&str>, stored: DType, on_cpu: bool) -> Result<(DType, Vec<String>)> {
    let dtype = match asked {
        None => stored,
        Some("f32") => DType::F32,
        Some("f16") => DType::F16,
        Some("bf16") => DType::BF16,
        Some(other) => {
            return Err(Error::input(format!("`{other}` is no data type; served are `f32`, `f16` and `bf16`")));
        }
    };
    let note = |text: &str| vec![text.to_owned()];
    Ok(match (dtype, asked) {
        (DType::BF16, _) if on_cpu => (DType::F32, note("bf16 upcast to f32 on the CPU, which has no bf16 products")),
        (DType::F16, None) if on_cpu => (DType::F32, note("f16 upcast to f32 on the CPU, whose f16 products are slow")),
        (DType::F16, Some(_)) if on_cpu => {
            (dtype, note("f16 on the CPU runs many times slower than f32: don't compare it with other data types"))
        }
        _ => (dtype, Vec::new()),
    })
}

/// Quantised products take and give f32.
fn quantised_dtype(asked: Option<&str>, stored: &str) -> Result<(DType, Vec<String>)> {
    match asked {
        None | Some("f32") => {
            Ok((DType::F32, vec![format!("matrices stay in {stored}; their products quantise activations to 8 bits")]))
        }
        Some(other) => Err(Error::input(format!("weights in {stored} can't run in `{other}`"))
            .hint("leave `dtype` out: activations are f32")),
    }
}

fn adapter_note(adapter: &Adapter) -> String {
    match adapter.base_model() {
        Some(base) => format!("{}; trained on `{base}`", adapter.describe()),
        None => adapter.describe(),
    }
}

/// Says where the output layer isn't what the config says.
fn output_note(config: &Config, weights: &Weights) -> Option<String> {
    match (config.output.tied, weights.has_own_output()) {
        (true, true) => {
            Some("`lm_head.weight` differs from the embedding table and is used in spite of tying".to_owned())
        }
        (false, false) => Some("`lm_head.weight` is absent; the embedding table is used as in tied models".to_owned()),
        _ => None,
    }
}

/// Bytes of weights that each decoding step of one sequence reads: all but tables of which only a few rows are looked up
/// and experts that a token doesn't go through.
fn bytes_per_step(config: &Config, weights: &Weights, dtype: DType) -> u64 {
    let layout = weights.layout();
    let size = |tensor: &TensorSpec| match weights.are_quantised() {
        true => weights.stored_bytes_of(tensor),
        false => tensor.elements() * dtype.size_in_bytes() as u64,
    };
    let all: u64 = layout.tensors(weights.has_own_output()).into_iter().map(&size).sum();
    let looked_up = if weights.has_own_output() { size(&layout.embedding) } else { 0 };
    let positions = layout.positions.as_ref().map_or(0, &size);
    let idle_experts: u64 =
        config.layers.iter().zip(&layout.layers).map(|(_, layer)| layer.idle_expert_bytes(&size)).sum();
    all - looked_up - positions - idle_experts
}

/// Digests of the files that say what a model is, by name.
pub(super) fn digests<'a>(
    folder: &Path,
    weights: impl IntoIterator<Item = &'a Path>,
) -> Result<BTreeMap<String, String>> {
    let beside = FILES.iter().map(|name| folder.join(name)).filter(|path| path.is_file());
    let all = beside.chain(weights.into_iter().map(Path::to_owned));
    all.map(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok((name, sha256_file_once(&path)?))
    })
    .collect()
}
