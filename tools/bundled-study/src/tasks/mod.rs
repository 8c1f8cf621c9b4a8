//! The seeded instruction generator: ten kinds of short tasks in Dolly's schema, split into train and held-out by a
//! hash of the prompt.

mod draw;
mod facts;
mod lists;
mod words;

use std::collections::HashSet;

use ept_sweep::digest::sha256;
use ept_sweep::prompts::Row;
use serde::Serialize;

pub(crate) use draw::Draw;

/// One instruction in Dolly's schema, as it is written to a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Item {
    pub instruction: String,
    pub context: String,
    pub response: String,
    pub category: String,
}

/// What a skill draws: instruction, context (may be empty) and response.
type Drawn = (String, String, String);

type Skill = fn(&mut Draw) -> Drawn;

fn drawn(instruction: impl Into<String>, context: impl Into<String>, response: impl ToString) -> Drawn {
    (instruction.into(), context.into(), response.to_string())
}

fn join<T: ToString>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

fn article(noun: &str) -> &'static str {
    if noun.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}

/// Fills `{0}`, `{1}` … of a template drawn from `templates`.
fn phrase(d: &mut Draw, templates: &[&'static str], values: &[&str]) -> String {
    let mut text = d.pick(templates).to_string();
    for (i, value) in values.iter().enumerate() {
        text = text.replace(&format!("{{{i}}}"), value);
    }
    text
}

/// Category, its generator and its share in the training mix (the harder skills are seen more often).
const CATEGORIES: [(&str, Skill, u64); 10] = [
    ("closed_qa", facts::closed_qa, 16),
    ("information_extraction", facts::information_extraction, 5),
    ("classification", facts::classification, 5),
    ("sorting", lists::sorting, 10),
    ("arithmetic", lists::arithmetic, 14),
    ("counting", lists::counting, 14),
    ("string_edit", lists::string_edit, 7),
    ("comparison", facts::comparison, 13),
    ("table_lookup", facts::table_lookup, 11),
    ("pattern", lists::pattern, 5),
];

/// Items whose hash starts with a byte below this are held out: one in sixteen.
const HELD_OUT_BYTES: u8 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Split {
    Train,
    HeldOut,
}

impl Item {
    /// The prompt as the library makes it of a row of that file.
    pub(crate) fn prompt(&self) -> String {
        let row = Row {
            instruction: self.instruction.clone(),
            context: self.context.clone(),
            response: None,
            category: None,
        };
        row.prompt().text
    }

    /// What the model is to write after the prompt, up to the end-of-text token.
    pub(crate) fn target(&self) -> String {
        format!(" {}", self.response.trim())
    }

    pub(crate) fn split(&self) -> Split {
        let text = format!("{}\n{}", self.instruction, self.context);
        if sha256(text.as_bytes())[0] < HELD_OUT_BYTES { Split::HeldOut } else { Split::Train }
    }
}

/// Draws from category `which` until the item lies in `split`.
fn draw_in(draw: &mut Draw, which: usize, split: Split) -> Item {
    let (category, make, _) = CATEGORIES[which];
    loop {
        let (instruction, context, response) = make(draw);
        let item = Item { instruction, context, response, category: category.to_string() };
        if item.split() == split {
            return item;
        }
    }
}

/// Training item number `index` of the endless train split.
pub(crate) fn train_item(seed: u64, index: u64) -> Item {
    let mut draw = Draw::new(seed, index);
    let total: u64 = CATEGORIES.iter().map(|c| c.2).sum();
    let mut ticket = draw.index(total as usize) as u64;
    let mut which = 0;
    while ticket >= CATEGORIES[which].2 {
        ticket -= CATEGORIES[which].2;
        which += 1;
    }
    draw_in(&mut draw, which, Split::Train)
}

/// The held-out split: `n` distinct items, as even over the categories as `n` allows, shuffled.
pub(crate) fn held_out(seed: u64, n: usize) -> Vec<Item> {
    // Streams far above any training index, so that the two never share draws either.
    let mut seen = HashSet::new();
    let mut items = Vec::with_capacity(n);
    for which in 0..CATEGORIES.len() {
        let mut draw = Draw::new(seed, u64::MAX - which as u64);
        let share = n / CATEGORIES.len() + usize::from(which < n % CATEGORIES.len());
        let mut kept = 0;
        while kept < share {
            let item = draw_in(&mut draw, which, Split::HeldOut);
            if seen.insert(item.prompt()) {
                items.push(item);
                kept += 1;
            }
        }
    }
    Draw::new(seed, u64::MAX - CATEGORIES.len() as u64).shuffle(&mut items);
    items
}

/// Category names in the order of the tables.
pub(crate) fn categories() -> impl Iterator<Item = &'static str> {
    CATEGORIES.iter().map(|c| c.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::bundled;

    #[test]
    fn items_depend_on_seed_and_index_only() {
        assert_eq!(train_item(7, 3), train_item(7, 3));
        assert_ne!(train_item(7, 3), train_item(7, 4));
        assert_eq!(held_out(7, 50), held_out(7, 50));
    }

    #[test]
    fn the_bundled_held_out_split_is_the_one_that_the_seed_gives() {
        let kept = std::fs::read_to_string(bundled("instructions/heldout.jsonl")).unwrap();
        let made = held_out(20_260_101, 800).into_iter().map(|item| serde_json::to_string(&item).unwrap() + "\n");
        assert_eq!(made.collect::<String>(), kept);
    }

    #[test]
    fn the_splits_are_disjoint_balanced_and_distinct() {
        let held = held_out(1, 100);
        assert!(held.iter().all(|i| i.split() == Split::HeldOut));
        assert!((0..2000).all(|i| train_item(1, i).split() == Split::Train));
        for category in categories() {
            assert_eq!(held.iter().filter(|i| i.category == category).count(), 10);
        }
        let prompts: HashSet<String> = held.iter().map(Item::prompt).collect();
        assert_eq!(prompts.len(), held.len());
    }

    #[test]
    fn training_items_hardly_repeat() {
        let prompts: HashSet<String> = (0..20_000).map(|i| train_item(2, i).prompt()).collect();
        assert!(prompts.len() > 19_300, "{} of 20000 are distinct", prompts.len());
    }
}
