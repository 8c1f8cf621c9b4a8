//! Held-out scores of an exported folder, by the library's engine and its scoring: what is scored is what users run.

use std::path::Path;

use ept_sweep::engine::load::{DeviceChoice, LoadOptions, load};
use ept_sweep::engine::{GenerateOptions, Prompt};
use ept_sweep::error::Result;
use ept_sweep::evaluate;
use ept_sweep::prompts::PromptSet;
use ept_sweep::record::{ItemScore, OutputLength};
use ept_sweep::text::Tokenizer;

use crate::tasks;

/// The longest answer of any task has fewer tokens.
const MAX_NEW_TOKENS: usize = 32;
const ROWS_AT_ONCE: usize = 32;

/// Scores of one model, in the order of the prompts.
#[derive(Clone, Debug)]
pub(crate) struct Scores(Vec<ItemScore>);

/// Exact matches among some items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tally {
    pub right: usize,
    pub n: usize,
}

/// Answers all prompts of `set` greedily in f32 with the model in `folder`, and scores the answers.
///
/// # Errors
/// The folder isn't a model that the library loads, or the device fails.
pub(crate) fn score(folder: &Path, set: &PromptSet, device: DeviceChoice) -> Result<Scores> {
    let tokenizer = Tokenizer::load(folder)?;
    let mut engine = load(folder, &LoadOptions { dtype: Some("f32"), ..LoadOptions::default() }, device)?;
    let options = GenerateOptions::greedy(MAX_NEW_TOKENS, OutputLength::Natural);
    let mut scores = Vec::with_capacity(set.items.len());
    for items in set.items.chunks(ROWS_AT_ONCE) {
        let prompt = |text: &String| Ok(Prompt { text: text.clone(), ids: tokenizer.encode(text)? });
        let batch = items.iter().map(|item| prompt(&item.text)).collect::<Result<Vec<_>>>()?;
        for (item, answer) in items.iter().zip(engine.generate(&batch, options)?) {
            scores.push(evaluate::score(item, &answer, MAX_NEW_TOKENS, |ids| tokenizer.decode(ids))?);
        }
    }
    Ok(Scores(scores))
}

impl Scores {
    pub(crate) fn all(&self) -> Tally {
        Tally::of(self.0.iter())
    }

    /// Exact matches of each category, in the order of the tables; categories without an item are left out.
    pub(crate) fn by_category(&self) -> Vec<(&'static str, Tally)> {
        let of = |category: &'static str| {
            (category, Tally::of(self.0.iter().filter(|item| item.category.as_deref() == Some(category))))
        };
        tasks::categories().map(of).filter(|(_, tally)| tally.n > 0).collect()
    }

    /// Mean ROUGE-L; `None` without an item.
    pub(crate) fn rouge_l(&self) -> Option<f64> {
        let sum: f64 = self.0.iter().map(|item| item.rouge_l).sum();
        (!self.0.is_empty()).then(|| sum / self.0.len() as f64)
    }

    pub(crate) fn print(&self, name: &str) {
        eprintln!("{name}: exact match on the held-out split");
        let all = ("all", self.all());
        for (category, tally) in self.by_category().into_iter().chain([all]) {
            let Tally { right, n } = tally;
            let (share, error) = (tally.share(), tally.standard_error());
            eprintln!("  {category:<24}{right:>4} of {n:<4}{share:>8.3} ± {error:.3}");
        }
    }
}

impl Tally {
    fn of<'a>(items: impl Iterator<Item = &'a ItemScore>) -> Self {
        items.fold(Self { right: 0, n: 0 }, |tally, item| Self {
            right: tally.right + usize::from(item.exact_match),
            n: tally.n + 1,
        })
    }

    pub(crate) fn share(self) -> f64 {
        self.right as f64 / self.n as f64
    }

    /// Standard error of the share, items being independent.
    pub(crate) fn standard_error(self) -> f64 {
        let share = self.share();
        (share * (1.0 - share) / self.n as f64).sqrt()
    }
}
