//! A trial that is over, as it is stored: its outcome, and what the model wrote.

use crate::calendar;
use crate::engine::{Generation, Prompt};
use crate::error::{Error, Result};
use crate::format;
use crate::model::Codec;
use crate::record::{CellSpec, FORMAT, FailureKind, GenerationLine, Outcome, Trace};
use crate::run::loaded::Loaded;
use crate::stage::Measured;

/// A trial that is over.
pub(super) struct Finished {
    pub started_at: String,
    pub outcome: Outcome,
    /// What the model wrote in the first pass, one line for each prompt.
    pub lines: Vec<GenerationLine>,
    /// The raw readings, if a window was measured.
    pub trace: Option<Trace>,
}

impl Finished {
    /// A trial that ran on a model. Answers that can't be decoded make it a failed one.
    pub fn new(cell: &CellSpec, started_at: String, measured: Measured, loaded: &Loaded) -> Self {
        let Measured { mut outcome, trace, generations } = measured;
        match generation_lines(cell, &loaded.prompts, &generations, &loaded.codec) {
            Ok(lines) => {
                count_bytes(&mut outcome, &lines);
                Self { started_at, outcome, lines, trace }
            }
            Err(error) => Self { started_at, ..Self::failed(FailureKind::Engine, &error) },
        }
    }

    /// A trial that wasn't tried.
    pub fn skipped(message: String) -> Self {
        Self::without_work(Measured::skipped(message))
    }

    /// A trial that broke before any work.
    pub fn failed(kind: FailureKind, error: &Error) -> Self {
        Self::without_work(Measured::failed(kind, error))
    }

    fn without_work(measured: Measured) -> Self {
        Self { started_at: calendar::timestamp(), outcome: measured.outcome, lines: Vec::new(), trace: None }
    }

    /// One line for the progress.
    pub fn describe(&self) -> String {
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

/// Adds the length of the text to a measurement: the stage, which counts everything else, knows token ids only. Every
/// pass writes the same text.
fn count_bytes(outcome: &mut Outcome, lines: &[GenerationLine]) {
    if let Outcome::Measured(measurement) = outcome {
        let bytes: u64 = lines.iter().map(|line| line.text.len() as u64).sum();
        measurement.output_bytes = Some(bytes * u64::from(measurement.window.passes));
    }
}

fn generation_lines(
    cell: &CellSpec,
    prompts: &[Prompt],
    generations: &[Generation],
    codec: &Codec,
) -> Result<Vec<GenerationLine>> {
    let line = |(index, (prompt, generation)): (usize, (&Prompt, &Generation))| {
        Ok(GenerationLine {
            format: FORMAT,
            cell: cell.id.clone(),
            prompt_index: index,
            prompt: prompt.text.clone(),
            tokens_in: prompt.ids.len() as u32,
            output_ids: generation.ids.clone(),
            text: codec.decode(&generation.ids)?,
            finish: generation.finish,
            natural_length: generation.natural_length.map(|length| length as u32),
        })
    };
    prompts.iter().zip(generations).enumerate().map(line).collect()
}
