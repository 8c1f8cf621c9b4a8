//! Accuracy of answers against references, measured outside of every energy window.

mod rouge;

pub use rouge::rouge_l;

use crate::engine::Generation;
use crate::error::Result;
use crate::prompts::PromptItem;
use crate::record::{Finish, ItemScore};

/// Scores an answer, cut at `max_new_tokens`.
///
/// Token by token (greedy or sampled), decoding to a longer output length begins with the same tokens, so one
/// generation is enough for all shorter ones. In `fixed` length the answer ends where the model would have ended it
/// (the first end-of-sequence token).
///
/// # Errors
/// The token ids can't be turned into text.
pub fn score(
    item: &PromptItem,
    generation: &Generation,
    max_new_tokens: usize,
    decode: impl Fn(&[u32]) -> Result<String>,
) -> Result<ItemScore> {
    let ids = answer_ids(generation, max_new_tokens);
    let answer = decode(ids)?;
    let reference = item.reference.as_deref().unwrap_or_default();
    Ok(ItemScore {
        category: item.category.clone(),
        exact_match: answer.trim() == reference.trim(),
        rouge_l: rouge_l(&answer, reference),
        tokens_out: ids.len() as u32,
        answer,
    })
}

/// The ids of the natural answer within the limit.
fn answer_ids(generation: &Generation, max_new_tokens: usize) -> &[u32] {
    let natural = match (generation.natural_length, generation.finish) {
        (Some(length), _) => length,
        (None, Finish::Eos | Finish::Length) => generation.ids.len(),
    };
    // in fixed length EOS was masked, so the token at the end of the answer is some other one: leave it out
    let masked_end = generation.natural_length.is_some() && generation.finish == Finish::Length;
    let end = natural.saturating_sub(usize::from(masked_end && natural <= max_new_tokens));
    &generation.ids[..end.min(max_new_tokens).min(generation.ids.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generation(ids: &[u32], natural_length: Option<usize>, finish: Finish) -> Generation {
        Generation { ids: ids.to_vec(), finish, natural_length }
    }

    #[test]
    fn a_fixed_length_answer_ends_before_the_masked_end_of_sequence() {
        let generation = generation(&[7, 8, 9, 10], Some(3), Finish::Length);
        assert_eq!(answer_ids(&generation, 4), [7, 8]);
    }

    #[test]
    fn a_limit_cuts_the_answer_as_a_shorter_run_would() {
        let natural = generation(&[7, 8, 1], None, Finish::Eos);
        assert_eq!(answer_ids(&natural, 2), [7, 8]);
        assert_eq!(answer_ids(&natural, 8), [7, 8, 1]);
        let fixed = generation(&[7, 8, 9, 10], Some(4), Finish::Length);
        assert_eq!(answer_ids(&fixed, 2), [7, 8]);
    }

    #[test]
    fn an_answer_is_exact_when_it_equals_the_reference_but_for_blanks_around_it() {
        let item = PromptItem { text: String::new(), reference: Some("a b ".into()), category: None };
        let words = |_: &[u32]| Ok(" a b".to_owned());
        assert!(score(&item, &generation(&[5], None, Finish::Eos), 8, words).unwrap().exact_match);
        let other = |_: &[u32]| Ok(" a c".to_owned());
        assert!(!score(&item, &generation(&[5], None, Finish::Eos), 8, other).unwrap().exact_match);
    }
}
