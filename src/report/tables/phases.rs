//! Prefill and decode of each model and batch size, the methods side by side.

use crate::analysis::{Estimate, PhaseEnergy, Phases, Study};
use crate::format::{self, Scale};
use crate::report::table::{Cell, Column, FilledColumn, Table};

/// Goes above the table.
pub(crate) const TEXT: &str = "The methods need not agree: back-to-back prefill, as in windows of one new token, runs at a \
    different clock and power state from prefill inside a generate call, where decoding comes before and after it.";

/// A method of separating prefill and decode: its name, as it ends the title of a column, and its energies.
type Separation = (&'static str, fn(&Phases) -> Option<PhaseEnergy>);

const METHODS: [Separation; 3] = [
    ("by difference", |phases| phases.difference),
    ("by regression", |phases| phases.regression),
    ("inside windows", |phases| phases.inside),
];

pub(crate) fn phases(study: &Study) -> Option<Table> {
    let rows = study.phases.as_slice();
    let mut columns = vec![
        FilledColumn::new(Column::words("Model"), rows, |phases| Some(model(phases))),
        FilledColumn::new(Column::numbers("Batch", ""), rows, |phases| Some(Cell::count(phases.batch_size))),
    ];
    columns.extend(by_method(rows, "Prefill", "prompt", |energy| energy.prefill_j_per_prompt));
    columns.push(disagreement(rows, |phases| phases.prefill_disagreement));
    columns.extend(by_method(rows, "Decode", "token", |energy| energy.decode_j_per_token));
    columns.push(disagreement(rows, |phases| phases.decode_disagreement));
    columns.push(FilledColumn::new(Column::numbers("Decode per step", "whole batch"), rows, |phases| {
        Some(Cell::new(format::energy(&phases.preferred()?.decode_j_per_step)))
    }));
    columns.push(FilledColumn::new(Column::words("Remarks"), rows, |phases| Some(Cell::new(remarks(phases)))));
    let caption = "Energy of prefill per prompt and of decode per token, with 95 % intervals. By difference: the \
        longest windows minus the one-token windows of the same block, divided by the steps between them. By \
        regression: a straight line through energy per pass against decoding steps in each block, over all lengths, \
        weighted by 1 / variance; curvature: the quadratic term, if its interval excludes 0. Intervals of both are \
        over blocks. Inside windows: power samples, split at the first token of each batch. Disagreement: (largest − \
        smallest) / mean of the methods.";
    Some(Table::of_known("table-phases", caption, columns)?.with_caveat(format::caveat(&study.methods)))
}

fn model(phases: &Phases) -> Cell {
    Cell::new(phases.model.clone()).with(format!("{}, {}", phases.role.words(), phases.dtype))
}

/// A column for each method, all in the same unit.
fn by_method(rows: &[Phases], phase: &str, per: &str, get: fn(&PhaseEnergy) -> Estimate) -> Vec<FilledColumn> {
    let all = rows.iter().flat_map(|phases| METHODS.iter().filter_map(|(_, method)| method(phases)));
    let scale = Scale::joules(all.map(|energy| get(&energy).value));
    let column = |(name, method): &(&str, fn(&Phases) -> Option<PhaseEnergy>)| {
        let head = Column::numbers(format!("{phase} {name}"), &format!("{}/{per}", scale.unit));
        FilledColumn::new(head, rows, |phases| Some(Cell::estimate(Some(&get(&method(phases)?)), scale)))
    };
    METHODS.iter().map(column).collect()
}

fn disagreement(rows: &[Phases], get: fn(&Phases) -> Option<f64>) -> FilledColumn {
    let head = Column::numbers("Disagreement", "");
    FilledColumn::new(head, rows, |phases| Some(Cell::new(format::fraction(get(phases)?))))
}

fn remarks(phases: &Phases) -> String {
    let new_tokens = |longest| format::plural(longest, "new token");
    let difference = phases.difference.map(|d| format!("difference: {} minus 1", new_tokens(d.longest)));
    let regression = phases.regression.map(|line| format!("regression: {}", format::plural(line.lengths, "length")));
    let curvature = phases.curvature.map(|curvature| format!("curvature: {} per step²", format::energy(&curvature)));
    [difference, regression, curvature].into_iter().flatten().collect::<Vec<_>>().join("; ")
}
