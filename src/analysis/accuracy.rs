//! Accuracy of models, and differences of accuracy over the same prompts. The prompt is the unit of replication.

use std::collections::{BTreeMap, BTreeSet};

use crate::frame::{Scores, rouge_l};
use crate::record::{CellSpec, Evaluation, ItemScore, Role, RunInfo};
use crate::stats::{Estimate, paired_difference, paired_proportions};

/// Accuracy of one model at one output length.
#[derive(Debug, Clone, PartialEq)]
pub struct Accuracy {
    /// Label of the model.
    pub model: String,
    /// What the model is.
    pub role: Role,
    /// Output length at which answers were cut.
    pub max_new_tokens: usize,
    /// Share of exact matches, with the Wilson interval.
    pub exact_match: Estimate,
    /// Standard error of `exact_match`.
    pub exact_match_stderr: f64,
    /// Mean ROUGE-L F1, with the Student-t interval.
    pub rouge_l: Estimate,
    /// Standard error of `rouge_l`; `None` for a single prompt.
    pub rouge_l_stderr: Option<f64>,
    /// Exact match by category: name, share, number of prompts.
    pub by_category: Vec<(String, f64, usize)>,
    /// The data set.
    pub dataset: String,
}

/// The evaluations that have scores.
pub(crate) struct Evaluations<'a>(Vec<&'a Evaluation>);

impl<'a> Evaluations<'a> {
    /// Leaves out evaluations that failed or have no prompts.
    pub(super) fn of(evaluations: impl IntoIterator<Item = &'a Evaluation>) -> Self {
        let usable = |evaluation: &&Evaluation| evaluation.error.is_none() && !evaluation.items.is_empty();
        Self(evaluations.into_iter().filter(usable).collect())
    }

    /// That of a model, data type and output length.
    pub(super) fn find(&self, model: &str, dtype: &str, max_new_tokens: usize) -> Option<&'a Evaluation> {
        self.of_model(model).find(|e| e.dtype == dtype && e.max_new_tokens == max_new_tokens)
    }

    /// The first one of a model at an output length, of any data type.
    pub(crate) fn at_length(&self, model: &str, max_new_tokens: usize) -> Option<&'a Evaluation> {
        self.of_model(model).find(|e| e.max_new_tokens == max_new_tokens)
    }

    /// That of a model at its longest output length.
    pub(crate) fn longest(&self, model: &str) -> Option<&'a Evaluation> {
        self.at_length(model, self.lengths(model).last().copied()?)
    }

    /// Output lengths at which a model was evaluated.
    pub(crate) fn lengths(&self, model: &str) -> BTreeSet<usize> {
        self.of_model(model).map(|e| e.max_new_tokens).collect()
    }

    /// Those of two models at the longest output length at which both were evaluated.
    pub(crate) fn longest_shared(&self, base: &str, new: &str) -> Option<(&'a Evaluation, &'a Evaluation)> {
        let length = self.lengths(base).intersection(&self.lengths(new)).last().copied()?;
        Some((self.at_length(base, length)?, self.at_length(new, length)?))
    }

    fn of_model(&self, model: &str) -> impl Iterator<Item = &'a Evaluation> {
        self.0.iter().copied().filter(move |e| e.model == model)
    }
}

/// The evaluations but for those at lengths that are only there to tell prefill and decode apart.
pub(crate) fn of_compared_cells<'a>(
    run: &'a RunInfo,
    evaluations: &'a [Evaluation],
) -> impl Iterator<Item = &'a Evaluation> {
    let is_of_probes = |evaluation: &Evaluation| {
        let same =
            |cell: &&CellSpec| cell.model == evaluation.model && cell.max_new_tokens == evaluation.max_new_tokens;
        let mut cells = run.cells.iter().filter(same).peekable();
        cells.peek().is_some() && cells.all(|cell| cell.probe)
    };
    evaluations.iter().filter(move |evaluation| !is_of_probes(evaluation))
}

/// Accuracy of each model at each output length, in the order of the run's models.
pub(super) fn accuracies(run: &RunInfo, evaluations: &Evaluations<'_>) -> Vec<Accuracy> {
    let position = |label: &str| run.models.iter().position(|model| model.label == label);
    let mut evaluations = evaluations.0.clone();
    evaluations.sort_by_key(|e| (position(&e.model).unwrap_or(usize::MAX), e.max_new_tokens));
    evaluations
        .into_iter()
        .filter_map(|e| accuracy(e, position(&e.model).map_or_else(Role::default, |index| run.models[index].role)))
        .collect()
}

fn accuracy(evaluation: &Evaluation, role: Role) -> Option<Accuracy> {
    let Scores { exact_match, exact_match_stderr, rouge_l, rouge_l_stderr } = Scores::of(evaluation)?;
    Some(Accuracy {
        model: evaluation.model.clone(),
        role,
        max_new_tokens: evaluation.max_new_tokens,
        exact_match,
        exact_match_stderr,
        rouge_l,
        rouge_l_stderr,
        by_category: by_category(&evaluation.items),
        dataset: evaluation.dataset.clone(),
    })
}

/// Share of exact matches with Wilson's interval; `None` without prompts.
pub(super) fn exact_match(evaluation: &Evaluation) -> Option<Estimate> {
    Some(Scores::of(evaluation)?.exact_match)
}

/// Exact match of `new` minus `base` on the same prompts (interval of Agresti and Min); `None` where the prompts
/// aren't the same.
pub(crate) fn exact_match_difference(base: &Evaluation, new: &Evaluation) -> Option<Estimate> {
    let pairs = pairs(base, new)?;
    let count = |differs: fn(bool, bool) -> bool| {
        pairs.iter().filter(|(base, new)| differs(base.exact_match, new.exact_match)).count()
    };
    paired_proportions(count(|base, new| !base && new), count(|base, new| base && !new), pairs.len())
}

/// Mean ROUGE-L of `new` minus `base` on the same prompts (Student-t interval of the differences); `None` where the
/// prompts aren't the same.
pub(crate) fn rouge_l_difference(base: &Evaluation, new: &Evaluation) -> Option<Estimate> {
    pairs(base, new)?;
    paired_difference(&rouge_l(&base.items), &rouge_l(&new.items))
}

/// The scores prompt by prompt, where both are of the same data set, the same prompts in it as far as is known, and
/// the same output length.
fn pairs<'a>(base: &'a Evaluation, new: &'a Evaluation) -> Option<Vec<(&'a ItemScore, &'a ItemScore)>> {
    let same_set = base.dataset_sha256 == new.dataset_sha256
        && base.max_new_tokens == new.max_new_tokens
        && base.items.len() == new.items.len();
    let pairs: Vec<_> = base.items.iter().zip(&new.items).collect();
    (same_set && pairs.iter().all(|(base, new)| base.category == new.category)).then_some(pairs)
}

fn by_category(items: &[ItemScore]) -> Vec<(String, f64, usize)> {
    let mut categories: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for item in items {
        if let Some(category) = &item.category {
            let (matches, n) = categories.entry(category).or_default();
            *matches += usize::from(item.exact_match);
            *n += 1;
        }
    }
    let share = |(name, (matches, n)): (&str, (usize, usize))| (name.to_owned(), matches as f64 / n as f64, n);
    categories.into_iter().map(share).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::FORMAT;
    use crate::units::Seconds;

    fn item(category: Option<&str>, exact_match: bool, rouge_l: f64) -> ItemScore {
        let category = category.map(str::to_owned);
        ItemScore { category, exact_match, rouge_l, tokens_out: 3, answer: String::new() }
    }

    fn evaluation(model: &str, max_new_tokens: usize, items: Vec<ItemScore>) -> Evaluation {
        Evaluation {
            format: FORMAT,
            model: model.to_owned(),
            dtype: "f32".to_owned(),
            max_new_tokens,
            dataset: "tasks".to_owned(),
            dataset_sha256: "00".to_owned(),
            duration_s: Seconds(1.0),
            items,
            error: None,
        }
    }

    #[test]
    fn accuracy_is_counted_over_prompts_and_by_category() {
        let items = vec![
            item(Some("sum"), true, 1.0),
            item(Some("copy"), false, 0.5),
            item(Some("sum"), false, 0.0),
            item(None, true, 1.0),
        ];
        let accuracy = accuracy(&evaluation("a", 8, items), Role::Student).unwrap();
        assert_eq!((accuracy.exact_match.value, accuracy.exact_match.n), (0.5, 4));
        assert_eq!(accuracy.exact_match_stderr, 0.25);
        assert_eq!(accuracy.rouge_l.value, 0.625);
        let s = ((0.375f64.powi(2) * 2.0 + 0.125f64.powi(2) + 0.625f64.powi(2)) / 3.0).sqrt();
        assert!((accuracy.rouge_l_stderr.unwrap() - s / 2.0).abs() < 1e-15);
        assert_eq!(accuracy.by_category, vec![("copy".to_owned(), 0.0, 1), ("sum".to_owned(), 0.5, 2)]);
    }

    #[test]
    fn differences_are_paired_over_prompts() {
        let base = evaluation("a", 8, vec![item(None, true, 1.0), item(None, false, 0.2), item(None, false, 0.0)]);
        let new = evaluation("b", 8, vec![item(None, true, 1.0), item(None, true, 1.0), item(None, false, 0.1)]);
        let exact = exact_match_difference(&base, &new).unwrap();
        assert!((exact.value - 1.0 / 3.0).abs() < 1e-15);
        let rouge = rouge_l_difference(&base, &new).unwrap();
        assert!((rouge.value - 0.3).abs() < 1e-15);
        assert_eq!(rouge.n, 3);
    }

    #[test]
    fn scores_of_different_prompts_are_not_compared() {
        let base = evaluation("a", 8, vec![item(Some("sum"), true, 1.0)]);
        let mut other_set = base.clone();
        other_set.dataset_sha256 = "01".to_owned();
        let mut other_length = base.clone();
        other_length.max_new_tokens = 9;
        let other_order = evaluation("b", 8, vec![item(Some("copy"), true, 1.0)]);
        let fewer = evaluation("b", 8, vec![]);
        for new in [other_set, other_length, other_order, fewer] {
            assert_eq!(exact_match_difference(&base, &new), None);
            assert_eq!(rouge_l_difference(&base, &new), None);
        }
    }

    #[test]
    fn the_longest_shared_length_is_the_longest_that_both_have() {
        let of = |model: &str, length| evaluation(model, length, vec![item(None, true, 1.0)]);
        let mut failed = of("b", 64);
        failed.error = Some("broke".to_owned());
        let all = [of("a", 8), of("a", 32), of("a", 64), of("b", 8), of("b", 32), failed];
        let scores = Evaluations::of(&all);
        let (base, new) = scores.longest_shared("a", "b").unwrap();
        assert_eq!((base.max_new_tokens, new.max_new_tokens), (32, 32));
        assert_eq!(scores.longest("a").unwrap().max_new_tokens, 64);
        assert!(scores.longest_shared("a", "c").is_none());
    }
}
