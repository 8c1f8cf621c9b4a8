//! Makes the bundled study from a seed: an instruction set, a tokenizer, a teacher, a distilled student and its
//! control.
//!
//! Training is the only part of its own. Prompts, scores and energies come from `ept_sweep`, so that the figures in a
//! model's record are of the same kind as those that a sweep over it gives.

mod arms;
mod cli;
mod energy;
mod export;
mod files;
mod model;
mod record;
mod scores;
mod study;
mod tasks;
#[cfg(test)]
mod tests;
mod train;
mod vocab;

use std::process::ExitCode;

use clap::Parser;
use ept_sweep::error::Result;

use cli::{Cli, Command, Options};
use study::{Place, Study};

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    let options = &cli.options;
    match cli.command.as_ref().unwrap_or(&Command::All) {
        Command::Data { train_sample } => study::prepare(options, &mut Place::open(options)?, *train_sample),
        Command::Teacher => prepared(options)?.teacher(),
        Command::Students => Study::open(options, Place::open(options)?)?.students(),
        Command::All => {
            let mut study = prepared(options)?;
            study.teacher()?;
            study.students()
        }
        Command::Eval => study::score_all(options),
        Command::Logits { model, prompt } => study::logits(options, model, prompt),
    }
}

/// The study with its data made first.
fn prepared(options: &Options) -> Result<Study<'_>> {
    let mut place = Place::open(options)?;
    study::prepare(options, &mut place, 0)?;
    Study::open(options, place)
}
