//! Accuracy by model and output length, and by category.

use crate::analysis::{Accuracy, Study};
use crate::format::{self, Scale};
use crate::report::table::{Cell, Column, Table};

pub(crate) fn accuracy(study: &Study) -> Vec<Table> {
    by_model(study).into_iter().chain(by_category(study)).collect()
}

fn by_model(study: &Study) -> Option<Table> {
    let columns = vec![
        Column::words("Model"),
        Column::numbers("New tokens", ""),
        Column::numbers("Exact match", "%"),
        Column::numbers("SE, exact match", "points"),
        Column::numbers("ROUGE-L", ""),
        Column::numbers("SE, ROUGE-L", ""),
        Column::numbers("Prompts", ""),
        Column::words("Data set"),
    ];
    let row = |a: &Accuracy| {
        let rouge_l = Cell::new(format::rouge_l(a.rouge_l.value));
        vec![
            Cell::new(a.model.clone()).with(a.role.words()),
            Cell::count(a.max_new_tokens),
            Cell::estimate(Some(&a.exact_match), Scale::PERCENT),
            Cell::new(format::share_error(a.exact_match_stderr)),
            match a.rouge_l.interval {
                Some(interval) => rouge_l.with(format::rouge_l_interval(interval)),
                None => rouge_l,
            },
            a.rouge_l_stderr.map_or(Cell::unknown(), |error| Cell::new(format::rouge_l(error))),
            Cell::count(a.exact_match.n),
            Cell::new(a.dataset.clone()),
        ]
    };
    let caption = "Accuracy on held-out prompts, scored outside every energy window, with 95 % intervals (Wilson for \
        exact match, Student's t for ROUGE-L) and standard errors (SE).";
    Table::unless_empty("table-accuracy", caption, columns, study.accuracies.iter().map(row))
}

/// A row for each category, a column for each model at its longest output length; `None` for a single category.
fn by_category(study: &Study) -> Option<Table> {
    let longest = longest(study);
    let mut names: Vec<(&str, usize)> = Vec::new();
    for (name, _, n) in longest.iter().flat_map(|a| &a.by_category) {
        if !names.iter().any(|(known, _)| known == name) {
            names.push((name, *n));
        }
    }
    let mut columns = vec![Column::words("Category"), Column::numbers("Prompts", "")];
    columns.extend(longest.iter().map(|a| Column::numbers(a.model.clone(), "%")));
    let share = |a: &Accuracy, name: &str| {
        let found = a.by_category.iter().find(|(own, _, _)| own == name);
        found.map_or(Cell::unknown(), |(_, share, _)| Cell::new(format::whole_percent(*share)))
    };
    let row = |(name, n): &(&str, usize)| {
        let shares = longest.iter().map(|a| share(a, name));
        [Cell::new(*name), Cell::count(*n)].into_iter().chain(shares).collect()
    };
    let caption = "Exact match by category, at each model's longest output length.";
    let table = Table::unless_empty("table-categories", caption, columns, names.iter().map(row));
    table.filter(|table| table.rows.len() > 1)
}

/// Each model at its longest output length.
fn longest(study: &Study) -> Vec<&Accuracy> {
    let mut longest: Vec<&Accuracy> = Vec::new();
    for accuracy in &study.accuracies {
        match longest.iter_mut().find(|known| known.model == accuracy.model) {
            Some(known) if known.max_new_tokens < accuracy.max_new_tokens => *known = accuracy,
            Some(_) => {}
            None => longest.push(accuracy),
        }
    }
    longest
}
