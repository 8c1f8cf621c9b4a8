//! One function for each subcommand, each of which reads as the pipeline.

mod bench;
mod budget;
mod calibrate;
mod diff;
mod explain;
mod meter;
mod plan;
mod recompute;
mod report;
mod run;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::CommandFactory;

use crate::cli::exit::Exit;
use crate::cli::{Cli, Command};
use crate::console::Console;
use crate::error::Result;

/// Carries out what the command line says.
///
/// # Errors
/// Whatever stopped the command.
pub fn dispatch(cli: Cli, console: &Console, stop: &Arc<AtomicBool>) -> Result<Exit> {
    match cli.command {
        Command::Run(arguments) => run::run(&arguments, console, stop),
        Command::Plan(arguments) => plan::plan(&arguments, console),
        Command::Report(arguments) => report::report(&arguments, console),
        Command::Recompute(arguments) => recompute::recompute(&arguments, console),
        Command::Diff(arguments) => diff::diff(&arguments),
        Command::Bench(arguments) => bench::bench(&arguments, console, stop),
        Command::Calibrate(arguments) => calibrate::calibrate(&arguments, console, stop),
        Command::Meter(arguments) => meter::meter(&arguments, console),
        Command::Explain(arguments) => explain::explain(&arguments),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "ept-sweep", &mut std::io::stdout());
            Ok(Exit::Done)
        }
    }
}
