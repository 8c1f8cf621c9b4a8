//! What every engine takes and gives: prompts of token ids in, generations of token ids out.

use crate::error::{Error, Result};
use crate::record::{Decoding, Finish, ModelInfo, OutputLength};
use crate::units::Seconds;

/// One prompt, as text and as token ids.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompt {
    /// The text as the model sees it, chat template included; for messages and records, no engine reads it.
    pub text: String,
    /// The token ids of the text, special tokens included.
    pub ids: Vec<u32>,
}

/// How to generate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GenerateOptions {
    /// Output length: each answer has at most this many new tokens.
    pub max_new_tokens: usize,
    /// When a sequence ends.
    pub length: OutputLength,
    /// How tokens are chosen.
    pub decoding: Decoding,
}

impl GenerateOptions {
    /// The likeliest token at each step; with `Fixed` length each answer has exactly `max_new_tokens` tokens.
    pub fn greedy(max_new_tokens: usize, length: OutputLength) -> Self {
        Self { max_new_tokens, length, decoding: Decoding::Greedy }
    }
}

/// A model's answer to one prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// New token ids, the end-of-sequence token included, padding never.
    pub ids: Vec<u32>,
    /// Why it ended.
    pub finish: Finish,
    /// In `fixed` length: how many tokens the natural answer has, its end-of-sequence token included, if the
    /// unmasked choice would have ended it within the output length. Beams have none: without the mask the search
    /// would have taken other ways long before.
    pub natural_length: Option<usize>,
}

/// A text to score, given what comes before it. Accuracy on multiple-choice questions is measured this way: each choice
/// is a continuation of the question, and the likeliest one is the model's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Continuation {
    /// Token ids that come before; at least one.
    pub context: Vec<u32>,
    /// Token ids that are scored; at least one.
    pub continuation: Vec<u32>,
}

/// How likely a model finds a continuation.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// Sum of the tokens' log-probabilities (natural logarithm).
    pub log_likelihood: f64,
    /// Number of tokens that were scored.
    pub tokens: usize,
    /// Whether greedy decoding would have written the continuation: each token has the largest logit of its step, and
    /// the lowest id of several.
    pub is_greedy: bool,
    /// Log-probability of each token, given all before it.
    pub log_probs: Vec<f32>,
}

/// A loaded model.
///
/// One host thread owns an engine. `generate` returns when the work is done, on the device too, so that a clock read
/// after it includes all of the work.
pub trait Engine {
    /// The loaded model, for the record.
    fn info(&self) -> &ModelInfo;

    /// Answers a batch of prompts of any lengths: one generation for each prompt, in order.
    ///
    /// # Errors
    /// Settings of the decoding that can't be used, an empty batch or prompt, a prompt with `max_new_tokens` past the
    /// model's positions, a token id outside the vocabulary, or a failure of the device.
    fn generate(&mut self, batch: &[Prompt], options: GenerateOptions) -> Result<Vec<Generation>>;

    /// Of the last `generate`: the time from its start until the first token of every row was chosen. `None` if the
    /// engine doesn't read all prompts at once, or chooses no token before the end.
    fn time_to_first_token(&self) -> Option<Seconds> {
        None
    }

    /// Log-likelihoods of a batch of continuations of any lengths, in order, as lm-evaluation-harness defines them:
    /// log-softmax of the logits in f32 over the whole vocabulary, no length normalisation. This is what accuracy on
    /// multiple-choice questions is computed from.
    ///
    /// # Errors
    /// An engine that has no probabilities, an empty batch, context or continuation, more tokens than the model has
    /// positions, a token id outside the vocabulary, or a failure of the device.
    fn score(&mut self, batch: &[Continuation]) -> Result<Vec<Score>> {
        let message =
            format!("the `{}` engine has no probabilities to score {} texts by", self.info().engine, batch.len());
        Err(Error::input(message).with_hint("score with a model that is loaded from files"))
    }
}
