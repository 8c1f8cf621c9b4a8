//! One function for each subcommand, each of which reads as the pipeline.

mod bench;
mod diff;
mod evaluate;
mod explain;
mod info;
mod measure;
mod meter;
mod plan;
mod prepare;
mod report;
mod run;

use std::sync::atomic::AtomicBool;

use clap::CommandFactory;

use crate::cli::console::Console;
use crate::cli::exit::Exit;
use crate::cli::{Cli, Command};
use crate::error::Result;

/// Carries out what the command line says.
///
/// # Errors
/// Whatever stopped the command.
pub fn dispatch(cli: Cli, console: &Console, stop: &AtomicBool) -> Result<Exit> {
    match (cli.command, cli.run) {
        (Some(Command::Run(arguments)), _) | (None, Some(arguments)) => run::run(&arguments, console, stop),
        (Some(Command::Plan(arguments)), _) => plan::plan(&arguments, console),
        (Some(Command::Report(arguments)), _) => report::report(&arguments, console),
        (Some(Command::Diff(arguments)), _) => diff::diff(&arguments),
        (Some(Command::Bench(arguments)), _) => bench::bench(&arguments, console, stop),
        (Some(Command::Meter(arguments)), _) => meter::meter(&arguments),
        (Some(Command::Explain(arguments)), _) => explain::explain(&arguments),
        (Some(Command::Completions { shell }), _) => {
            clap_complete::generate(shell, &mut Cli::command(), "ept-sweep", &mut std::io::stdout());
            Ok(Exit::Done)
        }
        (None, None) => {
            // clap prints the help where neither is given
            Ok(Exit::BadInput)
        }
    }
}
