//! A simulated model whose time and power are known, so that the whole program has exact answers without a GPU.
//!
//! 300 W and 10 ms a step at batch size 1 are exactly 3 J a token. Its "tokens" are words between blanks.

use std::collections::BTreeMap;

use super::interface::{Engine, GenerateOptions, Generation, Prompt};
use crate::clock::SimulatedDevice;
use crate::error::{Error, Kind, Result};
use crate::record::{
    Decoding, Finish, ModelInfo, OutputLength, Padding, SyntheticFailure, SyntheticFailureKind, SyntheticSpec,
};
use crate::units::{Seconds, Watts};

/// Number of token ids.
pub(crate) const VOCAB_SIZE: u32 = 4096;
/// The id that ends an answer.
pub(crate) const EOS: u32 = 0;

/// The synthetic engine: spends time and power on a simulated device.
pub struct Synthetic {
    spec: SyntheticSpec,
    device: SimulatedDevice,
    info: ModelInfo,
}

impl Synthetic {
    /// # Errors
    /// The same as [`SyntheticSpec::check`].
    pub fn new(spec: SyntheticSpec, device: SimulatedDevice) -> Result<Self> {
        spec.check()?;
        let info = info(&spec);
        Ok(Self { spec, device, info })
    }

    fn check_batch(&self, batch: &[Prompt]) -> Result<()> {
        if batch.is_empty() || batch.iter().any(|prompt| prompt.ids.is_empty()) {
            return Err(Error::input("an empty batch or prompt"));
        }
        if let Some(id) = batch.iter().flat_map(|prompt| &prompt.ids).find(|&&id| id >= VOCAB_SIZE) {
            return Err(Error::input(format!("token id {id} is outside the vocabulary of {VOCAB_SIZE}")));
        }
        match self.spec.fail {
            Some(failure) if batch.len() >= failure.from_batch_size => Err(failure.error(batch.len())),
            _ => Ok(()),
        }
    }

    fn natural_length(&self, prompt: &Prompt) -> Option<usize> {
        let extra = self.hash(prompt, 0) % (self.spec.eos_spread as u64 + 1);
        Some(self.spec.eos_after? + extra as usize)
    }

    fn generation(&self, prompt: &Prompt, options: GenerateOptions) -> Generation {
        let limit = options.max_new_tokens;
        let natural = self.natural_length(prompt).filter(|&length| length <= limit);
        let token = |step| 1 + (self.hash(prompt, step as u64 + 1) % u64::from(VOCAB_SIZE - 1)) as u32;
        match (options.length, natural) {
            (OutputLength::Natural, Some(length)) => {
                let ids = (0..length - 1).map(token).chain([EOS]).collect();
                Generation { ids, finish: Finish::Eos, natural_length: None }
            }
            (OutputLength::Natural, None) => {
                Generation { ids: (0..limit).map(token).collect(), finish: Finish::Length, natural_length: None }
            }
            (OutputLength::Fixed, natural_length) => {
                Generation { ids: (0..limit).map(token).collect(), finish: Finish::Length, natural_length }
            }
        }
    }

    fn hash(&self, prompt: &Prompt, step: u64) -> u64 {
        let words = [self.spec.seed, step].into_iter().chain(prompt.ids.iter().map(|&id| u64::from(id)));
        fnv(words.flat_map(u64::to_le_bytes))
    }
}

impl Engine for Synthetic {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn generate(&mut self, batch: &[Prompt], options: GenerateOptions) -> Result<Vec<Generation>> {
        if options.decoding != Decoding::Greedy {
            return Err(Error::input("a simulated model can't sample or follow beams").with_hint("remove `decoding`"));
        }
        self.check_batch(batch)?;
        let generations: Vec<_> = batch.iter().map(|prompt| self.generation(prompt, options)).collect();
        let steps = generations.iter().map(|generation| generation.ids.len()).max().unwrap_or(0);
        if self.spec.prefill_s > 0.0 {
            self.device.spend(Seconds(self.spec.prefill_s), Watts(self.spec.prefill_power()));
        }
        self.device.spend(Seconds(self.spec.step_s * steps as f64), Watts(self.spec.power_w));
        Ok(generations)
    }

    fn time_to_first_token(&self) -> Option<Seconds> {
        Some(Seconds(self.spec.prefill_s + self.spec.step_s))
    }
}

impl SyntheticFailure {
    fn error(self, rows: usize) -> Error {
        match self.kind {
            SyntheticFailureKind::Oom => Error::new(format!("out of memory at a batch of {rows}, on purpose"))
                .with_kind(Kind::OutOfMemory)
                .with_hint("use a smaller batch or a shorter output"),
            SyntheticFailureKind::Engine => Error::new(format!("the engine failed at a batch of {rows}, on purpose")),
        }
    }
}

fn info(spec: &SyntheticSpec) -> ModelInfo {
    ModelInfo {
        architecture: "synthetic".into(),
        engine: "synthetic".into(),
        parameters: spec.parameters,
        weight_bytes: None,
        dtype: "f32".into(),
        stored_dtype: None,
        device: "simulated".into(),
        revision: None,
        files: BTreeMap::new(),
        padding: Padding::Left,
        dummy: None,
        kernels: None,
        fallback: Vec::new(),
        workload: spec.workload.clone(),
        launches_per_step: spec.launches_per_step,
        notes: vec!["simulated: no model was run".into()],
    }
}

/// A token id for each word between blanks.
pub(crate) fn words_to_ids(text: &str) -> Vec<u32> {
    let id = |word: &str| 1 + (fnv(word.bytes()) % u64::from(VOCAB_SIZE - 1)) as u32;
    text.split_whitespace().map(id).collect()
}

/// An invented word for each token id, the end-of-sequence token left out.
///
/// Words of a prompt don't come back: their ids are hashes.
pub(crate) fn ids_to_text(ids: &[u32]) -> String {
    let words: Vec<String> = ids.iter().filter(|&&id| id != EOS).map(|id| format!("w{id}")).collect();
    words.join(" ")
}

/// The 64-bit hash of Fowler, Noll and Vo (FNV-1a), the same on every machine and in every version.
fn fnv(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Joules;

    fn spec(json: &str) -> SyntheticSpec {
        serde_json::from_str(json).unwrap()
    }

    fn prompts(texts: &[&str]) -> Vec<Prompt> {
        texts.iter().map(|text| Prompt { text: (*text).into(), ids: words_to_ids(text) }).collect()
    }

    fn run(
        spec: SyntheticSpec,
        texts: &[&str],
        max_new_tokens: usize,
        length: OutputLength,
    ) -> (Vec<Generation>, SimulatedDevice) {
        let device = SimulatedDevice::new(Watts(spec.idle_w));
        let mut engine = Synthetic::new(spec, device.clone()).unwrap();
        let options = GenerateOptions::greedy(max_new_tokens, length);
        (engine.generate(&prompts(texts), options).unwrap(), device)
    }

    #[test]
    fn three_hundred_watts_and_ten_milliseconds_a_step_are_three_joules_a_token() {
        let (generations, device) = run(spec(r#"{"power_w": 300, "step_s": 0.01}"#), &["one"], 32, OutputLength::Fixed);
        assert_eq!(generations[0].ids.len(), 32);
        assert_eq!(device.now(), Seconds(0.32));
        assert_eq!(device.energy(), Joules(96.0));
    }

    #[test]
    fn a_batch_shares_the_steps_and_prefill_costs_its_own_power() {
        let spec = spec(r#"{"power_w": 300, "step_s": 0.01, "prefill_s": 0.5, "prefill_w": 400}"#);
        let (generations, device) = run(spec, &["a", "b c", "d e f"], 100, OutputLength::Fixed);
        assert_eq!(generations.len(), 3);
        assert_eq!(device.now(), Seconds(1.5));
        assert_eq!(device.energy(), Joules(0.5 * 400.0 + 300.0));
    }

    #[test]
    fn natural_answers_end_with_the_eos_token_and_take_only_their_steps() {
        let (generations, device) =
            run(spec(r#"{"power_w": 100, "step_s": 0.5, "eos_after": 4}"#), &["one"], 32, OutputLength::Natural);
        assert_eq!(generations[0].ids.len(), 4);
        assert_eq!(generations[0].ids.iter().position(|&id| id == EOS), Some(3));
        assert_eq!(generations[0].finish, Finish::Eos);
        assert_eq!(device.energy(), Joules(200.0));
    }

    #[test]
    fn natural_answers_longer_than_the_limit_are_cut() {
        let (generations, _) =
            run(spec(r#"{"power_w": 100, "step_s": 0.5, "eos_after": 33}"#), &["one"], 32, OutputLength::Natural);
        assert_eq!((generations[0].ids.len(), generations[0].finish), (32, Finish::Length));
        assert!(!generations[0].ids.contains(&EOS));
    }

    #[test]
    fn the_longest_answer_of_a_batch_sets_its_steps() {
        let spec = spec(r#"{"power_w": 100, "step_s": 1, "eos_after": 3, "eos_spread": 9}"#);
        let texts = ["a", "b", "c", "d", "e", "f"];
        let (generations, device) = run(spec, &texts, 64, OutputLength::Natural);
        let lengths: Vec<usize> = generations.iter().map(|generation| generation.ids.len()).collect();
        let longest = *lengths.iter().max().unwrap();
        assert!(lengths.iter().any(|&length| length < longest), "{lengths:?}");
        assert!(lengths.iter().all(|length| (3..=12).contains(length)), "{lengths:?}");
        assert_eq!(device.now(), Seconds(longest as f64));
    }

    #[test]
    fn fixed_length_masks_the_eos_token_and_remembers_the_natural_length() {
        let spec = spec(r#"{"power_w": 100, "step_s": 1, "eos_after": 5}"#);
        let (generations, _) = run(spec.clone(), &["one"], 8, OutputLength::Fixed);
        assert_eq!((generations[0].ids.len(), generations[0].natural_length), (8, Some(5)));
        assert!(!generations[0].ids.contains(&EOS));
        assert_eq!(run(spec, &["one"], 4, OutputLength::Fixed).0[0].natural_length, None);
    }

    #[test]
    fn the_same_prompt_and_seed_give_the_same_tokens_and_others_do_not() {
        let tokens = |seed: u64, text: &str| {
            let spec = SyntheticSpec { seed, ..spec(r#"{"power_w": 100, "step_s": 1}"#) };
            run(spec, &[text], 8, OutputLength::Natural).0.remove(0).ids
        };
        assert_eq!(tokens(1, "one"), tokens(1, "one"));
        assert_ne!(tokens(1, "one"), tokens(2, "one"));
        assert_ne!(tokens(1, "one"), tokens(1, "two"));
        assert!(tokens(1, "one").iter().all(|&id| id < VOCAB_SIZE));
    }

    #[test]
    fn large_batches_fail_as_told_and_small_ones_do_not() {
        let spec = spec(r#"{"power_w": 100, "step_s": 1, "fail": {"kind": "oom", "from_batch_size": 2}}"#);
        let device = SimulatedDevice::new(Watts(60.0));
        let mut engine = Synthetic::new(spec, device).unwrap();
        let options = GenerateOptions::greedy(2, OutputLength::Fixed);
        assert!(engine.generate(&prompts(&["a"]), options).is_ok());
        let error = engine.generate(&prompts(&["a", "b"]), options).unwrap_err();
        assert_eq!(error.kind(), Kind::OutOfMemory);
    }

    #[test]
    fn empty_input_and_ids_outside_the_vocabulary_are_refused() {
        let mut engine =
            Synthetic::new(spec(r#"{"power_w": 100, "step_s": 1}"#), SimulatedDevice::new(Watts(60.0))).unwrap();
        let options = GenerateOptions::greedy(2, OutputLength::Fixed);
        let foreign = Prompt { text: String::new(), ids: vec![VOCAB_SIZE] };
        assert!(engine.generate(&[], options).is_err());
        assert!(engine.generate(&prompts(&[""]), options).is_err());
        assert!(engine.generate(&[foreign], options).is_err());
    }

    #[test]
    fn impossible_specifications_and_unknown_keys_are_refused() {
        for json in [r#"{"power_w": -1, "step_s": 1}"#, r#"{"power_w": 1, "step_s": 0}"#] {
            assert!(spec(json).check().is_err(), "{json}");
        }
        let unknown = SyntheticSpec { power_w: f64::NAN, ..spec(r#"{"power_w": 1, "step_s": 1}"#) };
        assert!(unknown.check().is_err());
        assert!(spec(r#"{"power_w": 1, "step_s": 1, "eos_after": 0}"#).check().is_err());
        for heat in [r#"{"share_per_c": -1}"#, r#"{"time_constant_s": 0}"#, r#"{"c_per_w": 0.5}"#] {
            let json = format!(r#"{{"power_w": 300, "step_s": 1, "heat": {heat}}}"#);
            assert!(spec(&json).check().is_err(), "{heat}");
        }
        assert!(spec(r#"{"power_w": 300, "step_s": 1, "heat": {}}"#).check().is_ok());
        assert!(serde_json::from_str::<SyntheticSpec>(r#"{"power_w": 1, "step_s": 1, "step_ms": 3}"#).is_err());
    }
}
