//! Answers of a loaded model: a left-padded batch of prompts goes through the decoder, and a strategy chooses the
//! tokens.
//!
//! | file | |
//! |---|---|
//! | `greedy` | the most likely token of each step |
//! | `sample` | a token drawn at each step |
//! | `beam` | the best of several sequences that are followed side by side |
//! | `score` | no answer: how likely given texts are |

mod batch;
mod beam;
mod greedy;
mod progress;
mod sample;
mod score;

use std::time::Instant;

use candle_core::{DType, Device, Tensor};

use self::batch::LeftPadded;
use self::greedy::Picker;
pub(super) use self::progress::Progress;
use self::sample::Sampler;
use super::config::Config;
use super::decoder::{Decoder, Place, Sequences};
use super::{Continuation, Engine, GenerateOptions, Generation, Prompt, Score};
use crate::error::{Error, Result};
use crate::record::{Decoding, ModelInfo, OutputLength};
use crate::units::Seconds;

/// A model that is loaded into the decoder.
pub struct DecoderEngine {
    config: Config,
    decoder: Decoder,
    /// Where logits come out.
    place: Place,
    info: ModelInfo,
    time_to_first_token: Option<Seconds>,
}

/// The choice for one row at one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Choice {
    /// Of all tokens.
    any: u32,
    /// Without the end-of-sequence tokens; the same where `any` is none of them.
    not_eos: u32,
}

/// A strategy that decides on each token before the next.
pub(super) enum Chooser {
    Greedy(Picker),
    Sample(Sampler),
}

impl Chooser {
    /// The chooser of a batch that isn't searched with beams.
    pub fn new(
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
    pub fn choose(&mut self, logits: &Tensor) -> Result<Vec<Choice>> {
        match self {
            Chooser::Greedy(picker) => picker.pick(logits),
            Chooser::Sample(sampler) => sampler.draw(logits),
        }
    }
}

impl DecoderEngine {
    pub(super) fn new(config: Config, decoder: Decoder, info: ModelInfo) -> Self {
        let place = decoder.output_place().clone();
        Self { config, decoder, place, info, time_to_first_token: None }
    }

    /// Lets candle's attention hold at most so many scores at a time: a long prompt then goes in more blocks. The kernels
    /// of the CPU hold none.
    pub fn limit_scores(&mut self, largest: u64) {
        self.decoder.limit_scores(largest);
    }

    /// Logits that follow each prompt, computed as one left-padded batch.
    ///
    /// # Errors
    /// As for [`Engine::generate`].
    pub fn prompt_logits(&mut self, batch: &[Prompt]) -> Result<Vec<Vec<f32>>> {
        self.check(batch, 0)?;
        let padded = left_padded(batch);
        let mut sequences = self.decoder.begin(padded.starts.clone(), padded.width)?;
        let logits = self.next_logits(&padded.ids(&self.place.device)?, &mut sequences)?;
        Ok(logits.to_dtype(DType::F32)?.to_vec2()?)
    }

    fn check(&self, batch: &[Prompt], max_new_tokens: usize) -> Result<()> {
        check_batch(batch, max_new_tokens, self.config.vocab_size, self.config.max_positions)
    }

    fn check_ids(&self, ids: &[u32]) -> Result<()> {
        check_ids(ids, self.config.vocab_size)
    }

    fn decode(&mut self, batch: &[Prompt], options: GenerateOptions) -> Result<Vec<Generation>> {
        self.time_to_first_token = None;
        let eos = &self.config.eos_ids;
        if let Decoding::Beam(beam) = options.decoding {
            return self.beam_search(batch, options, beam, masked(eos, options.length));
        }
        let chooser = Chooser::new(batch, options, eos, self.config.vocab_size, &self.place.device)?;
        self.token_by_token(batch, options, chooser)
    }

    fn token_by_token(
        &mut self,
        batch: &[Prompt],
        options: GenerateOptions,
        mut chooser: Chooser,
    ) -> Result<Vec<Generation>> {
        let start = Instant::now();
        let device = self.place.device.clone();
        let padded = left_padded(batch);
        let mut sequences = self.decoder.begin(padded.starts.clone(), padded.width + options.max_new_tokens - 1)?;
        let mut progress = Progress::new(&self.config.eos_ids, batch.len(), options);
        let mut ids = padded.ids(&device)?;
        loop {
            let logits = self.next_logits(&ids, &mut sequences)?;
            progress.push(&chooser.choose(&logits)?);
            // choosing has waited for the device
            self.time_to_first_token.get_or_insert_with(|| Seconds(start.elapsed().as_secs_f64()));
            if progress.is_done() {
                return Ok(progress.finish());
            }
            ids = Tensor::from_vec(progress.inputs(), (batch.len(), 1), &device)?;
        }
    }

    /// Runs new tokens `(b, t)`: the logits `(b, vocabulary)` that follow the last of each row.
    fn next_logits(&self, ids: &Tensor, sequences: &mut Sequences) -> Result<Tensor> {
        let (batch, tokens) = ids.dims2()?;
        let hidden = self.decoder.hidden(ids, sequences)?;
        if tokens == 1 {
            return self.decoder.logits(&hidden);
        }
        let width = hidden.dim(1)?;
        let last = hidden.reshape((batch, tokens, width))?.narrow(1, tokens - 1, 1)?;
        self.decoder.logits(&last.contiguous()?.reshape((batch, width))?)
    }

    /// On the CPU work is shared at the least cost when it begins on one of rayon's own threads.
    fn on_its_threads<T: Send>(&mut self, work: impl FnOnce(&mut Self) -> Result<T> + Send) -> Result<T> {
        match self.place.device.is_cpu() {
            true => rayon::scope(|_| work(self)),
            false => work(self),
        }
    }
}

impl Engine for DecoderEngine {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn generate(&mut self, batch: &[Prompt], options: GenerateOptions) -> Result<Vec<Generation>> {
        if options.max_new_tokens == 0 {
            return Err(Error::input("`max_new_tokens` has to be at least 1"));
        }
        options.decoding.check().map_err(|bad| Error::input(bad.message).hint(bad.hint))?;
        self.check(batch, options.max_new_tokens)?;
        self.on_its_threads(|engine| engine.decode(batch, options))
    }

    fn time_to_first_token(&self) -> Option<Seconds> {
        self.time_to_first_token
    }

    fn score(&mut self, batch: &[Continuation]) -> Result<Vec<Score>> {
        self.check_continuations(batch)?;
        self.on_its_threads(|engine| engine.log_likelihoods(batch))
    }
}

/// The end-of-sequence tokens, where they may not be chosen.
fn masked(eos: &[u32], length: OutputLength) -> &[u32] {
    match length {
        OutputLength::Natural => &[],
        OutputLength::Fixed => eos,
    }
}

/// Checks that a model with `vocabulary` tokens and `limit` positions can take a batch.
///
/// # Errors
/// An empty batch or prompt, a token id outside the vocabulary, or more tokens than there are positions.
pub(super) fn check_batch(batch: &[Prompt], max_new_tokens: usize, vocabulary: usize, limit: usize) -> Result<()> {
    if batch.is_empty() {
        return Err(Error::input("the batch is empty"));
    }
    for (index, prompt) in batch.iter().enumerate() {
        let at = |error: Error| error.at(format!("prompt {index} of the batch"));
        check_ids(&prompt.ids, vocabulary).map_err(at)?;
        if prompt.ids.len().saturating_add(max_new_tokens) > limit {
            let tokens = prompt.ids.len();
            let message =
                format!("{tokens} tokens and {max_new_tokens} new ones don't fit the model's {limit} positions");
            return Err(at(Error::input(message).hint("lower `max_new_tokens`, or use shorter prompts")));
        }
    }
    Ok(())
}

fn check_ids(ids: &[u32], vocabulary: usize) -> Result<()> {
    if ids.is_empty() {
        return Err(Error::input("it has no tokens"));
    }
    if let Some(id) = ids.iter().find(|id| **id as usize >= vocabulary) {
        let message = format!("token id {id} is outside of the model's vocabulary of {vocabulary}");
        return Err(Error::input(message).hint("the tokenizer doesn't belong to this model"));
    }
    Ok(())
}

fn left_padded(batch: &[Prompt]) -> LeftPadded {
    LeftPadded::new(batch.iter().map(|prompt| prompt.ids.as_slice()))
}

/// Brings logits `(m, vocabulary)` to the host, in f32, row after row: 4 bytes for each token of the vocabulary.
fn to_host(logits: &Tensor) -> Result<Vec<f32>> {
    Ok(logits.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}

fn not_numbers() -> Error {
    Error::new("the model's logits aren't numbers").hint("run it with `dtype: f32` (or bf16)")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::engine::Kernels;
    use crate::engine::load::{DeviceChoice, LoadOptions, load_decoder};

    /// Logits after each row of a batch of prompts that goes on as `rows`, then reads a token more.
    fn reordered(engine: &DecoderEngine, prompts: &[&[u32]], rows: &[usize], next: u32) -> Vec<Vec<f32>> {
        let padded = LeftPadded::new(prompts.iter().copied());
        let mut sequences = engine.decoder.begin(padded.starts.clone(), padded.width + 3).unwrap();
        let device = &engine.place.device;
        engine.next_logits(&padded.ids(device).unwrap(), &mut sequences).unwrap();
        sequences.reorder(rows).unwrap();
        let ids = Tensor::full(next, (rows.len(), 1), device).unwrap();
        engine.next_logits(&ids, &mut sequences).unwrap().to_vec2().unwrap()
    }

    #[test]
    fn a_reordered_batch_goes_on_as_the_rows_that_it_was_made_of() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/gqa_tied");
        let long: Vec<u32> = (20..40).collect();
        let prompts: [&[u32]; 3] = [&[5, 6, 7], &long, &[9]];
        for kernels in [Kernels::Cpu, Kernels::Stock] {
            let options = LoadOptions { dtype: Some("f32"), ..LoadOptions::default() };
            let engine = load_decoder(&folder, &options, DeviceChoice::Cpu, Some(kernels)).unwrap();
            let alone: Vec<Vec<f32>> =
                prompts.iter().map(|prompt| reordered(&engine, &[*prompt], &[0], 11).remove(0)).collect();
            // the same, shuffled, grown and shrunk
            for rows in [&[0, 1, 2][..], &[2, 0, 1], &[0, 0, 1, 2, 2], &[2]] {
                let together = reordered(&engine, &prompts, rows, 11);
                assert_eq!(together.len(), rows.len());
                for (logits, row) in together.iter().zip(rows) {
                    let error = logits.iter().zip(&alone[*row]).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
                    assert!(error < 1e-4, "{kernels:?}, {rows:?}, row {row}: off by {error}");
                }
            }
            let mut sequences = engine.decoder.begin(vec![0], 4).unwrap();
            assert!(sequences.reorder(&[1]).is_err(), "the batch has no second row");
        }
    }
}
