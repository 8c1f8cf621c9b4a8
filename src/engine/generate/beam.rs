//! Beam search, as `_beam_search` of Hugging Face transformers 5 does it without sampling.
//!
//! Each prompt has `num_beams` open sequences. At each step all tokens after all of them are candidates, scored by the
//! sum of log-probabilities (log-softmax in f32); the best (1 + number of end-of-sequence tokens) · `num_beams`, twice
//! `num_beams` at least, are looked at. Those that end, and are among the first `num_beams`, compete for the
//! `num_beams` places of ended sequences by score over length to the power of `length_penalty`; the best of the rest
//! stay open. `early_stopping` says when a prompt is done. At the limit of tokens the open sequences end, too. The best
//! ended sequence is the answer. Of equal candidates the one of the better beam, then the lower id, comes first
//! (transformers leaves that open).
//!
//! In `fixed` length end-of-sequence tokens are no candidates: every sequence goes to the limit.
//!
//! The prompts are computed once, and their KV cache is copied to the beams; then the batch has `num_beams` rows for
//! each prompt. A prompt that is done keeps its rows until all are. The logits `(b · num_beams, vocabulary)` of each
//! step are brought to the host in f32, and when beams fork, the cache's columns in use are copied.

use std::cmp::Ordering;

use candle_core::Tensor;
use rayon::prelude::*;

use super::batch::{LeftPadded, PAD};
use super::choice::{not_numbers, to_host};
use super::runner::Runner;
use crate::engine::interface::{GenerateOptions, Generation, Prompt};
use crate::error::{Error, Result};
use crate::record::{BeamSearch, EarlyStopping, Finish};

/// Added to the score of what is not to be chosen, as in transformers.
const UNWANTED: f32 = -1e9;

/// Answers a batch by beam search; `masked` tokens are never chosen.
///
/// # Errors
/// Fewer tokens to choose from than there are beams, logits that aren't numbers, or a failure of the device.
pub(crate) fn beam_search(
    model: &Runner,
    batch: &[Prompt],
    options: GenerateOptions,
    beam: BeamSearch,
    masked: &[u32],
) -> Result<Vec<Generation>> {
    let device = &model.place.device;
    let rules = Rules { beam, eos: &model.config.eos_ids, masked, limit: options.max_new_tokens };
    rules.check(model.config.vocab_size)?;
    let padded = LeftPadded::prompts(batch);
    let mut sequences = model.begin(padded.starts.clone(), padded.width + options.max_new_tokens - 1)?;
    let mut searches = vec![Search::new(beam.num_beams); batch.len()];
    let mut ids = padded.ids(device)?;
    loop {
        let logits = model.next_logits(&ids, &mut sequences)?;
        let rows = logits.dim(0)?;
        step(&mut searches, &to_host(&logits)?, &rules)?;
        if searches.iter().all(|search| search.done) {
            return Ok(searches.iter().map(|search| search.answer(&rules)).collect());
        }
        // after the prompts there is one row for each, then one for each beam
        model.reorder(&parents(&searches, rows / batch.len()), &mut sequences)?;
        let inputs: Vec<u32> = searches.iter().flat_map(Search::inputs).collect();
        ids = Tensor::from_vec(inputs, (batch.len() * beam.num_beams, 1), device)?;
    }
}

/// One step of every search that isn't done; `logits` has as many rows for each prompt.
fn step(searches: &mut [Search], logits: &[f32], rules: &Rules<'_>) -> Result<()> {
    let of_prompt = logits.len() / searches.len();
    let open = searches.par_iter_mut().zip(logits.par_chunks(of_prompt)).filter(|(search, _)| !search.done);
    open.map(|(search, logits)| search.step(logits, rules)).collect()
}

/// The row of the batch that each beam goes on from; those of a search that is done stay where they are.
fn parents(searches: &[Search], rows_of_prompt: usize) -> Vec<usize> {
    let of_prompt = |(prompt, search): (usize, &Search)| {
        let parent = move |(index, beam): (usize, &Beam)| {
            let parent = if search.done { index } else { beam.parent };
            // if the prompt has only one row, all beams continue from it
            prompt * rows_of_prompt + parent.min(rows_of_prompt - 1)
        };
        search.open.iter().enumerate().map(parent).collect::<Vec<_>>()
    };
    searches.iter().enumerate().flat_map(of_prompt).collect()
}

/// The settings that all searches of a batch share.
struct Rules<'a> {
    beam: BeamSearch,
    eos: &'a [u32],
    masked: &'a [u32],
    /// Most new tokens.
    limit: usize,
}

impl Rules<'_> {
    /// Candidates that are looked at: enough for `num_beams` that don't end.
    fn candidates(&self) -> usize {
        self.beam.num_beams * (1 + self.eos.len()).max(2)
    }

    fn ends(&self, token: u32, length: usize) -> bool {
        length == self.limit || self.eos.contains(&token)
    }

    /// Score of an ended sequence, or the best that an open one may hope for.
    fn normalised(&self, score: f32, length: usize) -> f32 {
        score / (length as f64).powf(self.beam.length_penalty) as f32
    }

    fn check(&self, vocabulary: usize) -> Result<()> {
        if vocabulary.saturating_sub(self.eos.len()) >= self.beam.num_beams {
            return Ok(());
        }
        let message = format!("{} beams for a vocabulary of {vocabulary}", self.beam.num_beams);
        Err(Error::input(message).with_hint("lower `num_beams`"))
    }
}

/// A sequence of new tokens.
#[derive(Clone, Default)]
struct Beam {
    ids: Vec<u32>,
    /// Sum of log-probabilities; of an ended one, over its length to the power of the penalty.
    score: f32,
    /// The beam that it went on from in the last step.
    parent: usize,
}

/// A token after an open sequence.
#[derive(Clone, Copy)]
struct Candidate {
    parent: usize,
    token: u32,
    score: f32,
}

/// The search for one prompt's answer.
#[derive(Clone)]
struct Search {
    /// The best first.
    open: Vec<Beam>,
    /// The best first.
    ended: Vec<Beam>,
    done: bool,
}

impl Search {
    /// All beams begin alike; only the first is wanted, so that they part.
    fn new(num_beams: usize) -> Self {
        let beam = |index: usize| Beam { score: if index == 0 { 0.0 } else { UNWANTED }, ..Beam::default() };
        Self { open: (0..num_beams).map(beam).collect(), ended: Vec::new(), done: false }
    }

    /// Takes the logits after each beam, or those after the prompt, which all beams share.
    fn step(&mut self, logits: &[f32], rules: &Rules<'_>) -> Result<()> {
        let candidates = self.candidates(logits, rules)?;
        let num_beams = rules.beam.num_beams;
        let length = self.open[0].ids.len() + 1;
        let ends = |candidate: &Candidate| rules.ends(candidate.token, length);
        let ended = candidates.iter().take(num_beams).filter(|candidate| ends(candidate));
        let ended =
            ended.map(|candidate| Beam { score: rules.normalised(candidate.score, length), ..self.follow(candidate) });
        let ended: Vec<Beam> = ended.collect();
        let (closed, open): (Vec<Candidate>, Vec<Candidate>) = candidates.iter().partition(|candidate| ends(candidate));
        let unwanted = closed.iter().map(|candidate| Candidate { score: candidate.score + UNWANTED, ..*candidate });
        let open: Vec<Beam> =
            open.iter().copied().chain(unwanted).take(num_beams).map(|candidate| self.follow(&candidate)).collect();
        if open.len() < num_beams {
            return Err(not_numbers());
        }
        self.open = open;
        self.ended.extend(ended);
        self.ended.sort_by(|a, b| b.score.partial_cmp(&a.score).unwrap_or(Ordering::Equal));
        self.ended.truncate(num_beams);
        self.done = length == rules.limit || self.is_settled(length, rules);
        Ok(())
    }

    fn follow(&self, candidate: &Candidate) -> Beam {
        let mut ids = self.open[candidate.parent].ids.clone();
        ids.push(candidate.token);
        Beam { ids, score: candidate.score, parent: candidate.parent }
    }

    /// The best candidates, the best first.
    fn candidates(&self, logits: &[f32], rules: &Rules<'_>) -> Result<Vec<Candidate>> {
        let rows = if self.open[0].ids.is_empty() { 1 } else { self.open.len() };
        let vocabulary = logits.len() / rows;
        let mut best = Best { count: rules.candidates(), candidates: Vec::new() };
        for (parent, beam) in self.open.iter().enumerate() {
            let logits = &logits[parent.min(rows - 1) * vocabulary..][..vocabulary];
            let normaliser = log_sum_exp(logits)?;
            for (token, logit) in (0..).zip(logits) {
                let score = logit - normaliser + beam.score;
                if best.takes(score) && !rules.masked.contains(&token) {
                    best.insert(Candidate { parent, token, score });
                }
            }
        }
        Ok(best.candidates)
    }

    /// Whether no open sequence is to be followed further.
    fn is_settled(&self, length: usize, rules: &Rules<'_>) -> bool {
        let (Some(worst), true) = (self.ended.last(), self.ended.len() == rules.beam.num_beams) else { return false };
        let hoped_for = match rules.beam.early_stopping {
            EarlyStopping::Always => return true,
            EarlyStopping::Never if rules.beam.length_penalty > 0.0 => rules.limit,
            EarlyStopping::Never | EarlyStopping::Likely => length,
        };
        rules.normalised(self.open[0].score, hoped_for) <= worst.score
    }

    /// The next input of each beam.
    fn inputs(&self) -> impl Iterator<Item = u32> {
        self.open.iter().map(|beam| beam.ids.last().copied().unwrap_or(PAD))
    }

    fn answer(&self, rules: &Rules<'_>) -> Generation {
        let best = self.ended.first().unwrap_or(&self.open[0]);
        let ended = best.ids.last().is_some_and(|token| rules.eos.contains(token));
        let finish = if ended { Finish::Eos } else { Finish::Length };
        Generation { ids: best.ids.clone(), finish, natural_length: None }
    }
}

/// The best of many candidates; of equal ones those that came first.
struct Best {
    count: usize,
    /// The best first.
    candidates: Vec<Candidate>,
}

impl Best {
    #[inline]
    fn takes(&self, score: f32) -> bool {
        match self.candidates.last() {
            Some(last) if self.candidates.len() == self.count => score > last.score,
            _ => score > f32::NEG_INFINITY,
        }
    }

    fn insert(&mut self, candidate: Candidate) {
        let place = self.candidates.partition_point(|better| better.score >= candidate.score);
        self.candidates.insert(place, candidate);
        self.candidates.truncate(self.count);
    }
}

/// ln Σ e^x: what log-softmax subtracts.
fn log_sum_exp(logits: &[f32]) -> Result<f32> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    // in f64: a vocabulary of small terms would add up to a visible error in f32
    let sum: f64 = logits.iter().map(|logit| f64::from((logit - largest).exp())).sum();
    let normaliser = largest + sum.ln() as f32;
    if normaliser.is_finite() { Ok(normaliser) } else { Err(not_numbers()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules<'_> = Rules {
        beam: BeamSearch { num_beams: 2, length_penalty: 1.0, early_stopping: EarlyStopping::Likely },
        eos: &[3],
        masked: &[],
        limit: 4,
    };

    fn ids(search: &Search) -> Vec<Vec<u32>> {
        search.open.iter().map(|beam| beam.ids.clone()).collect()
    }

    #[test]
    fn of_equal_candidates_the_better_beam_and_the_lower_id_come_first() {
        let mut search = Search::new(2);
        search.step(&[1.0, 1.0, 1.0, 0.0], &RULES).unwrap();
        assert_eq!(ids(&search), [[0], [1]]);
        search.step(&[[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]].concat(), &RULES).unwrap();
        assert_eq!(ids(&search), [[0, 0], [0, 1]]);
        assert_eq!(parents(&[search.clone(), search], 2), [0, 0, 2, 2]);
    }

    #[test]
    fn after_the_prompts_all_beams_go_on_from_the_one_row_of_their_prompt() {
        let mut searches = vec![Search::new(2); 2];
        step(&mut searches, &[[0.0, 1.0, 2.0, 0.0], [3.0, 1.0, 2.0, 0.0]].concat(), &RULES).unwrap();
        assert_eq!(searches.iter().map(ids).collect::<Vec<_>>(), [[[2], [1]], [[0], [2]]]);
        assert_eq!(parents(&searches, 1), [0, 0, 1, 1]);
    }

    #[test]
    fn a_search_that_is_done_changes_no_more() {
        let mut searches = vec![Search::new(2)];
        let early = BeamSearch { early_stopping: EarlyStopping::Always, ..RULES.beam };
        let rules = Rules { beam: early, ..RULES };
        step(&mut searches, &[0.0, 0.0, -5.0, 4.0], &rules).unwrap();
        assert!(!searches[0].done, "one sequence has ended, and there is room for two");
        step(&mut searches, &[[0.0, 0.0, 0.0, 4.0], [0.0, 0.0, 0.0, 4.0]].concat(), &rules).unwrap();
        assert!(searches[0].done);
        let answer = searches[0].answer(&rules);
        assert_eq!((answer.ids.as_slice(), answer.finish), ([3].as_slice(), Finish::Eos));
        step(&mut searches, &[[9.0; 4], [9.0; 4]].concat(), &rules).unwrap();
        assert_eq!(searches[0].answer(&rules), answer);
        assert_eq!(parents(&searches, 2), [0, 1]);
    }

    #[test]
    fn logits_that_are_not_numbers_are_an_error() {
        for logits in [[f32::NAN, 0.0, 0.0, 0.0], [f32::INFINITY, 0.0, 0.0, 0.0], [f32::NEG_INFINITY; 4]] {
            let error = Search::new(2).step(&logits, &RULES).unwrap_err();
            assert_eq!(error.message(), "the model's logits aren't numbers");
        }
    }
}
