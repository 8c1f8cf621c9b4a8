//! Greedy decoding of a left-padded batch.

use candle_core::{DType, Device, Tensor};

use super::cache::{Place, Sequences};
use super::config::Config;
use super::decoder::Decoder;
use super::pick::{Choice, Picker};
use super::rope::RopeTable;
use super::{Engine, GenerateOptions, Generation, Prompt};
use crate::error::{Error, Result};
use crate::record::{Finish, ModelInfo, OutputLength};

/// Positions that the rotation table gets to begin with; it grows when a longer sequence comes.
const FIRST_POSITIONS: usize = 1024;

/// Fed to rows that have ended and to the left of short prompts; masked, so that any token would do.
const PAD: u32 = 0;

/// A model of the Llama family, loaded.
pub struct DecoderEngine {
    pub(super) config: Config,
    pub(super) decoder: Decoder,
    pub(super) place: Place,
    pub(super) rope: RopeTable,
    pub(super) info: ModelInfo,
}

impl DecoderEngine {
    pub(super) fn new(config: Config, decoder: Decoder, place: Place, info: ModelInfo) -> Self {
        let rope = RopeTable::new(&config.rope, config.head_dim, FIRST_POSITIONS.min(config.max_positions));
        Self { config, decoder, place, rope, info }
    }

    /// Logits that follow each prompt, computed as one left-padded batch.
    ///
    /// # Errors
    /// As for [`Engine::generate`].
    pub fn prompt_logits(&mut self, batch: &[Prompt]) -> Result<Vec<Vec<f32>>> {
        self.check(batch, 0)?;
        let padded = LeftPadded::new(batch);
        let mut sequences = self.sequences(&padded, 0)?;
        let logits = self.decoder.forward(&padded.ids(&self.place.device)?, &self.rope, &mut sequences)?;
        Ok(logits.to_dtype(DType::F32)?.to_vec2()?)
    }

    fn check(&self, batch: &[Prompt], max_new_tokens: usize) -> Result<()> {
        check_batch(batch, max_new_tokens, self.config.vocab_size, self.config.max_positions)
    }

    /// An empty cache with room for the prompts and `new_tokens` more.
    fn sequences(&mut self, padded: &LeftPadded, new_tokens: usize) -> Result<Sequences> {
        let columns = padded.width + new_tokens;
        if self.rope.positions() < columns {
            self.rope = RopeTable::new(&self.config.rope, self.config.head_dim, columns.next_power_of_two());
        }
        Sequences::new(&self.config, &self.place, &self.rope, padded.starts.clone(), columns)
    }

    fn decode(&mut self, batch: &[Prompt], options: GenerateOptions) -> Result<Vec<Generation>> {
        let device = self.place.device.clone();
        let padded = LeftPadded::new(batch);
        let mut sequences = self.sequences(&padded, options.max_new_tokens - 1)?;
        let fixed = options.length == OutputLength::Fixed;
        let picker = Picker::new(&self.config.eos_ids, fixed, self.config.vocab_size, &device)?;
        let mut progress = Progress::new(&self.config.eos_ids, batch.len(), options);
        let mut ids = padded.ids(&device)?;
        loop {
            let logits = self.decoder.forward(&ids, &self.rope, &mut sequences)?;
            progress.push(&picker.pick(&logits)?);
            if progress.is_done() {
                return Ok(progress.finish());
            }
            ids = Tensor::from_vec(progress.inputs(), (batch.len(), 1), &device)?;
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
        self.check(batch, options.max_new_tokens)?;
        match self.place.device.is_cpu() {
            // On one of rayon's own threads, sharing work with the others costs least.
            true => rayon::scope(|_| self.decode(batch, options)),
            false => self.decode(batch, options),
        }
    }
}

/// Refuses prompts that a model of `vocabulary` tokens and `limit` positions can't take.
pub(super) fn check_batch(batch: &[Prompt], max_new_tokens: usize, vocabulary: usize, limit: usize) -> Result<()> {
    if batch.is_empty() {
        return Err(Error::input("the batch is empty"));
    }
    for (index, prompt) in batch.iter().enumerate() {
        let at = |error: Error| error.at(format!("prompt {index} of the batch"));
        check_prompt(&prompt.ids, max_new_tokens, vocabulary, limit).map_err(at)?;
    }
    Ok(())
}

fn check_prompt(ids: &[u32], max_new_tokens: usize, vocabulary: usize, limit: usize) -> Result<()> {
    if ids.is_empty() {
        return Err(Error::input("it has no tokens"));
    }
    if let Some(id) = ids.iter().find(|id| **id as usize >= vocabulary) {
        let message = format!("token id {id} is outside of the model's vocabulary of {vocabulary}");
        return Err(Error::input(message).hint("the tokenizer doesn't belong to this model"));
    }
    if ids.len().saturating_add(max_new_tokens) > limit {
        let message =
            format!("{} tokens and {max_new_tokens} new ones don't fit the model's {limit} positions", ids.len());
        return Err(Error::input(message).hint("lower `max_new_tokens`, or use shorter prompts"));
    }
    Ok(())
}

/// Prompts side by side, ending at the same column.
struct LeftPadded {
    ids: Vec<u32>,
    starts: Vec<usize>,
    width: usize,
}

impl LeftPadded {
    fn new(batch: &[Prompt]) -> Self {
        let width = batch.iter().map(|prompt| prompt.ids.len()).max().unwrap_or(0);
        let starts: Vec<usize> = batch.iter().map(|prompt| width - prompt.ids.len()).collect();
        let rows = batch.iter().zip(&starts);
        let ids = rows.flat_map(|(prompt, start)| std::iter::repeat_n(PAD, *start).chain(prompt.ids.iter().copied()));
        Self { ids: ids.collect(), starts, width }
    }

    /// `(b, width)`.
    fn ids(&self, device: &Device) -> Result<Tensor> {
        Ok(Tensor::from_slice(&self.ids, (self.starts.len(), self.width), device)?)
    }
}

/// What each row has generated so far.
pub(super) struct Progress<'a> {
    eos: &'a [u32],
    options: GenerateOptions,
    rows: Vec<Row>,
    steps: usize,
}

#[derive(Clone, Default)]
struct Row {
    ids: Vec<u32>,
    ended: bool,
    natural_length: Option<usize>,
}

impl<'a> Progress<'a> {
    pub(super) fn new(eos: &'a [u32], rows: usize, options: GenerateOptions) -> Self {
        Self { eos, options, rows: vec![Row::default(); rows], steps: 0 }
    }

    /// Takes the choices of one step, one for each row.
    pub(super) fn push(&mut self, choices: &[Choice]) {
        self.steps += 1;
        for (row, choice) in self.rows.iter_mut().zip(choices) {
            let is_eos = self.eos.contains(&choice.any);
            match self.options.length {
                OutputLength::Natural if row.ended => {}
                OutputLength::Natural => {
                    row.ids.push(choice.any);
                    row.ended = is_eos;
                }
                OutputLength::Fixed => {
                    row.ids.push(choice.not_eos);
                    if is_eos && row.natural_length.is_none() {
                        row.natural_length = Some(self.steps);
                    }
                }
            }
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.steps == self.options.max_new_tokens || self.rows.iter().all(|row| row.ended)
    }

    /// The next input of each row.
    pub(super) fn inputs(&self) -> Vec<u32> {
        let input = |row: &Row| if row.ended { PAD } else { row.ids.last().copied().unwrap_or(PAD) };
        self.rows.iter().map(input).collect()
    }

    pub(super) fn finish(self) -> Vec<Generation> {
        let finish = |ended| if ended { Finish::Eos } else { Finish::Length };
        let generation =
            |row: Row| Generation { ids: row.ids, finish: finish(row.ended), natural_length: row.natural_length };
        self.rows.into_iter().map(generation).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choices(rows: &[(u32, u32)]) -> Vec<Choice> {
        rows.iter().map(|(any, not_eos)| Choice { any: *any, not_eos: *not_eos }).collect()
    }

    fn natural(max_new_tokens: usize) -> GenerateOptions {
        GenerateOptions { max_new_tokens, length: OutputLength::Natural }
    }

    #[test]
    fn a_row_that_ended_is_fed_padding_and_keeps_its_answer() {
        let mut progress = Progress::new(&[7, 9], 2, natural(8));
        progress.push(&choices(&[(9, 9), (4, 4)]));
        assert!(!progress.is_done());
        assert_eq!(progress.inputs(), [PAD, 4]);
        progress.push(&choices(&[(5, 5), (7, 7)]));
        assert!(progress.is_done());
        let ended = |ids: &[u32]| Generation { ids: ids.to_vec(), finish: Finish::Eos, natural_length: None };
        assert_eq!(progress.finish(), [ended(&[9]), ended(&[4, 7])]);
    }

    #[test]
    fn a_natural_row_without_end_stops_at_the_limit() {
        let mut progress = Progress::new(&[7], 1, natural(2));
        progress.push(&choices(&[(1, 1)]));
        progress.push(&choices(&[(2, 2)]));
        assert!(progress.is_done());
        assert_eq!(progress.finish()[0].finish, Finish::Length);
    }

    #[test]
    fn a_fixed_row_goes_on_and_remembers_its_first_natural_end() {
        let options = GenerateOptions { max_new_tokens: 3, length: OutputLength::Fixed };
        let mut progress = Progress::new(&[7], 1, options);
        for choice in [(1, 1), (7, 2), (7, 3)] {
            assert!(!progress.is_done());
            progress.push(&choices(&[choice]));
        }
        assert!(progress.is_done());
        let expected = Generation { ids: vec![1, 2, 3], finish: Finish::Length, natural_length: Some(2) };
        assert_eq!(progress.finish(), [expected]);
    }
}
