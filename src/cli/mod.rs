//! The command line: subcommands, flags and exit codes.

pub mod exit;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::engine::load::DeviceChoice;
use crate::meter::recompute::Method;
use crate::units::Seconds;

/// Energy-per-token sweeps over language models: measure, analyse, draw and report.
///
/// `ept-sweep experiments/kd.yaml` measures every cell of a sweep and writes results, figures and a report to
/// `reports/<name>`. Data goes to standard output, progress and messages to standard error.
#[derive(Debug, Parser)]
#[command(name = "ept-sweep", version, arg_required_else_help = true)]
#[command(override_usage = "ept-sweep SWEEP.yaml [OPTIONS]\n       ept-sweep <COMMAND>")]
#[command(after_help = "Exit codes:\n  0    done\n  1    failed while running\n  2    the input must be corrected\n  \
                        3    finished, but some trials failed\n  130  interrupted; finished work is kept")]
pub struct Cli {
    /// A sweep file in place of a subcommand means `run`
    #[command(subcommand)]
    pub command: Command,

    /// Print only errors on standard error
    #[arg(long, short, global = true)]
    pub quiet: bool,
}

impl Cli {
    /// Reads the command line; a sweep file in place of a subcommand means `run`.
    ///
    /// # Errors
    /// Everything that clap reports, help and version included.
    pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let mut arguments: Vec<OsString> = arguments.into_iter().collect();
        let word = arguments.iter().skip(1).position(|argument| !argument.as_encoded_bytes().starts_with(b"-"));
        if let Some(at) = word.map(|at| at + 1).filter(|at| is_file_name(&arguments[*at])) {
            arguments.insert(at, "run".into());
        }
        Self::try_parse_from(arguments)
    }
}

/// A word that can't be a subcommand: it names a file.
fn is_file_name(word: &OsStr) -> bool {
    let path = Path::new(word);
    path.components().count() > 1 || path.extension().is_some() || path.is_file()
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Measure a sweep, continuing where an earlier start stopped, and write its report
    Run(RunArgs),
    /// Show the cells of a sweep with their tokens, memory and time, and find mistakes before measuring
    Plan(PlanArgs),
    /// Regenerate the results, figures and report of a run from its stored records
    Report(ReportArgs),
    /// Compare two models of one run, or two runs
    Diff(DiffArgs),
    /// Measure one model on one prompt list and write EPT-Bench's JSON record
    Bench(BenchArgs),
    /// Show the energy sources of this machine and how well they work
    Meter(MeterArgs),
    /// Show everything behind one cell's number
    Explain(ExplainArgs),
    /// Recompute the energies of a run from its raw samples, by any method and over any part of the windows
    Recompute(RecomputeArgs),
    /// Print shell completions
    Completions {
        /// Shell to print completions for
        shell: Shell,
    },
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The sweep file
    #[arg(value_name = "SWEEP.yaml")]
    pub sweep: PathBuf,

    /// Directory of the run [default: `reports/NAME`, after the name in the sweep file]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,

    /// Run only the cells whose id matches, such as `teacher.b8.*`
    #[arg(long, value_name = "GLOB")]
    pub only: Option<String>,

    /// Move an existing run aside and start over
    #[arg(long)]
    pub fresh: bool,

    /// Retry the trials that failed in an earlier start
    #[arg(long)]
    pub retry_failed: bool,

    #[command(flatten)]
    pub place: PlaceArgs,
}

/// Where models run.
#[derive(Debug, Args)]
pub struct PlaceArgs {
    /// Where models run: `auto`, `cpu`, `cuda` or `cuda:N`
    #[arg(long, default_value = "auto", value_name = "DEVICE", value_parser = parse_device)]
    pub device: DeviceChoice,

    /// Use no network: hub models come from the local cache
    #[arg(long)]
    pub offline: bool,
}

/// Arguments of `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// The sweep file
    #[arg(value_name = "SWEEP.yaml")]
    pub sweep: PathBuf,

    /// Show only the cells whose id matches
    #[arg(long, value_name = "GLOB")]
    pub only: Option<String>,

    /// Where models would run: `auto`, `cpu`, `cuda` or `cuda:N`
    #[arg(long, default_value = "auto", value_name = "DEVICE", value_parser = parse_device)]
    pub device: DeviceChoice,

    /// Show what fits in this time, such as `90s`, `25m` or `1h30m`, instead of the cells
    #[arg(long, value_name = "TIME", value_parser = parse_time, conflicts_with = "only")]
    pub budget: Option<Seconds>,
}

/// Arguments of `recompute`.
#[derive(Debug, Args)]
pub struct RecomputeArgs {
    /// Directory of the run; nothing is written into it
    #[arg(value_name = "DIR")]
    pub run: PathBuf,

    /// `counter`: the primary source; `power`: the second source, integrated; `ept-bench`: EPT-Bench's own sum
    #[arg(long, default_value = "counter", value_name = "METHOD", value_parser = parse_method)]
    pub method: Method,

    /// Leave out this many seconds at each end of every window
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds, conflicts_with_all = ["from", "to"])]
    pub trim: Option<f64>,

    /// Start this many seconds after the start of each window
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    pub from: Option<f64>,

    /// End this many seconds after the start of each window
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    pub to: Option<f64>,

    /// Recompute only the cells whose id matches, such as `teacher.b8.*`
    #[arg(long, value_name = "GLOB")]
    pub only: Option<String>,

    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,

    /// Also write the windows to a CSV file, which must be outside the run's directory
    #[arg(long, value_name = "FILE.csv")]
    pub out: Option<PathBuf>,
}

/// Arguments of `report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Directories of runs
    #[arg(value_name = "DIR", required = true)]
    pub runs: Vec<PathBuf>,
}

/// Arguments of `diff`.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// Directory of a run, to compare two of its models; or two directories, to compare the second with the first
    #[arg(value_name = "DIR", required = true, num_args = 1..=2)]
    pub runs: Vec<PathBuf>,

    /// Label of the model to compare against
    #[arg(long, value_name = "LABEL")]
    pub base: Option<String>,

    /// Label of the model to compare
    #[arg(long, value_name = "LABEL")]
    pub new: Option<String>,

    /// Relative difference below which two cells count as equivalent
    #[arg(long, value_name = "SHARE", default_value_t = 0.01, value_parser = parse_share)]
    pub floor: f64,

    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// How data is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A table for people.
    Text,
    /// JSON for programs.
    Json,
}

/// Arguments of `bench`: EPT-Bench's own flags.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Model to measure: a folder, a .gguf file, or a hub id (`owner/name`)
    #[arg(long)]
    pub model: String,

    /// PEFT LoRA adapter to merge into the model: a folder, or a hub id (`owner/name`)
    #[arg(long, value_name = "ADAPTER")]
    pub adapter: Option<String>,

    /// Text file with one prompt per line, or a .jsonl file in Dolly's schema
    #[arg(long, value_name = "FILE", required_unless_present = "use_dolly", conflicts_with = "use_dolly")]
    pub prompts: Option<PathBuf>,

    /// Draw prompts from databricks-dolly-15k
    #[arg(long)]
    pub use_dolly: bool,

    /// Number of prompts to draw from Dolly
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = parse_positive)]
    pub num_prompts: usize,

    /// Folder for Dolly's file; if the file is already there, no network is used
    #[arg(long, value_name = "DIR")]
    pub dolly_cache_dir: Option<PathBuf>,

    /// Largest number of new tokens per prompt
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = parse_positive)]
    pub max_new_tokens: usize,

    /// Prompts decoded together
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = parse_positive)]
    pub batch_size: usize,

    /// NVML indices of the GPUs whose energy counts [default: those that the model runs on]
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub gpu_indices: Option<Vec<u32>>,

    /// Data type to run in [default: as stored]
    #[arg(long, value_name = "DTYPE", value_parser = ["f32", "f16", "bf16"])]
    pub dtype: Option<String>,

    /// Meter: `auto`, `nvml`, `rapl` or `modelled`
    #[arg(long, default_value = "auto", value_name = "METER", value_parser = ["auto", "nvml", "rapl", "modelled"])]
    pub meter: String,

    /// JSON file to write
    #[arg(long, value_name = "FILE.json")]
    pub out: PathBuf,

    #[command(flatten)]
    pub place: PlaceArgs,
}

/// Arguments of `meter`.
#[derive(Debug, Args)]
pub struct MeterArgs {
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// Arguments of `explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Id of the cell, such as `student-kd.b8.n32`
    pub cell: String,

    /// Directory of the run [default: the only run in `reports/`]
    #[arg(long, value_name = "DIR")]
    pub run: Option<PathBuf>,
}

fn parse_device(text: &str) -> Result<DeviceChoice, String> {
    let index = |text: &str| text.parse().map_err(|_| format!("`{text}` isn't a GPU index"));
    match text {
        "auto" => Ok(DeviceChoice::Auto),
        "cpu" => Ok(DeviceChoice::Cpu),
        "cuda" => Ok(DeviceChoice::Cuda(0)),
        other => match other.strip_prefix("cuda:") {
            Some(number) => index(number).map(DeviceChoice::Cuda),
            None => Err("expected `auto`, `cpu`, `cuda` or `cuda:N`".to_owned()),
        },
    }
}

fn parse_method(text: &str) -> Result<Method, String> {
    Method::from_code(text).ok_or_else(|| "expected `counter`, `power` or `ept-bench`".to_owned())
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds.is_finite() && seconds >= 0.0 => Ok(seconds),
        _ => Err("expected a number of seconds, such as `0.5`".to_owned()),
    }
}

/// `90s`, `25m`, `1h30m`: whole numbers, each with its unit, the largest first.
fn parse_time(text: &str) -> Result<Seconds, String> {
    const UNITS: [(char, u32); 3] = [('h', 3600), ('m', 60), ('s', 1)];
    let bad = || "expected a duration such as `90s`, `25m` or `1h30m`".to_owned();
    let (mut total, mut rest) = (0.0, text);
    for (unit, seconds) in UNITS {
        let Some((count, after)) = rest.split_once(unit) else { continue };
        total += f64::from(count.parse::<u32>().map_err(|_| bad())?) * f64::from(seconds);
        rest = after;
    }
    if rest.is_empty() && total > 0.0 { Ok(Seconds(total)) } else { Err(bad()) }
}

fn parse_positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("expected a whole number above 0".to_owned()),
        Ok(number) => Ok(number),
    }
}

fn parse_share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..0.5).contains(&share) => Ok(share),
        _ => Err("expected a share of at least 0 and below 0.5, such as `0.01`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    fn read(words: &[&str]) -> Result<Cli, clap::Error> {
        Cli::read(words.iter().map(OsString::from))
    }

    #[test]
    fn a_sweep_file_alone_means_run() {
        for words in [&["ept-sweep", "-q", "kd.yaml", "--fresh"], &["ept-sweep", "run", "kd.yaml", "--fresh"]] {
            let Command::Run(run) = read(words).unwrap().command else { panic!("{words:?} isn't `run`") };
            assert!(run.fresh && run.sweep == Path::new("kd.yaml"));
        }
    }

    #[test]
    fn times_are_whole_numbers_with_units_the_largest_first() {
        for (text, seconds) in [("90s", 90.0), ("25m", 1500.0), ("2h", 7200.0), ("1h30m", 5400.0), ("1h2m3s", 3723.0)] {
            assert_eq!(parse_time(text), Ok(Seconds(seconds)), "{text}");
        }
        for text in ["", "25", "m", "0s", "-5m", "1.5h", "30m1h", "5m5", "5 m", "1d"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_misspelt_subcommand_is_not_taken_for_a_file() {
        let error = read(&["ept-sweep", "reprot"]).unwrap_err().to_string();
        assert!(error.contains("report"), "{error}");
    }
}
