//! Seeded sampling: a token drawn at each step.
//!
//! The logits of a row are divided by the temperature; `top_k`, `top_p` and `min_p`, in this order, each leave fewer
//! tokens; the softmax of those left is what is drawn from. Order and sets are those of Hugging Face transformers
//! (`TemperatureLogitsWarper`, `TopKLogitsWarper`, `TopPLogitsWarper`, `MinPLogitsWarper`).
//!
//! The draw depends on the seed, the prompt's token ids and the step, and on nothing else: a prompt gets the same
//! numbers in any batch, at any place in it, and in each pass. The generator of a prompt is ChaCha with 8 rounds, its
//! key the SHA-256 of `ept-sweep sampling 1`, the seed (8 bytes, little-endian) and the token ids (4 bytes each,
//! little-endian). Step n takes words 2n and 2n + 1 of 64 bits: the first 53 bits of a word are the binary fraction u,
//! and the token drawn is the first, in the order of ids, at which the probabilities add up to more than u.
//!
//! In `fixed` length a draw that ends the answer is noted, and the second word draws again among the other tokens
//! (masked before the temperature). So the answer is, up to its natural end, that of `natural` length.
//!
//! The logits `(b, vocabulary)` of each step are brought to the host in f32.

use candle_core::Tensor;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use rayon::prelude::*;

use super::choice::{Choice, not_numbers, to_host};
use crate::digest::sha256;
use crate::engine::interface::Prompt;
use crate::error::{Error, Result};
use crate::record::Sampling;

/// Draws the tokens of a batch.
pub(crate) struct Sampler {
    sampling: Sampling,
    /// Tokens that end an answer and may not.
    masked: Vec<u32>,
    /// The generator of each row.
    rows: Vec<ChaCha8Rng>,
}

impl Sampler {
    /// A sampler for a batch; a draw among `masked` tokens is noted, and another token drawn.
    pub(crate) fn new(sampling: Sampling, masked: &[u32], batch: &[Prompt]) -> Self {
        let rows = batch.iter().map(|prompt| generator(sampling.seed, &prompt.ids)).collect();
        Self { sampling, masked: masked.to_vec(), rows }
    }

    /// Draws the next token of each row of the logits `(b, vocabulary)`.
    ///
    /// # Errors
    /// Logits that aren't numbers.
    pub(crate) fn draw(&mut self, logits: &Tensor) -> Result<Vec<Choice>> {
        let vocabulary = logits.dim(1)?;
        let logits = to_host(logits)?;
        let (sampling, masked) = (&self.sampling, self.masked.as_slice());
        let rows = self.rows.par_iter_mut().zip(logits.par_chunks(vocabulary));
        // two words a step whether or not the second is used: the step alone decides where in the sequence it reads
        rows.map(|(random, logits)| draw_row(logits, masked, sampling, [fraction(random), fraction(random)])).collect()
    }
}

fn draw_row(logits: &[f32], masked: &[u32], sampling: &Sampling, draws: [f64; 2]) -> Result<Choice> {
    let any = Candidates::of(logits, &[], sampling)?.draw(draws[0])?;
    let not_eos = match masked.contains(&any) {
        true => Candidates::of(logits, masked, sampling)?.draw(draws[1])?,
        false => any,
    };
    Ok(Choice { any, not_eos })
}

fn generator(seed: u64, ids: &[u32]) -> ChaCha8Rng {
    let mut key = b"ept-sweep sampling 1".to_vec();
    key.extend(seed.to_le_bytes());
    key.extend(ids.iter().flat_map(|id| id.to_le_bytes()));
    ChaCha8Rng::from_seed(sha256(&key))
}

/// Uniform from 0 to below 1.
fn fraction(random: &mut ChaCha8Rng) -> f64 {
    (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// The tokens that may be drawn, in the order of their ids, with logits over temperature.
struct Candidates(Vec<Candidate>);

#[derive(Clone, Copy)]
struct Candidate {
    id: u32,
    score: f32,
}

impl Candidates {
    /// The tokens that `sampling` leaves of a row's logits, without the `masked` ones: at least one.
    fn of(logits: &[f32], masked: &[u32], sampling: &Sampling) -> Result<Self> {
        let temperature = sampling.temperature as f32;
        let scores = (0..).zip(logits).map(|(id, logit)| Candidate { id, score: logit / temperature });
        let mut candidates = Self(scores.filter(|candidate| !masked.contains(&candidate.id)).collect());
        if candidates.0.iter().any(|candidate| candidate.score.is_nan() || candidate.score == f32::INFINITY) {
            return Err(not_numbers());
        }
        candidates.0.retain(|candidate| candidate.score > f32::NEG_INFINITY);
        if candidates.0.is_empty() {
            return Err(if masked.is_empty() { not_numbers() } else { nothing_left() });
        }
        candidates.keep_top_k(sampling.top_k);
        candidates.keep_top_p(sampling.top_p);
        candidates.keep_min_p(sampling.min_p);
        Ok(candidates)
    }

    /// Drops what is less likely than the k-th token; 0 keeps all.
    fn keep_top_k(&mut self, k: usize) {
        if k == 0 || k >= self.0.len() {
            return;
        }
        let mut scores: Vec<f32> = self.0.iter().map(|candidate| candidate.score).collect();
        let (_, least, _) = scores.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
        let least = *least;
        self.0.retain(|candidate| candidate.score >= least);
    }

    /// Drops the least likely tokens as long as all that are dropped have a probability of at most 1 − p together. Of
    /// equally likely ones the lowest id stays longest.
    fn keep_top_p(&mut self, p: f64) {
        if p >= 1.0 {
            return;
        }
        let probabilities = self.probabilities();
        // so unlikely that all of them together can be dropped: they needn't be sorted
        let negligible = ((1.0 - p) / (2.0 * self.0.len() as f64)) as f32;
        let mut dropped: f64 = probabilities.iter().filter(|p| **p < negligible).copied().map(f64::from).sum();
        let rest = self.0.iter().copied().zip(probabilities).filter(|(_, probability)| *probability >= negligible);
        let mut rest: Vec<(Candidate, f32)> = rest.collect();
        rest.sort_unstable_by(|(a, _), (b, _)| a.score.total_cmp(&b.score).then(b.id.cmp(&a.id)));
        let limit = (1.0 - p) as f32;
        let first_kept = rest.iter().position(|(_, probability)| {
            dropped += f64::from(*probability);
            dropped as f32 > limit
        });
        // rounding may leave none
        let first_kept = first_kept.unwrap_or(rest.len().saturating_sub(1));
        self.0 = rest.split_off(first_kept).into_iter().map(|(candidate, _)| candidate).collect();
        self.0.sort_unstable_by_key(|candidate| candidate.id);
    }

    /// Drops what has less than this share of the largest probability.
    fn keep_min_p(&mut self, min_p: Option<f64>) {
        let Some(min_p) = min_p else { return };
        let probabilities = self.probabilities();
        let least = min_p as f32 * probabilities.iter().copied().fold(0.0, f32::max);
        let mut probabilities = probabilities.into_iter();
        self.0.retain(|_| probabilities.next().is_some_and(|probability| probability >= least));
    }

    /// Softmax of the scores.
    fn probabilities(&self) -> Vec<f32> {
        let largest = self.0.iter().map(|candidate| candidate.score).fold(f32::NEG_INFINITY, f32::max);
        let powers: Vec<f32> = self.0.iter().map(|candidate| (candidate.score - largest).exp()).collect();
        // in f64: a vocabulary of small terms would add up to a visible error in f32
        let sum = powers.iter().copied().map(f64::from).sum::<f64>() as f32;
        powers.into_iter().map(|power| power / sum).collect()
    }

    /// The first token at which the probabilities add up to more than `fraction` of all of them.
    fn draw(&self, fraction: f64) -> Result<u32> {
        let probabilities = self.probabilities();
        let all: f64 = probabilities.iter().copied().map(f64::from).sum();
        let mut sum = 0.0;
        let drawn = probabilities.iter().position(|probability| {
            sum += f64::from(*probability);
            sum > fraction * all
        });
        // rounding may leave the sum short of the fraction
        let drawn = drawn.or_else(|| probabilities.iter().rposition(|probability| *probability > 0.0));
        drawn.and_then(|index| self.0.get(index)).map(|candidate| candidate.id).ok_or_else(not_numbers)
    }
}

fn nothing_left() -> Error {
    Error::input("every token of the model ends an answer").with_hint("use `generation: {length: natural}`")
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use serde::Deserialize;

    use super::*;

    const ALL: Sampling = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: None, seed: 3 };

    fn prompt(ids: &[u32]) -> Prompt {
        Prompt { text: String::new(), ids: ids.to_vec() }
    }

    /// Draws of one prompt over steps that all have the same logits.
    fn draws(sampling: Sampling, masked: &[u32], logits: &[f32], steps: usize) -> Vec<Choice> {
        let mut sampler = Sampler::new(sampling, masked, &[prompt(&[5, 6])]);
        let logits = Tensor::from_slice(logits, (1, logits.len()), &Device::Cpu).unwrap();
        (0..steps).map(|_| sampler.draw(&logits).unwrap()[0]).collect()
    }

    /// Pearson's χ² of counts against probabilities: the chance of a larger one.
    fn chi_square(counts: &[usize], probabilities: &[f64]) -> f64 {
        let all: usize = counts.iter().sum();
        let term = |(count, probability): (&usize, &f64)| {
            let expected = probability * all as f64;
            (*count as f64 - expected).powi(2) / expected
        };
        let statistic: f64 = counts.iter().zip(probabilities).map(term).sum();
        crate::stats::chi_squared_p(statistic, counts.len() - 1)
    }

    fn softmax(logits: &[f32], temperature: f64) -> Vec<f64> {
        let powers: Vec<f64> = logits.iter().map(|logit| (f64::from(*logit) / temperature).exp()).collect();
        let sum: f64 = powers.iter().sum();
        powers.into_iter().map(|power| power / sum).collect()
    }

    const LOGITS: [f32; 8] = [0.3, -1.2, 2.0, 0.0, 1.1, -0.4, 0.9, -2.0];

    #[test]
    fn tokens_are_drawn_as_often_as_the_softmax_says() {
        for temperature in [0.5, 1.0, 1.7] {
            let drawn = draws(Sampling { temperature, ..ALL }, &[], &LOGITS, 40_000);
            let counts: Vec<usize> =
                (0..8).map(|token| drawn.iter().filter(|choice| choice.any == token).count()).collect();
            let chance = chi_square(&counts, &softmax(&LOGITS, temperature));
            assert!(chance > 0.01, "temperature {temperature}: {counts:?} by chance {chance}");
        }
    }

    #[test]
    fn a_masked_token_is_noted_and_the_others_are_drawn_as_if_it_did_not_exist() {
        let drawn = draws(ALL, &[2], &LOGITS, 40_000);
        let mut probabilities = softmax(&LOGITS, 1.0);
        let ended = drawn.iter().filter(|choice| choice.any == 2).count();
        let chance = chi_square(&[ended, 40_000 - ended], &[probabilities[2], 1.0 - probabilities[2]]);
        assert!(chance > 0.01, "{ended} ended by chance {chance}");
        let rest = 1.0 - probabilities.remove(2);
        probabilities.iter_mut().for_each(|probability| *probability /= rest);
        let count = |token: &u32| drawn.iter().filter(|choice| choice.not_eos == *token).count();
        let counts: Vec<usize> = [0, 1, 3, 4, 5, 6, 7].iter().map(count).collect();
        assert!(chi_square(&counts, &probabilities) > 0.01, "{counts:?}");
        assert!(drawn.iter().all(|choice| choice.any == 2 || choice.any == choice.not_eos));
    }

    #[test]
    fn the_draw_of_a_prompt_does_not_depend_on_its_batch() {
        let prompts = [prompt(&[1]), prompt(&[2, 3]), prompt(&[1, 2, 3])];
        let answers = |batch: &[Prompt]| {
            let mut sampler = Sampler::new(ALL, &[], batch);
            let logits = Tensor::new(vec![LOGITS.to_vec(); batch.len()], &Device::Cpu).unwrap();
            let steps: Vec<Vec<Choice>> = (0..20).map(|_| sampler.draw(&logits).unwrap()).collect();
            (0..batch.len()).map(|row| steps.iter().map(|step| step[row].any).collect()).collect::<Vec<Vec<u32>>>()
        };
        let together = answers(&prompts);
        for (prompt, answer) in prompts.iter().zip(&together) {
            assert_eq!(answers(std::slice::from_ref(prompt))[0], *answer);
        }
        assert_ne!(together[0], together[1]);
        assert_ne!(
            answers(&prompts[..1]),
            [draws(Sampling { seed: 4, ..ALL }, &[], &LOGITS, 20)]
                .map(|steps| { steps.iter().map(|choice| choice.any).collect::<Vec<_>>() })
        );
    }

    /// The generator is part of what a sweep file means: other numbers would be other work.
    #[test]
    fn the_generator_is_the_one_that_is_documented() {
        let golden: Golden = golden();
        let mut random = generator(golden.generator.seed, &golden.generator.ids);
        for expected in &golden.generator.words {
            assert_eq!(random.next_u64().to_string(), *expected);
        }
    }

    #[derive(Deserialize)]
    struct Golden {
        generator: Generator,
        candidates: Vec<CandidateCase>,
    }

    #[derive(Deserialize)]
    struct Generator {
        seed: u64,
        ids: Vec<u32>,
        words: Vec<String>,
    }

    #[derive(Deserialize)]
    struct CandidateCase {
        sampling: Sampling,
        logits: Vec<f32>,
        kept: Vec<u32>,
        probabilities: Vec<f32>,
    }

    fn golden() -> Golden {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/sampling.json");
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    #[test]
    fn the_tokens_left_are_those_that_transformers_leaves() {
        for (index, case) in golden().candidates.iter().enumerate() {
            let left = Candidates::of(&case.logits, &[], &case.sampling).unwrap();
            let ids: Vec<u32> = left.0.iter().map(|candidate| candidate.id).collect();
            assert_eq!(ids, case.kept, "case {index}: {:?}", case.sampling);
            for (ours, theirs) in left.probabilities().iter().zip(&case.probabilities) {
                assert!((ours - theirs).abs() < 1e-6, "case {index}: {ours} against {theirs}");
            }
        }
    }

    #[test]
    fn of_equally_likely_tokens_the_lowest_ids_stay() {
        let left = |sampling| Candidates::of(&[1.0; 10], &[], &sampling).unwrap().0.iter().map(|c| c.id).collect();
        let ids: Vec<u32> = left(Sampling { top_p: 0.35, ..ALL });
        assert_eq!(ids, [0, 1, 2, 3]);
        let tied: Vec<u32> = left(Sampling { top_k: 3, ..ALL });
        assert_eq!(tied.len(), 10, "as in transformers, what ties with the k-th token stays");
    }

    #[test]
    fn logits_that_are_not_numbers_are_an_error_and_impossible_tokens_are_never_drawn() {
        for logits in [[f32::NAN, 1.0], [f32::INFINITY, 1.0], [f32::NEG_INFINITY; 2]] {
            let error = Candidates::of(&logits, &[], &ALL).err().unwrap();
            assert_eq!(error.message(), "the model's logits aren't numbers");
        }
        let drawn = draws(ALL, &[], &[f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY], 100);
        assert!(drawn.iter().all(|choice| choice.any == 1));
        assert!(Candidates::of(&[1.0], &[0], &ALL).is_err());
    }
}
