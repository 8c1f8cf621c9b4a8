//! The engine of models that the decoder runs.

use std::time::Instant;

use candle_core::{DType, Tensor};

#[cfg(feature = "cuda")]
use super::ahead;
use super::batch::LeftPadded;
use super::beam::beam_search;
use super::chooser::{Chooser, masked};
use super::progress::Progress;
use super::request::{check_batch, check_request};
use super::runner::{Model, Runner};
use super::score::{check_continuations, log_likelihoods};
use crate::engine::config::Config;
use crate::engine::decoder::Decoder;
#[cfg(feature = "cuda")]
use crate::engine::decoder::Place;
#[cfg(feature = "cuda")]
use crate::engine::gpu;
use crate::engine::interface::{Continuation, Engine, GenerateOptions, Generation, Prompt, Score};
use crate::error::Result;
use crate::record::{Decoding, ModelInfo};
use crate::units::Seconds;

/// A model that is loaded into the decoder.
pub struct DecoderEngine {
    runner: Runner,
    info: ModelInfo,
    time_to_first_token: Option<Seconds>,
}

impl DecoderEngine {
    pub(in crate::engine) fn new(config: Config, decoder: Decoder, info: ModelInfo) -> Self {
        let place = decoder.output_place().clone();
        let model = Model::Decoder(Box::new(decoder));
        Self { runner: Runner { config, model, place }, info, time_to_first_token: None }
    }

    /// The same on the kernels for GPUs.
    #[cfg(feature = "cuda")]
    pub(in crate::engine) fn on_gpu(config: Config, model: gpu::Model, place: Place, info: ModelInfo) -> Self {
        let model = Model::Gpu(Box::new(model));
        Self { runner: Runner { config, model, place }, info, time_to_first_token: None }
    }

    /// Lets candle's attention hold at most so many scores at a time: a long prompt then goes in more blocks. The
    /// kernels of this crate hold none.
    pub fn limit_scores(&mut self, largest: u64) {
        match &mut self.runner.model {
            Model::Decoder(decoder) => decoder.limit_scores(largest),
            #[cfg(feature = "cuda")]
            Model::Gpu(_) => {}
        }
    }

    /// Logits that follow each prompt, computed as one left-padded batch.
    ///
    /// # Errors
    /// As for [`Engine::generate`].
    pub fn prompt_logits(&mut self, batch: &[Prompt]) -> Result<Vec<Vec<f32>>> {
        let Runner { config, place, .. } = &self.runner;
        check_batch(batch, 0, config.vocab_size, config.max_positions)?;
        let padded = LeftPadded::prompts(batch);
        let mut sequences = self.runner.begin(padded.starts.clone(), padded.width)?;
        let logits = self.runner.next_logits(&padded.ids(&place.device)?, &mut sequences)?;
        Ok(logits.to_dtype(DType::F32)?.to_vec2()?)
    }

    fn decode(&mut self, batch: &[Prompt], options: GenerateOptions) -> Result<Vec<Generation>> {
        self.time_to_first_token = None;
        let config = &self.runner.config;
        let eos = &config.eos_ids;
        if let Decoding::Beam(beam) = options.decoding {
            return beam_search(&self.runner, batch, options, beam, masked(eos, options.length));
        }
        let chooser = Chooser::new(batch, options, eos, config.vocab_size, &self.runner.place.device)?;
        self.token_by_token(batch, options, chooser)
    }

    fn token_by_token(
        &mut self,
        batch: &[Prompt],
        options: GenerateOptions,
        mut chooser: Chooser,
    ) -> Result<Vec<Generation>> {
        let start = Instant::now();
        let device = self.runner.place.device.clone();
        let padded = LeftPadded::prompts(batch);
        #[cfg(feature = "cuda")]
        if let (Model::Gpu(model), Chooser::Greedy(_)) = (&self.runner.model, &chooser) {
            let eos = &self.runner.config.eos_ids;
            if let Some((answers, first)) = ahead::greedy(model, &padded, eos, options, start)? {
                self.time_to_first_token = Some(first);
                return Ok(answers);
            }
        }
        // the last new token is never read
        let capacity = padded.width + options.max_new_tokens - 1;
        let mut sequences = self.runner.begin(padded.starts.clone(), capacity)?;
        let mut progress = Progress::new(&self.runner.config.eos_ids, batch.len(), options);
        let mut ids = padded.ids(&device)?;
        loop {
            let logits = self.runner.next_logits(&ids, &mut sequences)?;
            progress.push(&chooser.choose(&logits)?);
            // choosing has waited for the device
            self.time_to_first_token.get_or_insert_with(|| Seconds(start.elapsed().as_secs_f64()));
            if progress.is_done() {
                return Ok(progress.finish());
            }
            ids = Tensor::from_vec(progress.inputs(), (batch.len(), 1), &device)?;
        }
    }

    /// On the CPU work is shared at the least cost when it begins on one of rayon's own threads.
    fn on_its_threads<T: Send>(&mut self, work: impl FnOnce(&mut Self) -> Result<T> + Send) -> Result<T> {
        match self.runner.place.device.is_cpu() {
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
        let config = &self.runner.config;
        check_request(batch, options, config.vocab_size, config.max_positions)?;
        self.on_its_threads(|engine| engine.decode(batch, options))
    }

    fn time_to_first_token(&self) -> Option<Seconds> {
        self.time_to_first_token
    }

    fn score(&mut self, batch: &[Continuation]) -> Result<Vec<Score>> {
        check_continuations(batch, &self.runner.config)?;
        self.on_its_threads(|engine| log_likelihoods(&engine.runner, batch))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::engine::decoder::Kernels;
    use crate::engine::load::{DeviceChoice, LoadOptions, load_decoder};

    /// Logits after each row of a batch of prompts that goes on as `rows`, then reads a token more.
    fn reordered(engine: &DecoderEngine, prompts: &[&[u32]], rows: &[usize], next: u32) -> Vec<Vec<f32>> {
        let padded = LeftPadded::new(prompts.iter().copied());
        let mut sequences = engine.runner.begin(padded.starts.clone(), padded.width + 3).unwrap();
        let device = &engine.runner.place.device;
        engine.runner.next_logits(&padded.ids(device).unwrap(), &mut sequences).unwrap();
        engine.runner.reorder(rows, &mut sequences).unwrap();
        let ids = Tensor::full(next, (rows.len(), 1), device).unwrap();
        engine.runner.next_logits(&ids, &mut sequences).unwrap().to_vec2().unwrap()
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
            let mut sequences = engine.runner.begin(vec![0], 4).unwrap();
            assert!(engine.runner.reorder(&[1], &mut sequences).is_err(), "the batch has no second row");
        }
    }
}
