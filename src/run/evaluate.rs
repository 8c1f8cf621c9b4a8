//! The accuracy part of a run: each model answers the held-out prompts once, outside of every energy window.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::engine::{GenerateOptions, Generation, Prompt};
use crate::error::{Kind, Result};
use crate::evaluate::score;
use crate::model::Model;
use crate::prompts::PromptSet;
use crate::record::{CellSpec, Evaluation, FORMAT, ItemScore, OutputLength, PromptForm};
use crate::run::setup::Setup;
use crate::store::RunDir;
use crate::sweep::spec::{AccuracySpec, ModelSpec};
use crate::units::Seconds;

/// The answers that are left to score.
pub(super) struct Scoring<'a> {
    setup: Setup<'a>,
    spec: &'a AccuracySpec,
    set: &'a PromptSet,
    missing: Vec<Missing<'a>>,
}

/// A model with the output lengths at which its answers aren't scored.
struct Missing<'a> {
    model: &'a ModelSpec,
    dtype: String,
    lengths: BTreeSet<usize>,
}

/// The scores of each item, by output length.
type Scores = Vec<(usize, Vec<ItemScore>)>;

impl<'a> Scoring<'a> {
    /// What is left once `done` is taken out; `None` if that is nothing, or the sweep measures no accuracy.
    pub(crate) fn left(setup: Setup<'a>, done: &[Evaluation]) -> Option<Self> {
        let (spec, set) = (setup.prepared.spec.accuracy.as_ref()?, setup.prepared.accuracy.as_ref()?);
        let models = setup.prepared.spec.models.iter();
        let missing: Vec<_> = models.filter_map(|model| Missing::of(setup, model, done)).collect();
        (!missing.is_empty()).then_some(Self { setup, spec, set, missing })
    }

    /// Scores what is left. A model that fails gives an evaluation with an error, not with zeros.
    ///
    /// # Errors
    /// An interruption, or a failure of the disk.
    pub(super) fn score(&self, dir: &mut RunDir) -> Result<()> {
        let dataset_sha256 = self.set.sha256();
        for missing in &self.missing {
            let start = Instant::now();
            let (scores, error) = self.scores_or_error(missing, dir)?;
            let duration_s = Seconds(start.elapsed().as_secs_f64());
            for (max_new_tokens, items) in scores {
                dir.commit_evaluation(Evaluation {
                    format: FORMAT,
                    model: missing.model.label.clone(),
                    dtype: missing.dtype.clone(),
                    max_new_tokens,
                    dataset: self.set.source.clone(),
                    dataset_sha256: dataset_sha256.clone(),
                    duration_s,
                    items,
                    error: error.clone(),
                })?;
            }
        }
        Ok(())
    }

    /// The scores of a model, or no items and why.
    fn scores_or_error(&self, missing: &Missing<'_>, dir: &mut RunDir) -> Result<(Scores, Option<String>)> {
        let (label, console) = (&missing.model.label, self.setup.console);
        console.say(format!("accuracy of {label} on {} prompts", self.set.items.len()));
        match self.scores(missing, dir) {
            Ok(scores) => Ok((scores, None)),
            Err(error) if error.kind() == Kind::Interrupted => Err(error),
            Err(error) => {
                console.warn(format!("no accuracy for {label}: {error}"));
                let none = missing.lengths.iter().map(|length| (*length, Vec::new())).collect();
                Ok((none, Some(error.one_line())))
            }
        }
    }

    /// The scores at each output length, decoded as in the energy windows. One generation to the longest of them is
    /// enough if shorter answers are its beginnings.
    fn scores(&self, missing: &Missing<'_>, dir: &mut RunDir) -> Result<Scores> {
        let mut model = self.setup.prepared.loader.load(missing.model, self.setup.clock)?;
        dir.record_model(&missing.model.label, model.engine.info())?;
        let prompts = model.codec.prompts(self.set.items.iter().map(|item| item.text.as_str()))?;
        let form = PromptForm { accuracy: Some(prompts.truncated), ..model.codec.form() };
        dir.record_prompt_form(&missing.model.label, &form)?;
        let prolongs = self.setup.prepared.spec.generation.decoding.prolongs();
        let mut scores = Vec::with_capacity(missing.lengths.len());
        for generated in missing.generations(prolongs) {
            let answers = self.answers(&mut model, &prompts.prompts, generated)?;
            for length in missing.lengths.iter().filter(|length| prolongs || **length == generated) {
                let items = self.set.items.iter().zip(&answers);
                let items = items.map(|(item, answer)| score(item, answer, *length, |ids| model.codec.decode(ids)));
                scores.push((*length, items.collect::<Result<_>>()?));
            }
        }
        Ok(scores)
    }

    fn answers(&self, model: &mut Model, prompts: &[Prompt], max_new_tokens: usize) -> Result<Vec<Generation>> {
        let decoding = self.setup.prepared.spec.generation.decoding;
        // the answer ends where the model ends it, even if the energy windows run to a fixed length
        let options = GenerateOptions { max_new_tokens, length: OutputLength::Natural, decoding };
        let mut answers = Vec::with_capacity(prompts.len());
        for batch in prompts.chunks(self.spec.batch_size) {
            self.setup.check_stop()?;
            answers.extend(model.engine.generate(batch, options)?);
        }
        Ok(answers)
    }
}

impl<'a> Missing<'a> {
    fn of(setup: Setup<'a>, model: &'a ModelSpec, done: &[Evaluation]) -> Option<Self> {
        let wanted =
            |cell: &&CellSpec| cell.model == model.label && setup.only.is_none_or(|filter| filter.matches(&cell.id));
        let scored = |cell: &CellSpec| {
            done.iter().any(|e| e.error.is_none() && e.model == cell.model && e.max_new_tokens == cell.max_new_tokens)
        };
        let cells: Vec<_> = setup.prepared.plan.cells.iter().filter(wanted).collect();
        let lengths: BTreeSet<_> = cells.iter().filter(|cell| !scored(cell)).map(|cell| cell.max_new_tokens).collect();
        let dtype = cells.first()?.dtype.clone();
        (!lengths.is_empty()).then_some(Self { model, dtype, lengths })
    }

    /// The output lengths to generate: all of them unless longer answers prolong shorter ones. A beam search to a
    /// shorter length may choose other tokens.
    fn generations(&self, prolongs: bool) -> BTreeSet<usize> {
        if prolongs { self.lengths.last().copied().into_iter().collect() } else { self.lengths.clone() }
    }
}
