//! The arguments of the subcommands that read stored runs.

use std::path::PathBuf;

use clap::Args;

use super::values::{Format, parse_method, parse_seconds, parse_share};
use crate::meter::recompute::Method;
use crate::sweep::spec::DEFAULT_FLOOR;

/// Arguments of `recompute`.
#[derive(Debug, Args)]
pub struct RecomputeArgs {
    /// Directory of the run; nothing is written into it
    #[arg(value_name = "DIR")]
    pub(crate) run: PathBuf,

    /// `counter`: the primary source; `power`: the second source, integrated; `ept-bench`: EPT-Bench's own sum
    #[arg(long, default_value = "counter", value_name = "METHOD", value_parser = parse_method)]
    pub(crate) method: Method,

    /// Leave out this many seconds at each end of every window
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds, conflicts_with_all = ["from", "to"])]
    pub(crate) trim: Option<f64>,

    /// Start this many seconds after the start of each window
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    pub(crate) from: Option<f64>,

    /// End this many seconds after the start of each window
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    pub(crate) to: Option<f64>,

    /// Recompute only the cells whose id matches, such as `teacher.b8.*`
    #[arg(long, value_name = "GLOB")]
    pub(crate) only: Option<String>,

    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,

    /// Also write the windows to a CSV file, which must be outside the run's directory
    #[arg(long, value_name = "FILE.csv")]
    pub(crate) out: Option<PathBuf>,
}

/// Arguments of `report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Directories of runs
    #[arg(value_name = "DIR", required = true)]
    pub(crate) runs: Vec<PathBuf>,
}

/// Arguments of `diff`.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// Directory of a run, to compare two of its models; or two directories, to compare the second with the first
    #[arg(value_name = "DIR", required = true, num_args = 1..=2)]
    pub(crate) runs: Vec<PathBuf>,

    /// Label of the model to compare against
    #[arg(long, value_name = "LABEL")]
    pub(crate) base: Option<String>,

    /// Label of the model to compare
    #[arg(long, value_name = "LABEL")]
    pub(crate) new: Option<String>,

    /// Relative difference below which two cells count as equivalent
    #[arg(long, value_name = "SHARE", default_value_t = DEFAULT_FLOOR, value_parser = parse_share)]
    pub(crate) floor: f64,

    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

/// Arguments of `explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Id of the cell, such as `student-kd.b8.n32`
    pub(crate) cell: String,

    /// Directory of the run [default: the only run in `reports/`]
    #[arg(long, value_name = "DIR")]
    pub(crate) run: Option<PathBuf>,
}
