//! Decoding of prompts in groups of equal length.

use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::definition::{Definition, Model};
use super::grouped_config::GroupedConfig;
use super::source::{self, OUTPUTS};
use crate::engine::device::{self, DeviceChoice};
use crate::engine::dtype;
use crate::engine::generate::{Chooser, Progress, check_batch, check_request};
use crate::engine::identity::digests;
use crate::engine::interface::{Engine, GenerateOptions, Generation, Prompt};
use crate::engine::options::LoadOptions;
use crate::engine::summary::ModelSummary;
use crate::engine::weights::Safetensors;
use crate::error::{Error, Result};
use crate::record::{Decoding, KernelsChoice, KernelsUsed, ModelInfo, Padding};

/// The note of a model that can't pad.
const GROUPED: &str =
    "prompts are grouped by equal length: a batch runs as one group after another, one for each length";
/// The note of a model that can't decode a batch.
const ONE_ROW: &str = "its code decodes one sequence at a time: a batch runs one prompt after another";

/// A model that can't pad, loaded.
pub struct GroupedEngine {
    model: Box<dyn Model>,
    /// Most rows of a group.
    most_rows: usize,
    vocab_size: usize,
    max_positions: usize,
    eos_ids: Vec<u32>,
    device: Device,
    info: ModelInfo,
}

/// Reads what a model is from its config and the headers of its weights.
///
/// # Errors
/// Files that are missing or damaged, or weights that don't belong to the config.
pub(crate) fn inspect(config: GroupedConfig, folder: &Path) -> Result<ModelSummary> {
    let weights = Safetensors::open(folder)?;
    let names = source::checked_names(&config.definition, &weights)?;
    let Definition { cache, max_positions, vocab_size, only_f32, .. } = config.definition;
    Ok(ModelSummary {
        architecture: config.architecture,
        parameters: parameters(&weights, names.iter())?,
        max_positions: max_positions.unwrap_or(usize::MAX),
        vocab_size,
        layers: cache.layers,
        kv_heads: cache.heads,
        head_dim: cache.head_dim,
        stored_dtype: weights.stored_dtype().as_str().to_owned(),
        heads: 0,
        hidden_size: 0,
        inner_size: 0,
        quantised: false,
        dequantised_bytes: 0,
        only_dtype: only_f32.map(|_| "f32"),
        stored_bytes: weights.stored_bytes(),
    })
}

/// Loads a model of the kind that runs in groups.
///
/// # Errors
/// Files that are missing or damaged, weights that don't belong to the config, a data type that isn't supported, or a
/// device that isn't there or is full.
pub(crate) fn load(
    config: GroupedConfig,
    folder: &Path,
    options: &LoadOptions<'_>,
    device: DeviceChoice,
) -> Result<GroupedEngine> {
    let GroupedConfig { architecture, eos_ids, definition } = config;
    let weights = Safetensors::open(folder)?;
    let names = source::checked_names(&definition, &weights)?;
    let device = device.open()?;
    let (dtype, mut notes) = run_dtype(&definition, &architecture, options.dtype, weights.stored_dtype(), &device)?;
    let model = source::build(&definition, &weights, dtype, &device)?;
    notes.push(GROUPED.to_owned());
    let most_rows = if definition.one_row { 1 } else { usize::MAX };
    notes.extend(definition.one_row.then(|| ONE_ROW.to_owned()));
    notes.extend(definition.notes.iter().cloned());
    let has_output = OUTPUTS.iter().any(|name| names.contains(*name));
    let looked_up = |name: &&String| has_output && *name == definition.embedding;
    let read = parameters(&weights, names.iter().filter(|name| !looked_up(name)))? * dtype.size_in_bytes() as u64;
    let info = ModelInfo {
        architecture,
        engine: definition.engine.to_owned(),
        parameters: Some(parameters(&weights, names.iter())?),
        // how many experts a step reads depends on the tokens
        weight_bytes: definition.experts.is_none().then_some(read),
        dtype: dtype.as_str().to_owned(),
        stored_dtype: Some(weights.stored_dtype().as_str().to_owned()),
        device: device::name(&device),
        revision: options.revision.clone(),
        files: digests(folder, weights.paths())?,
        padding: Padding::Grouped,
        dummy: None,
        kernels: Some(KernelsUsed::Plain),
        fallback: fallback(options.kernels),
        workload: None,
        launches_per_step: None,
        notes,
    };
    let max_positions = definition.max_positions.unwrap_or(usize::MAX);
    Ok(GroupedEngine { model, most_rows, vocab_size: definition.vocab_size, max_positions, eos_ids, device, info })
}

/// Why it doesn't run on kernels of our own.
fn fallback(choice: KernelsChoice) -> Vec<String> {
    match choice {
        KernelsChoice::Plain => Vec::new(),
        KernelsChoice::Auto => {
            vec!["the architecture is outside the decoder, which alone has its own kernels".to_owned()]
        }
    }
}

fn parameters<'a>(weights: &Safetensors, names: impl Iterator<Item = &'a String>) -> Result<u64> {
    let count = |name: &String| Ok(weights.shape(name)?.iter().map(|size| *size as u64).product::<u64>());
    names.map(count).sum()
}

/// The data type to run in, with notes for the record.
fn run_dtype(
    definition: &Definition,
    architecture: &str,
    asked: Option<&str>,
    stored: DType,
    device: &Device,
) -> Result<(DType, Vec<String>)> {
    let Some(reason) = definition.only_f32 else { return dtype::run_dtype(asked, stored, device.is_cpu()) };
    match asked {
        None | Some("f32") if stored == DType::F32 => Ok((DType::F32, Vec::new())),
        None | Some("f32") => Ok((DType::F32, vec![format!("run in f32: {reason}")])),
        Some(other) => {
            let message = format!("`{architecture}` can't run in `{other}`: {reason}");
            Err(Error::input(message).with_hint("set `dtype: f32`"))
        }
    }
}

impl GroupedEngine {
    /// Logits that follow each prompt.
    ///
    /// # Errors
    /// As for [`Engine::generate`].
    pub fn prompt_logits(&mut self, batch: &[Prompt]) -> Result<Vec<Vec<f32>>> {
        check_batch(batch, 0, self.vocab_size, self.max_positions)?;
        let mut all = vec![Vec::new(); batch.len()];
        for group in groups(batch, self.most_rows) {
            let prompts: Vec<&Prompt> = group.iter().map(|index| &batch[*index]).collect();
            let logits = self.prefill(&prompts, 0)?.to_dtype(DType::F32)?.to_vec2()?;
            for (index, row) in group.into_iter().zip(logits) {
                all[index] = row;
            }
        }
        Ok(all)
    }

    /// Logits `(b, vocabulary)` that follow prompts of the same length.
    fn prefill(&mut self, group: &[&Prompt], new_tokens: usize) -> Result<Tensor> {
        let width = group.first().map_or(0, |prompt| prompt.ids.len());
        let ids: Vec<u32> = group.iter().flat_map(|prompt| prompt.ids.iter().copied()).collect();
        let ids = Tensor::from_vec(ids, (group.len(), width), &self.device)?;
        self.model.begin(group.len(), width + new_tokens)?;
        Ok(self.model.forward(&ids, 0)?)
    }

    /// Answers to prompts of the same length. The group goes on until its last row has ended.
    fn decode(&mut self, group: &[&Prompt], options: GenerateOptions) -> Result<Vec<Generation>> {
        let prompts: Vec<Prompt> = group.iter().map(|prompt| (*prompt).clone()).collect();
        let mut chooser = Chooser::new(&prompts, options, &self.eos_ids, self.vocab_size, &self.device)?;
        let mut past = group.first().map_or(0, |prompt| prompt.ids.len());
        let mut logits = self.prefill(group, options.max_new_tokens - 1)?;
        let eos_ids = self.eos_ids.clone();
        let mut progress = Progress::new(&eos_ids, group.len(), options);
        loop {
            progress.push(&chooser.choose(&logits)?);
            if progress.is_done() {
                return Ok(progress.finish());
            }
            let ids = Tensor::from_vec(progress.inputs(), (group.len(), 1), &self.device)?;
            logits = self.model.forward(&ids, past)?;
            past += 1;
        }
    }

    fn decode_groups(&mut self, batch: &[Prompt], options: GenerateOptions) -> Result<Vec<Generation>> {
        let mut answers: Vec<(usize, Generation)> = Vec::with_capacity(batch.len());
        for group in groups(batch, self.most_rows) {
            let prompts: Vec<&Prompt> = group.iter().map(|index| &batch[*index]).collect();
            answers.extend(group.into_iter().zip(self.decode(&prompts, options)?));
        }
        answers.sort_by_key(|(index, _)| *index);
        Ok(answers.into_iter().map(|(_, answer)| answer).collect())
    }
}

impl Engine for GroupedEngine {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn generate(&mut self, batch: &[Prompt], options: GenerateOptions) -> Result<Vec<Generation>> {
        check_request(batch, options, self.vocab_size, self.max_positions)?;
        if matches!(options.decoding, Decoding::Beam(_)) {
            return Err(Error::input(format!("the `{}` engine has no beam search", self.info.engine))
                .with_hint("use greedy decoding or sampling for this model"));
        }
        self.decode_groups(batch, options)
    }
}

/// Indices of the prompts of each length, in the order in which the lengths come up, `most_rows` at a time.
fn groups(batch: &[Prompt], most_rows: usize) -> Vec<Vec<usize>> {
    let mut groups: Vec<(usize, Vec<usize>)> = Vec::new();
    for (index, prompt) in batch.iter().enumerate() {
        let length = prompt.ids.len();
        match groups.iter_mut().find(|(of, group)| *of == length && group.len() < most_rows) {
            Some((_, group)) => group.push(index),
            None => groups.push((length, vec![index])),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_grouped_by_their_length_in_order() {
        let batch: Vec<Prompt> =
            [3, 1, 3, 2, 1].iter().map(|length| Prompt { text: String::new(), ids: vec![7; *length] }).collect();
        assert_eq!(groups(&batch, 8), [vec![0, 2], vec![1, 4], vec![3]]);
        assert_eq!(groups(&batch, 1), [[0], [1], [2], [3], [4]]);
        assert!(groups(&[], 8).is_empty());
    }
}
