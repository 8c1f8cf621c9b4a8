//! Training batches, generated ahead of the training loop on other threads: reproducible from the seed, bucketed by
//! length.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

use ept_sweep::error::{Error, Result};
use ept_sweep::text::Tokenizer;
use rayon::prelude::*;

use crate::model::Batch;
use crate::tasks::{Draw, train_item};
use crate::vocab::{MAX_LENGTH, PAD, prompt_ids, target_ids};

/// Number of batches that are drawn together, sorted by length and split, which keeps padding low.
const BUCKET: usize = 8;
/// Finished buckets that wait for the training loop.
const AHEAD: usize = 4;
/// Lengths are rounded up to a multiple of this, so that few shapes occur.
const LENGTH_STEP: usize = 8;

/// A batch with its labels: the token wanted at each of the batch's rows.
#[derive(Clone, Debug)]
pub(super) struct Labelled {
    pub batch: Batch,
    pub targets: Vec<u32>,
    /// Tokens without padding.
    pub tokens: usize,
}

/// One example: all ids, and where the response starts.
pub(super) struct Example {
    ids: Vec<u32>,
    response: usize,
}

/// Example number `index` of the train split.
///
/// # Errors
/// The tokenizer fails, or the example is longer than the models' positions.
pub(super) fn example(tokenizer: &Tokenizer, seed: u64, index: u64) -> Result<Example> {
    let item = train_item(seed, index);
    let mut ids = prompt_ids(tokenizer, &item)?;
    let response = ids.len();
    ids.extend(target_ids(tokenizer, &item)?);
    if ids.len() > MAX_LENGTH {
        return Err(Error::new(format!("training item {index} has {} tokens, more than {MAX_LENGTH}", ids.len())));
    }
    Ok(Example { ids, response })
}

/// Pads examples on the right; the rows before each response token are those whose next token is wanted.
pub(super) fn collate(examples: &[Example]) -> Labelled {
    let longest = examples.iter().map(|e| e.ids.len()).max().unwrap_or(1);
    let length = longest.next_multiple_of(LENGTH_STEP);
    let mut ids = vec![PAD.1; examples.len() * length];
    let (mut rows, mut targets) = (Vec::new(), Vec::new());
    for (i, e) in examples.iter().enumerate() {
        ids[i * length..i * length + e.ids.len()].copy_from_slice(&e.ids);
        for at in e.response..e.ids.len() {
            rows.push((i * length + at - 1) as u32);
            targets.push(e.ids[at]);
        }
    }
    let tokens = examples.iter().map(|e| e.ids.len()).sum();
    Labelled { batch: Batch { ids, size: examples.len(), length, rows }, targets, tokens }
}

/// Bucket number `number`: `BUCKET` batches of `size`, alike in length within a batch, in shuffled order.
fn bucket(tokenizer: &Tokenizer, seed: u64, size: usize, number: u64) -> Result<Vec<Labelled>> {
    let first = number * (BUCKET * size) as u64;
    let mut examples = (first..first + (BUCKET * size) as u64)
        .into_par_iter()
        .map(|index| example(tokenizer, seed, index))
        .collect::<Result<Vec<_>>>()?;
    examples.sort_by_key(|e| e.ids.len());
    let mut batches: Vec<Labelled> = examples.chunks(size).map(collate).collect();
    Draw::new(seed ^ 0x5f5f, number).shuffle(&mut batches);
    Ok(batches)
}

/// An endless stream of batches from a background thread, which ends when the receiver is dropped.
pub(super) fn stream(tokenizer: Arc<Tokenizer>, seed: u64, size: usize) -> Receiver<Result<Labelled>> {
    let (sender, receiver) = sync_channel(AHEAD * BUCKET);
    std::thread::spawn(move || {
        let buckets = (0..).map(|number| bucket(&tokenizer, seed, size, number));
        // an error ends the stream, and so does a receiver that is gone
        for batches in buckets {
            let batches = match batches {
                Ok(batches) => batches.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            };
            for batch in batches {
                let failed = batch.is_err();
                if sender.send(batch).is_err() || failed {
                    return;
                }
            }
        }
    });
    receiver
}
