//! The accuracy part of a run: each model answers the held-out prompts once, outside of every energy window.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::clock::Clock;
use crate::console::Console;
use crate::engine::{GenerateOptions, Generation, Prompt};
use crate::error::{Error, Kind, Result};
use crate::evaluate::score;
use crate::model::Model;
use crate::prompts::PromptSet;
use crate::record::{CellSpec, Evaluation, FORMAT, ItemScore, OutputLength, PromptForm};
use crate::run::prepare::Prepared;
use crate::store::RunDir;
use crate::sweep::plan::CellFilter;
use crate::sweep::spec::{AccuracySpec, ModelSpec};
use crate::units::Seconds;

/// Answers that are still to be scored: a model with its output lengths.
pub struct Missing<'a> {
    model: &'a ModelSpec,
    dtype: String,
    lengths: BTreeSet<usize>,
}

/// What isn't scored yet.
pub fn missing<'a>(prepared: &'a Prepared, done: &[Evaluation], only: Option<&CellFilter>) -> Vec<Missing<'a>> {
    if prepared.spec.accuracy.is_none() {
        return Vec::new();
    }
    let wanted = |cell: &&CellSpec| only.is_none_or(|filter| filter.matches(&cell.id));
    let scored = |cell: &CellSpec| {
        done.iter().any(|e| e.error.is_none() && e.model == cell.model && e.max_new_tokens == cell.max_new_tokens)
    };
    let of = |model: &'a ModelSpec| {
        let cells: Vec<_> =
            prepared.plan.cells.iter().filter(|cell| cell.model == model.label).filter(wanted).collect();
        let lengths = cells.iter().filter(|cell| !scored(cell)).map(|cell| cell.max_new_tokens).collect();
        Missing { model, dtype: cells.first().map_or_else(String::new, |cell| cell.dtype.clone()), lengths }
    };
    prepared.spec.models.iter().map(of).filter(|missing| !missing.lengths.is_empty()).collect()
}

/// Scores what is missing. A model that fails gives an evaluation with an error, not with zeros.
///
/// # Errors
/// An interruption, or a failure of the disk.
pub fn evaluate(
    prepared: &Prepared,
    clock: &Clock,
    dir: &mut RunDir,
    done: &[Evaluation],
    only: Option<&CellFilter>,
    console: &Console,
    stop: &AtomicBool,
) -> Result<()> {
    let (Some(spec), Some(set)) = (&prepared.spec.accuracy, &prepared.accuracy) else { return Ok(()) };
    let dataset_sha256 = set.sha256();
    for missing in missing(prepared, done, only) {
        console.say(format!("accuracy of {} on {} prompts", missing.model.label, set.items.len()));
        let start = Instant::now();
        let scored = scores(prepared, clock, &missing, spec, set, dir, stop);
        let duration_s = Seconds(start.elapsed().as_secs_f64());
        let (scores, error) = match scored {
            Ok(scores) => (scores, None),
            Err(error) if error.kind_of() == Kind::Interrupted => return Err(error),
            Err(error) => {
                console.warn(format!("no accuracy for {}: {error}", missing.model.label));
                (missing.lengths.iter().map(|length| (*length, Vec::new())).collect(), Some(error.one_line()))
            }
        };
        for (max_new_tokens, items) in scores {
            dir.commit_evaluation(Evaluation {
                format: FORMAT,
                model: missing.model.label.clone(),
                dtype: missing.dtype.clone(),
                max_new_tokens,
                dataset: set.source.clone(),
                dataset_sha256: dataset_sha256.clone(),
                duration_s,
                items,
                error: error.clone(),
            })?;
        }
    }
    Ok(())
}

/// The scores at each output length, decoded as in the energy windows; from one generation to the longest where
/// shorter answers are its beginnings.
fn scores(
    prepared: &Prepared,
    clock: &Clock,
    missing: &Missing<'_>,
    spec: &AccuracySpec,
    set: &PromptSet,
    dir: &mut RunDir,
    stop: &AtomicBool,
) -> Result<Vec<(usize, Vec<ItemScore>)>> {
    let mut model = prepared.loader.load(missing.model, clock)?;
    dir.record_model(&missing.model.label, model.engine.info())?;
    let prompts = model.codec.prompts(set.items.iter().map(|item| item.text.as_str()))?;
    let form = PromptForm { accuracy: Some(prompts.truncated), ..model.codec.form() };
    dir.record_prompt_form(&missing.model.label, &form)?;
    let decoding = prepared.spec.generation.decoding;
    let longest = missing.lengths.last().copied().unwrap_or(1);
    // a beam search to a shorter limit may choose other tokens: then each length has a generation of its own
    let generated = if decoding.prolongs() { BTreeSet::from([longest]) } else { missing.lengths.clone() };
    let mut scores = Vec::with_capacity(missing.lengths.len());
    for generated_length in generated {
        // the answer ends where the model ends it, also where the energy windows run to a fixed length
        let options = GenerateOptions { max_new_tokens: generated_length, length: OutputLength::Natural, decoding };
        let answers = answers(&mut model, &prompts.prompts, spec.batch_size, options, stop)?;
        let served = |length: &&usize| decoding.prolongs() || **length == generated_length;
        for length in missing.lengths.iter().filter(served) {
            let items = set.items.iter().zip(&answers);
            let items = items.map(|(item, answer)| score(item, answer, *length, |ids| model.codec.decode(ids)));
            scores.push((*length, items.collect::<Result<_>>()?));
        }
    }
    Ok(scores)
}

fn answers(
    model: &mut Model,
    prompts: &[Prompt],
    batch_size: usize,
    options: GenerateOptions,
    stop: &AtomicBool,
) -> Result<Vec<Generation>> {
    let mut answers = Vec::with_capacity(prompts.len());
    for batch in prompts.chunks(batch_size) {
        if stop.load(Ordering::Relaxed) {
            return Err(Error::interrupted());
        }
        answers.extend(model.engine.generate(batch, options)?);
    }
    Ok(answers)
}
