//! Running a model: token ids in, token ids out. Knows nothing of energy, windows or records.

mod attention;
mod cache;
mod config;
mod cpu;
mod decoder;
mod failure;
pub mod generate;
pub mod grouped;
mod linear;
pub mod load;
mod pick;
mod rope;
pub mod synthetic;
mod weights;

pub use linear::Kernels;

use crate::error::Result;
use crate::record::{Finish, ModelInfo, OutputLength};

/// One prompt, as text and as token ids: an engine takes the one that it works on.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompt {
    /// The text as the model sees it.
    pub text: String,
    /// Its token ids, special tokens included.
    pub ids: Vec<u32>,
}

/// How to generate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GenerateOptions {
    /// Upper limit of new tokens a sequence.
    pub max_new_tokens: usize,
    /// When a sequence ends.
    pub length: OutputLength,
}

/// What a model made of one prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// New token ids, the end-of-sequence token included, padding never.
    pub ids: Vec<u32>,
    /// Why it ended.
    pub finish: Finish,
    /// In `fixed` length: how many tokens the natural answer has, its end-of-sequence token included, where the
    /// unmasked argmax would have ended it.
    pub natural_length: Option<usize>,
}

/// A loaded model.
///
/// One host thread owns an engine. `generate` returns when the work is done, device included, so that a clock read
/// after it stands after the work.
pub trait Engine {
    /// What was loaded.
    fn info(&self) -> &ModelInfo;

    /// Greedy decoding of a batch of prompts of any lengths; one generation for each prompt, in order.
    ///
    /// # Errors
    /// An empty batch or prompt, a prompt with `max_new_tokens` past the model's positions, a token id outside the
    /// vocabulary, or a failure of the device.
    fn generate(&mut self, batch: &[Prompt], options: GenerateOptions) -> Result<Vec<Generation>>;
}
