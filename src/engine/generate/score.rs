//! Log-likelihoods of given continuations: one pass over each batch, no generation.
//!
//! As in lm-evaluation-harness: context and continuation but its last token go through the model; token k of the
//! continuation is scored by the log-softmax (f32, whole vocabulary) of the logits at the position before it. Where the
//! context would be empty, the caller puts the model's beginning-of-sequence token there.
//!
//! Logits are computed at the positions of continuations only, and some at a time, so that a long context costs no
//! memory for a vocabulary at each of its positions.

use candle_core::{D, DType, Tensor};
use candle_nn::ops::log_softmax;

use super::batch::LeftPadded;
use super::greedy::Picker;
use super::request::check_ids;
use super::runner::Runner;
use crate::engine::config::Config;
use crate::engine::interface::{Continuation, Score};
use crate::error::{Error, Result};

/// Logits that are held at a time: 64 MiB in f32.
const LOGITS_AT_A_TIME: usize = 1 << 24;

/// The score of one token.
struct TokenScore {
    log_prob: f32,
    is_greedy: bool,
}

/// Checks that a model can score a batch.
///
/// # Errors
/// An empty batch, context or continuation, a token id outside the vocabulary, or more tokens than positions.
pub(crate) fn check_continuations(batch: &[Continuation], config: &Config) -> Result<()> {
    if batch.is_empty() {
        return Err(Error::input("the batch is empty"));
    }
    for (index, item) in batch.iter().enumerate() {
        let named = |what: &str| format!("{what} {index} of the batch");
        check_ids(&item.context, config.vocab_size).map_err(|error| error.at(named("context")))?;
        check_ids(&item.continuation, config.vocab_size).map_err(|error| error.at(named("continuation")))?;
        let tokens = item.context.len() + item.continuation.len() - 1;
        if tokens > config.max_positions {
            let limit = config.max_positions;
            let message = format!("its {tokens} positions with the context don't fit the model's {limit}");
            let error = Error::input(message).with_hint("shorten the context from the left, or leave the text out");
            return Err(error.at(named("continuation")));
        }
    }
    Ok(())
}

/// Scores a batch that has been checked.
///
/// # Errors
/// Logits that aren't numbers, or a failure of the device.
pub(crate) fn log_likelihoods(model: &Runner, batch: &[Continuation]) -> Result<Vec<Score>> {
    let inputs: Vec<Vec<u32>> = batch.iter().map(inputs).collect();
    let padded = LeftPadded::new(inputs.iter().map(Vec::as_slice));
    let mut sequences = model.begin(padded.starts.clone(), padded.width)?;
    let hidden = model.hidden(&padded.ids(&model.place.device)?, &mut sequences)?;
    // all rows end at the last column, so the tokens of a continuation are predicted by the last positions
    let rows = batch.iter().enumerate().flat_map(|(row, item)| {
        let end = (row + 1) * padded.width;
        (end - item.continuation.len()..end).map(|position| position as u32)
    });
    let rows: Vec<u32> = rows.collect();
    let targets: Vec<u32> = batch.iter().flat_map(|item| item.continuation.iter().copied()).collect();
    let mut tokens = token_scores(model, &hidden, &rows, &targets)?.into_iter();
    Ok(batch.iter().map(|item| Score::of(tokens.by_ref().take(item.continuation.len()))).collect())
}

/// Scores `targets` by the hidden states `(b · t, hidden)` in these rows.
fn token_scores(model: &Runner, hidden: &Tensor, rows: &[u32], targets: &[u32]) -> Result<Vec<TokenScore>> {
    let device = hidden.device();
    let picker = Picker::new(&[], false, model.config.vocab_size, device)?;
    let at_a_time = (LOGITS_AT_A_TIME / model.config.vocab_size).max(1);
    let mut scores = Vec::with_capacity(targets.len());
    for (rows, targets) in rows.chunks(at_a_time).zip(targets.chunks(at_a_time)) {
        let hidden = hidden.index_select(&Tensor::new(rows, device)?, 0)?;
        let logits = model.logits(&hidden)?.to_dtype(DType::F32)?;
        let greedy = picker.pick(&logits)?;
        let index = Tensor::new(targets, device)?.unsqueeze(1)?;
        let log_probs = log_softmax(&logits, D::Minus1)?.gather(&index, 1)?.squeeze(1)?.to_vec1::<f32>()?;
        let tokens = log_probs.into_iter().zip(greedy).zip(targets);
        scores.extend(
            tokens.map(|((log_prob, choice), target)| TokenScore { log_prob, is_greedy: choice.any == *target }),
        );
    }
    Ok(scores)
}

/// The tokens that the model reads: all but the last one, which is only predicted.
fn inputs(item: &Continuation) -> Vec<u32> {
    let all = item.context.iter().chain(&item.continuation).copied();
    all.take(item.context.len() + item.continuation.len() - 1).collect()
}

impl Score {
    fn of(tokens: impl Iterator<Item = TokenScore>) -> Self {
        let tokens: Vec<TokenScore> = tokens.collect();
        let log_probs: Vec<f32> = tokens.iter().map(|token| token.log_prob).collect();
        Self {
            log_likelihood: log_probs.iter().copied().map(f64::from).sum(),
            tokens: tokens.len(),
            is_greedy: tokens.iter().all(|token| token.is_greedy),
            log_probs,
        }
    }
}
