//! A trial that is over, as it is stored: its outcome, and what the model wrote.

use crate::calendar;
use crate::engine::{Generation, Prompt};
use crate::error::Error;
use crate::format;
use crate::record::{CellSpec, FORMAT, FailureKind, GenerationLine, Outcome, Trace};
use crate::run::loaded::Loaded;
use crate::stage::Measured;

/// A trial that is over.
pub(super) struct Finished {
    pub(crate) started_at: String,
    pub(crate) outcome: Outcome,
    /// What the model wrote in the first pass, one line for each prompt.
    pub(crate) lines: Vec<GenerationLine>,
    /// The raw readings, if a window was measured.
    pub(crate) trace: Option<Trace>,
}

impl Finished {
    /// A trial that ran on a model.
    pub(super) fn new(cell: &CellSpec, started_at: String, measured: Measured, loaded: &Loaded) -> Self {
        let lines = generation_lines(cell, &loaded.prompts, &measured);
        Self { started_at, outcome: measured.outcome, lines, trace: measured.trace }
    }

    /// A trial that wasn't tried.
    pub(crate) fn skipped(message: String) -> Self {
        Self::without_work(Measured::skipped(message))
    }

    /// A trial that broke before any work.
    pub(crate) fn failed(kind: FailureKind, error: &Error) -> Self {
        Self::without_work(Measured::failed(kind, error))
    }

    fn without_work(measured: Measured) -> Self {
        Self { started_at: calendar::timestamp(), outcome: measured.outcome, lines: Vec::new(), trace: None }
    }

    /// One line for the progress.
    pub(super) fn describe(&self) -> String {
        match &self.outcome {
            Outcome::Measured(measurement) => {
                let per_token = format::joules_per_token(measurement.ept_out());
                let energy = format::joules(measurement.energy.total_j);
                let seconds = format::seconds(measurement.window.duration());
                let flag = if measurement.validity.is_valid() { "" } else { ", not valid" };
                format!("{energy} in {seconds}, {per_token} per token{flag}")
            }
            Outcome::Failed { message, .. } => format!("failed: {message}"),
            Outcome::Skipped { message } => format!("skipped: {message}"),
        }
    }
}

fn generation_lines(cell: &CellSpec, prompts: &[Prompt], measured: &Measured) -> Vec<GenerationLine> {
    let line = |(index, ((prompt, generation), text)): (usize, ((&Prompt, &Generation), &String))| GenerationLine {
        format: FORMAT,
        cell: cell.id.clone(),
        prompt_index: index,
        prompt: prompt.text.clone(),
        tokens_in: prompt.ids.len() as u32,
        output_ids: generation.ids.clone(),
        text: text.clone(),
        finish: generation.finish,
        natural_length: generation.natural_length.map(|length| length as u32),
    };
    prompts.iter().zip(&measured.generations).zip(&measured.texts).enumerate().map(line).collect()
}
