//! The strategies that decide on each token before the next.

use candle_core::{Device, Tensor};

use super::choice::Choice;
use super::greedy::Picker;
use super::sample::Sampler;
use crate::engine::interface::{GenerateOptions, Prompt};
use crate::error::Result;
use crate::record::{Decoding, OutputLength};

/// A strategy that decides on each token before the next.
pub(crate) enum Chooser {
    Greedy(Picker),
    Sample(Sampler),
}

impl Chooser {
    /// The chooser of a batch that isn't searched with beams.
    pub(crate) fn new(
        batch: &[Prompt],
        options: GenerateOptions,
        eos: &[u32],
        vocabulary: usize,
        device: &Device,
    ) -> Result<Self> {
        let fixed = options.length == OutputLength::Fixed;
        Ok(match options.decoding {
            Decoding::Sample(sampling) => Chooser::Sample(Sampler::new(sampling, masked(eos, options.length), batch)),
            Decoding::Greedy | Decoding::Beam(_) => Chooser::Greedy(Picker::new(eos, fixed, vocabulary, device)?),
        })
    }

    /// One choice for each row of the logits `(b, vocabulary)`.
    pub(crate) fn choose(&mut self, logits: &Tensor) -> Result<Vec<Choice>> {
        match self {
            Chooser::Greedy(picker) => picker.pick(logits),
            Chooser::Sample(sampler) => sampler.draw(logits),
        }
    }
}

/// The tokens that may not be chosen: in `fixed` length those that end a sequence.
pub(crate) fn masked(eos: &[u32], length: OutputLength) -> &[u32] {
    match length {
        OutputLength::Natural => &[],
        OutputLength::Fixed => eos,
    }
}
