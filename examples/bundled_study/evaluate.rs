//! Greedy decoding over the held-out split and exact match by category.

use candle_core::Tensor;
use tokenizers::Tokenizer;

use crate::Res;
use crate::batches::LENGTH_STEP;
use crate::model::{Batch, Model};
use crate::tasks::{Item, categories};
use crate::vocab::{EOS, PAD, decode, prompt_ids};

const MAX_NEW_TOKENS: usize = 32;
const ROWS_AT_ONCE: usize = 128;

/// Exact matches of one model.
#[derive(Clone, Debug, Default)]
pub struct Scores {
    /// Category, right answers, items.
    pub by_category: Vec<(String, usize, usize)>,
}

impl Scores {
    pub fn n(&self) -> usize {
        self.by_category.iter().map(|c| c.2).sum()
    }

    pub fn exact_match(&self) -> f64 {
        let right: usize = self.by_category.iter().map(|c| c.1).sum();
        right as f64 / self.n().max(1) as f64
    }

    pub fn standard_error(&self) -> f64 {
        standard_error(self.exact_match(), self.n())
    }

    pub fn print(&self, name: &str) {
        eprintln!("{name}: exact match on the held-out split");
        for (category, right, n) in &self.by_category {
            let share = *right as f64 / (*n).max(1) as f64;
            eprintln!("  {category:<24}{right:>4} of {n:<4}{share:>8.3} ± {:.3}", standard_error(share, *n));
        }
        eprintln!("  {:<24}{:>12}{:>8.3} ± {:.3}", "all", self.n(), self.exact_match(), self.standard_error());
    }
}

fn standard_error(share: f64, n: usize) -> f64 {
    (share * (1.0 - share) / n.max(1) as f64).sqrt()
}

/// One sequence under way.
struct Row {
    item: usize,
    ids: Vec<u32>,
    prompt: usize,
}

/// Decodes every item greedily with `model` and counts the answers that are exactly right.
pub fn evaluate(model: &Model, tokenizer: &Tokenizer, items: &[Item]) -> Res<Scores> {
    let model = model.frozen()?;
    let mut rows = Vec::with_capacity(items.len());
    for (item, it) in items.iter().enumerate() {
        let ids = prompt_ids(tokenizer, it)?;
        rows.push(Row { item, prompt: ids.len(), ids });
    }
    rows.sort_by_key(|r| r.ids.len());
    let mut right = vec![false; items.len()];
    while !rows.is_empty() {
        let rest = rows.split_off(ROWS_AT_ONCE.min(rows.len()));
        for row in generate(&model, std::mem::replace(&mut rows, rest))? {
            let answer = decode(tokenizer, &row.ids[row.prompt..])?;
            right[row.item] = answer.trim() == items[row.item].response.trim();
        }
    }
    let by_category = categories()
        .map(|category| {
            let of: Vec<usize> = (0..items.len()).filter(|i| items[*i].category == category).collect();
            (category.to_string(), of.iter().filter(|i| right[**i]).count(), of.len())
        })
        .collect();
    Ok(Scores { by_category })
}

/// Runs the rows to their ends; a finished row leaves the batch.
fn generate(model: &Model, mut active: Vec<Row>) -> Res<Vec<Row>> {
    let mut finished = Vec::with_capacity(active.len());
    for _ in 0..MAX_NEW_TOKENS {
        if active.is_empty() {
            break;
        }
        let next = next_tokens(&model.logits(&pad(&active))?)?;
        let mut going = Vec::with_capacity(active.len());
        for (mut row, token) in active.into_iter().zip(next) {
            if token == EOS.1 {
                finished.push(row);
            } else {
                row.ids.push(token);
                going.push(row);
            }
        }
        active = going;
    }
    finished.append(&mut active);
    Ok(finished)
}

fn pad(rows: &[Row]) -> Batch {
    let length = rows.iter().map(|r| r.ids.len()).max().unwrap_or(1).next_multiple_of(LENGTH_STEP);
    let mut ids = vec![PAD.1; rows.len() * length];
    let mut last = Vec::with_capacity(rows.len());
    for (i, row) in rows.iter().enumerate() {
        ids[i * length..i * length + row.ids.len()].copy_from_slice(&row.ids);
        last.push((i * length + row.ids.len() - 1) as u32);
    }
    Batch { ids, size: rows.len(), length, rows: last }
}

/// The most likely token per row, the lowest id on a tie.
fn next_tokens(logits: &Tensor) -> Res<Vec<u32>> {
    let best = |row: &Vec<f32>| {
        let first = (0, f32::NEG_INFINITY);
        row.iter().enumerate().fold(first, |best, (i, v)| if *v > best.1 { (i as u32, *v) } else { best }).0
    };
    Ok(logits.to_vec2::<f32>()?.iter().map(best).collect())
}
