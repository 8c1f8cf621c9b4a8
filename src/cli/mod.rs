//! The command line: subcommands, flags and exit codes.

pub mod exit;
mod measuring;
mod reading;
mod values;

use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::{Parser, Subcommand};
use clap_complete::Shell;

pub(crate) use self::measuring::{BenchArgs, CalibrateArgs, MeterArgs, PlanArgs, RunArgs};
pub(crate) use self::reading::{DiffArgs, ExplainArgs, RecomputeArgs, ReportArgs};
pub(crate) use self::values::Format;

/// Energy-per-token sweeps over language models: measure, analyse, draw and report.
///
/// `ept-sweep experiments/kd.yaml` measures every cell of a sweep and writes results, figures and a report to
/// `reports/<name>`. Data goes to standard output, progress and messages to standard error.
#[derive(Debug, Parser)]
#[command(name = "ept-sweep", version, arg_required_else_help = true)]
#[command(override_usage = "ept-sweep SWEEP.yaml [OPTIONS]\n       ept-sweep <COMMAND>")]
#[command(after_help = "Exit codes:\n  0    done\n  1    failed while running\n  2    the input must be corrected\n  \
                        3    finished, but some trials failed\n  130  interrupted; finished work is kept\n\
                        `ept-sweep meter -- COMMAND` ends as the command ends")]
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
    /// Measure what reading memory and multiplying cost on a device, for the energy floor
    Calibrate(CalibrateArgs),
    /// Show the energy sources of this machine and how well they work, or measure a command
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

impl Command {
    /// It measures other people's work: the signals and the closed pipes of that work aren't this program's.
    pub fn runs_another(&self) -> bool {
        matches!(self, Command::Meter(arguments) if !arguments.command.is_empty())
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
    fn a_misspelt_subcommand_is_not_taken_for_a_file() {
        let error = read(&["ept-sweep", "reprot"]).unwrap_err().to_string();
        assert!(error.contains("report"), "{error}");
    }
}
