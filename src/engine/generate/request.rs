//! What is checked of a request before a model runs.

use crate::engine::interface::{GenerateOptions, Prompt};
use crate::error::{Error, Result};

/// Checks that a model with `vocabulary` tokens and `limit` positions can answer a batch.
///
/// # Errors
/// No new tokens are asked for, settings of the decoding that can't be used, or as for [`check_batch`].
pub(crate) fn check_request(batch: &[Prompt], options: GenerateOptions, vocabulary: usize, limit: usize) -> Result<()> {
    if options.max_new_tokens == 0 {
        return Err(Error::input("`max_new_tokens` has to be at least 1"));
    }
    options.decoding.check().map_err(|bad| Error::input(bad.message).with_hint(bad.hint))?;
    check_batch(batch, options.max_new_tokens, vocabulary, limit)
}

/// Checks that a model with `vocabulary` tokens and `limit` positions can take a batch.
///
/// # Errors
/// An empty batch or prompt, a token id outside the vocabulary, or more tokens than there are positions.
pub(crate) fn check_batch(batch: &[Prompt], max_new_tokens: usize, vocabulary: usize, limit: usize) -> Result<()> {
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
            return Err(at(Error::input(message).with_hint("lower `max_new_tokens`, or use shorter prompts")));
        }
    }
    Ok(())
}

/// Checks that there are token ids, and that all are in the vocabulary.
///
/// # Errors
/// As said; the message names the first wrong id.
pub(crate) fn check_ids(ids: &[u32], vocabulary: usize) -> Result<()> {
    if ids.is_empty() {
        return Err(Error::input("it has no tokens"));
    }
    if let Some(id) = ids.iter().find(|id| **id as usize >= vocabulary) {
        let message = format!("token id {id} is outside of the model's vocabulary of {vocabulary}");
        return Err(Error::input(message).with_hint("the tokenizer doesn't belong to this model"));
    }
    Ok(())
}
