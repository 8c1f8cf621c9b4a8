//! From a model folder to an engine.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device};

use super::Engine;
use super::cache::Place;
use super::config::Config;
use super::decoder::Decoder;
use super::generate::DecoderEngine;
use super::grouped::{self, GroupedEngine};
use super::linear::Kernels;
use super::weights::Weights;
use crate::digest::sha256_file_once;
#[cfg(feature = "cuda")]
use crate::error::Context;
use crate::error::{Error, Result};
use crate::record::ModelInfo;

/// Files beside the weights whose digests are recorded.
const FILES: [&str; 6] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "model.safetensors.index.json",
];

/// Where a model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU where there is one and this build can use it, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA device with this index.
    Cuda(usize),
}

impl DeviceChoice {
    /// Whether that is a GPU on this machine.
    pub fn is_gpu(self) -> bool {
        match self {
            DeviceChoice::Auto => cuda_devices() > 0,
            DeviceChoice::Cpu => false,
            DeviceChoice::Cuda(_) => true,
        }
    }

    /// The CUDA ordinal of the GPU, where it is one.
    pub fn gpu_index(self) -> Option<usize> {
        match self {
            DeviceChoice::Auto if cuda_devices() > 0 => Some(0),
            DeviceChoice::Cuda(index) => Some(index),
            DeviceChoice::Auto | DeviceChoice::Cpu => None,
        }
    }

    /// Refuses what this build can't do, before anything else is tried.
    ///
    /// # Errors
    /// A GPU is asked for and CUDA isn't built in.
    pub fn check(self) -> Result<()> {
        match self {
            DeviceChoice::Cuda(index) if cfg!(not(feature = "cuda")) => {
                Err(Error::input(format!("this build can't use CUDA device {index}"))
                    .hint("build with `--features cuda`, or run on the CPU with `--device cpu`"))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn open(self) -> Result<Device> {
        self.check()?;
        match self {
            DeviceChoice::Auto if cuda_devices() > 0 => open_cuda(0),
            DeviceChoice::Auto | DeviceChoice::Cpu => Ok(Device::Cpu),
            DeviceChoice::Cuda(index) => open_cuda(index),
        }
    }
}

#[cfg(feature = "cuda")]
fn cuda_devices() -> usize {
    let count = candle_core::cuda_backend::cudarc::driver::CudaContext::device_count();
    count.map_or(0, |count| count.max(0) as usize)
}

#[cfg(not(feature = "cuda"))]
fn cuda_devices() -> usize {
    0
}

#[cfg(feature = "cuda")]
fn open_cuda(index: usize) -> Result<Device> {
    let device = Device::new_cuda(index).input_context(|| format!("can't use CUDA device {index}"))?;
    // SAFETY: one thread uses one stream, so that there is nothing for events to order.
    unsafe { device.as_cuda_device()?.disable_event_tracking() };
    Ok(device)
}

#[cfg(not(feature = "cuda"))]
fn open_cuda(index: usize) -> Result<Device> {
    Err(Error::new(format!("this build has no CUDA device {index}")))
}

/// How to load a model.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions<'a> {
    /// `f32`, `f16` or `bf16`; by default what the weights are stored in.
    pub dtype: Option<&'a str>,
    /// Revision of the source, to be recorded.
    pub revision: Option<String>,
}

/// What a model is, without loading it.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSummary {
    /// As `config.json` names it.
    pub architecture: String,
    /// Number of parameters.
    pub parameters: u64,
    /// Longest sequence, prompt and answer together; `usize::MAX` where there is no limit.
    pub max_positions: usize,
    /// Token ids are below this.
    pub vocab_size: usize,
    /// Layers that keep keys and values.
    pub layers: usize,
    /// Key and value heads of such a layer.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Data type that most of the weights are stored in.
    pub stored_dtype: String,
    /// The one data type that it can run in, where there is only one.
    pub only_dtype: Option<&'static str>,
    /// Bytes of the weights on disk.
    pub stored_bytes: u64,
}

impl ModelSummary {
    /// Bytes of the weights in memory.
    pub fn weight_bytes(&self, dtype: &str) -> u64 {
        self.parameters * size_of_dtype(dtype)
    }

    /// Bytes of the KV cache for `batch` sequences of `length` tokens.
    pub fn kv_bytes(&self, batch: usize, length: usize, dtype: &str) -> u64 {
        let per_token = 2 * self.layers * self.kv_heads * self.head_dim;
        batch as u64 * length as u64 * per_token as u64 * size_of_dtype(dtype)
    }

    /// Floating-point operations for one token, attention left out: two for each parameter.
    pub fn flops_per_token(&self) -> u64 {
        2 * self.parameters
    }
}

fn size_of_dtype(dtype: &str) -> u64 {
    match dtype {
        "f16" | "bf16" => 2,
        _ => 4,
    }
}

/// Reads what a model is from its config and the headers of its weights.
///
/// # Errors
/// A model that isn't served, or files that are missing or damaged.
pub fn inspect(folder: &Path) -> Result<ModelSummary> {
    if let Some(card) = grouped::Card::read(folder)? {
        return grouped::inspect(card, folder);
    }
    let config = Config::read(folder)?;
    let weights = Weights::open(folder)?;
    weights.check(&config)?;
    Ok(ModelSummary {
        parameters: weights.parameters(&config)?,
        stored_dtype: weights.stored_dtype().as_str().to_owned(),
        only_dtype: None,
        stored_bytes: weights.stored_bytes(),
        architecture: config.architecture,
        max_positions: config.max_positions,
        vocab_size: config.vocab_size,
        layers: config.layers,
        kv_heads: config.kv_heads,
        head_dim: config.head_dim,
    })
}

/// Loads a model.
///
/// # Errors
/// A model that isn't served, files that are missing or damaged, or a device that isn't there or is full.
pub fn load(folder: &Path, options: &LoadOptions<'_>, device: DeviceChoice) -> Result<Box<dyn Engine>> {
    match grouped::Card::read(folder)? {
        Some(card) => Ok(Box::new(grouped::load(card, folder, options, device)?)),
        None => Ok(Box::new(load_decoder(folder, options, device, None)?)),
    }
}

/// Loads a model whose prompts run in groups of equal length, as what it is.
///
/// # Errors
/// As for [`load`]; another model is an error.
pub fn load_grouped(folder: &Path, options: &LoadOptions<'_>, device: DeviceChoice) -> Result<GroupedEngine> {
    match grouped::Card::read(folder)? {
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
    let config = Config::read(folder)?;
    let weights = Weights::open(folder)?;
    weights.check(&config)?;
    let device = device.open()?;
    let (dtype, mut notes) = run_dtype(options.dtype, weights.stored_dtype(), &device)?;
    let place = Place { kernels: kernels.unwrap_or(Kernels::for_run(&device, dtype)), device, dtype };
    let decoder = Decoder::load(&config, &weights, &place)?;
    notes.extend(output_note(&config, &weights)?);
    let info = ModelInfo {
        architecture: config.architecture.clone(),
        engine: "decoder".to_owned(),
        parameters: Some(weights.parameters(&config)?),
        weight_bytes: Some(bytes_per_step(&config, &weights, dtype)?),
        dtype: dtype.as_str().to_owned(),
        stored_dtype: Some(weights.stored_dtype().as_str().to_owned()),
        device: device_name(&place.device),
        revision: options.revision.clone(),
        files: digests(folder, &weights)?,
        notes,
    };
    Ok(DecoderEngine::new(config, decoder, place, info))
}

/// The data type to run in, and what a reader has to know about it.
pub(super) fn run_dtype(asked: Option<&str>, stored: DType, device: &Device) -> Result<(DType, Vec<String>)> {
    let dtype = match asked {
        None => stored,
        Some("f32") => DType::F32,
        Some("f16") => DType::F16,
        Some("bf16") => DType::BF16,
        Some(other) => {
            return Err(Error::input(format!("`{other}` is no data type; served are `f32`, `f16` and `bf16`")));
        }
    };
    match dtype == DType::BF16 && device.is_cpu() {
        true => Ok((DType::F32, vec!["bf16 upcast to f32 on the CPU, which has no bf16 products".to_owned()])),
        false => Ok((dtype, Vec::new())),
    }
}

/// Says where the output layer isn't what the config says.
fn output_note(config: &Config, weights: &Weights) -> Result<Option<String>> {
    Ok(match (config.tied, weights.has_own_output(config)?) {
        (true, true) => {
            Some("`lm_head.weight` differs from the embedding table and is used in spite of tying".to_owned())
        }
        (false, false) => Some("`lm_head.weight` is absent; the embedding table is used as in tied models".to_owned()),
        _ => None,
    })
}

/// Bytes of weights that each decoding step reads: all but an embedding table of which only a few rows are looked up.
fn bytes_per_step(config: &Config, weights: &Weights, dtype: DType) -> Result<u64> {
    let looked_up = match weights.has_own_output(config)? {
        true => (config.vocab_size * config.hidden_size) as u64,
        false => 0,
    };
    Ok((weights.parameters(config)? - looked_up) * dtype.size_in_bytes() as u64)
}

pub(super) fn device_name(device: &Device) -> String {
    match device.location() {
        candle_core::DeviceLocation::Cpu => "cpu".to_owned(),
        candle_core::DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        candle_core::DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    }
}

pub(super) fn digests(folder: &Path, weights: &Weights) -> Result<BTreeMap<String, String>> {
    let beside = FILES.iter().map(|name| folder.join(name)).filter(|path| path.is_file());
    let all = beside.chain(weights.paths().map(Path::to_owned));
    all.map(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok((name, sha256_file_once(&path)?))
    })
    .collect()
}
