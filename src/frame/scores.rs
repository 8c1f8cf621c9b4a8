//! Accuracy of one model at one output length: the one definition that the table of results and the analysis share.

use crate::record::{Evaluation, ItemScore};
use crate::stats::{Contrast, Estimate, mean, proportion, proportion_stderr};

/// How well the answers of one evaluation agree with the references. The prompt is the unit of replication.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Scores {
    /// Share of exact matches, with Wilson's interval.
    pub(crate) exact_match: Estimate,
    /// √(p(1 − p)/n).
    pub(crate) exact_match_stderr: f64,
    /// Mean ROUGE-L F1, with the Student-t interval.
    pub(crate) rouge_l: Estimate,
    /// Standard error of that mean; `None` for a single prompt.
    pub(crate) rouge_l_stderr: Option<f64>,
}

impl Scores {
    /// `None` if the evaluation failed or has no prompts.
    pub(crate) fn of(evaluation: &Evaluation) -> Option<Self> {
        let items = evaluation.error.is_none().then_some(&evaluation.items)?;
        let (matches, rouge_l) = (exact_matches(items), rouge_l(items));
        let spread = Contrast::of_mean(&rouge_l)?.spread;
        Some(Self {
            exact_match: proportion(matches, items.len())?,
            exact_match_stderr: proportion_stderr(matches, items.len()),
            rouge_l: mean(&rouge_l)?,
            rouge_l_stderr: spread.map(|spread| spread.standard_error),
        })
    }
}

/// How many answers equal their reference.
fn exact_matches(items: &[ItemScore]) -> usize {
    items.iter().filter(|item| item.exact_match).count()
}

/// ROUGE-L of each answer.
pub fn rouge_l(items: &[ItemScore]) -> Vec<f64> {
    items.iter().map(|item| item.rouge_l).collect()
}
