//! The arguments of the subcommands that measure, or look at what would be measured.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use super::values::{Format, parse_device, parse_dtype, parse_meter, parse_positive, parse_seconds, parse_time};
use crate::engine::load::DeviceChoice;
use crate::record::MeterChoice;
use crate::sweep::spec::Dtype;
use crate::units::Seconds;

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The sweep file
    #[arg(value_name = "SWEEP.yaml")]
    pub(crate) sweep: PathBuf,

    /// Directory of the run [default: `reports/NAME`, after the name in the sweep file]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,

    /// Run only the cells whose id matches, such as `teacher.b8.*`
    #[arg(long, value_name = "GLOB")]
    pub(crate) only: Option<String>,

    /// Move an existing run aside and start over
    #[arg(long)]
    pub(crate) fresh: bool,

    /// Retry the trials that failed in an earlier start
    #[arg(long)]
    pub(crate) retry_failed: bool,

    #[command(flatten)]
    pub(crate) place: PlaceArgs,
}

/// Where models run.
#[derive(Debug, Args)]
pub(crate) struct PlaceArgs {
    /// Where models run: `auto`, `cpu`, `cuda` or `cuda:N`
    #[arg(long, default_value = "auto", value_name = "DEVICE", value_parser = parse_device)]
    pub(crate) device: DeviceChoice,

    /// Use no network: hub models come from the local cache
    #[arg(long)]
    pub(crate) offline: bool,
}

/// Arguments of `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// The sweep file
    #[arg(value_name = "SWEEP.yaml")]
    pub(crate) sweep: PathBuf,

    /// Show only the cells whose id matches
    #[arg(long, value_name = "GLOB")]
    pub(crate) only: Option<String>,

    /// Where models would run: `auto`, `cpu`, `cuda` or `cuda:N`
    #[arg(long, default_value = "auto", value_name = "DEVICE", value_parser = parse_device)]
    pub(crate) device: DeviceChoice,

    /// Show what fits in this time, such as `90s`, `25m` or `1h30m`, instead of the cells
    #[arg(long, value_name = "TIME", value_parser = parse_time, conflicts_with = "only")]
    pub(crate) budget: Option<Seconds>,
}

/// Arguments of `bench`: EPT-Bench's own flags.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Model to measure: a folder, a .gguf file, or a hub id (`owner/name`)
    #[arg(long)]
    pub(crate) model: String,

    /// PEFT LoRA adapter to merge into the model: a folder, or a hub id (`owner/name`)
    #[arg(long, value_name = "ADAPTER")]
    pub(crate) adapter: Option<String>,

    /// Text file with one prompt per line, or a .jsonl file in Dolly's schema
    #[arg(long, value_name = "FILE", required_unless_present = "use_dolly", conflicts_with = "use_dolly")]
    pub(crate) prompts: Option<PathBuf>,

    /// Draw prompts from databricks-dolly-15k
    #[arg(long)]
    pub(crate) use_dolly: bool,

    /// Number of prompts to draw from Dolly
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = parse_positive)]
    pub(crate) num_prompts: usize,

    /// Folder for Dolly's file; if the file is already there, no network is used
    #[arg(long, value_name = "DIR")]
    pub(crate) dolly_cache_dir: Option<PathBuf>,

    /// Largest number of new tokens per prompt
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = parse_positive)]
    pub(crate) max_new_tokens: usize,

    /// Prompts decoded together
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = parse_positive)]
    pub(crate) batch_size: usize,

    /// NVML indices of the GPUs whose energy counts [default: those that the model runs on]
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub(crate) gpu_indices: Option<Vec<u32>>,

    /// Data type to run in: `f32`, `f16` or `bf16` [default: as stored]
    #[arg(long, value_name = "DTYPE", value_parser = parse_dtype)]
    pub(crate) dtype: Option<Dtype>,

    /// Meter: `auto`, `nvml`, `rapl` or `modelled`
    #[arg(long, default_value = "auto", value_name = "METER", value_parser = parse_meter)]
    pub(crate) meter: MeterChoice,

    /// JSON file to write
    #[arg(long, value_name = "FILE.json")]
    pub(crate) out: PathBuf,

    #[command(flatten)]
    pub(crate) place: PlaceArgs,
}

/// Arguments of `calibrate`.
#[derive(Debug, Args)]
pub struct CalibrateArgs {
    /// The device: `auto`, `cpu`, `cuda` or `cuda:N`
    #[arg(long, default_value = "auto", value_name = "DEVICE", value_parser = parse_device)]
    pub(crate) device: DeviceChoice,

    /// Data types of the products: `f32`, `f16` or `bf16` [default: `bf16` on a GPU, `f32` on the CPU]
    #[arg(long, value_delimiter = ',', value_name = "LIST", value_parser = parse_dtype)]
    pub(crate) dtype: Vec<Dtype>,

    /// Meter: `auto`, `nvml` or `rapl`
    #[arg(long, default_value = "auto", value_name = "METER", value_parser = parse_meter)]
    pub(crate) meter: MeterChoice,

    /// JSON file to write; `measure.calibration` in a sweep file reads it
    #[arg(long, value_name = "FILE.json")]
    pub(crate) out: Option<PathBuf>,
}

/// Arguments of `meter`.
#[derive(Debug, Args)]
#[command(
    override_usage = "ept-sweep meter [--format FORMAT]\n       ept-sweep meter [OPTIONS] -- COMMAND [ARGS]...",
    after_help = "With a command, the exit code is the command's own:\n  127  the command wasn't found\n  \
                  126  the command can't be executed\n  1, 2  it can't be measured, and wasn't started\n\
                  A command that a signal ends ends this program by the same signal. The command's output is \
                  untouched; the summary goes to standard error."
)]
pub struct MeterArgs {
    /// Output format of the list of sources
    #[arg(long, value_enum, default_value_t = Format::Text, conflicts_with = "command")]
    pub(crate) format: Format,

    /// Command to measure, with its arguments; without one, the energy sources of this machine are shown
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,

    /// JSON file for everything that was measured; `training` in a sweep file reads it
    #[arg(long, value_name = "FILE.json", requires = "command")]
    pub(crate) out: Option<PathBuf>,

    /// File or named pipe to which the command writes the name of each stage as it begins [default: a pipe whose path
    /// is in the command's environment variable `EPT_SWEEP_MARKS`]
    #[arg(long, value_name = "PATH", requires = "command")]
    pub(crate) marks: Option<PathBuf>,

    /// How long idle power is measured before the command; 0 for not at all [default: what the meter needs, 20 on a
    /// GPU]
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds, requires = "command")]
    pub(crate) idle: Option<f64>,

    /// Meter: `auto`, `nvml`, `rapl` or `modelled`
    #[arg(long, default_value = "auto", value_name = "METER", value_parser = parse_meter, requires = "command")]
    pub(crate) meter: MeterChoice,

    /// NVML indices of the GPUs whose energy counts [default: those in `CUDA_VISIBLE_DEVICES`, or all]
    #[arg(long, value_delimiter = ',', value_name = "LIST", requires = "command")]
    pub(crate) gpu_indices: Option<Vec<u32>>,

    /// Parquet file for the meter's raw readings
    #[arg(long, value_name = "FILE.parquet", requires = "command")]
    pub(crate) samples: Option<PathBuf>,
}
