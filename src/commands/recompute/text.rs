//! The recomputed windows as text for people.

use super::outcomes::Outcomes;
use crate::analysis::recomputed::{CellRow, Unit, WindowRow};
use crate::meter::recompute::Method;
use crate::record::Part;
use crate::store::Stored;
use crate::units::{Joules, Watts};
use crate::{format, host};

/// Nothing was changed: whether the record holds, and the fields in which it doesn't.
pub(super) fn print_same(outcomes: &Outcomes, stored: &Stored) {
    println!("{} of {} windows give the same energy", outcomes.same_energy, outcomes.trials.len());
    for row in outcomes.trials.iter().filter(|row| !row.differs.is_empty()) {
        println!(
            "  `{}` block {}: stored {} J, now {} J; differs in {}",
            row.cell,
            row.block + 1,
            joules(row.stored_j),
            joules(row.recomputed_j),
            row.differs.join(", ")
        );
    }
    print_missing_count(outcomes);
    if outcomes.different > 0 {
        stored.info.parts.iter().for_each(print_versions);
    }
}

fn print_versions(part: &Part) {
    let revision = |revision: Option<&str>| revision.unwrap_or("no revision").to_owned();
    println!(
        "  measured by version {} ({}), recomputed by {} ({})",
        part.version,
        revision(part.git_revision.as_deref()),
        host::VERSION,
        revision(host::git_revision().as_deref())
    );
}

/// Another method or a part of the windows: what changes, by window and by cell.
pub(super) fn print_changed(outcomes: &Outcomes) {
    println!("method `{}`: {}", outcomes.method, explanation(outcomes.method));
    if outcomes.part_of_window {
        println!(
            "a part of each window: its tokens aren't known, so energy per token isn't given; compare the power (W)"
        );
    }
    let width = outcomes.trials.iter().map(|row| row.cell.len()).max().unwrap_or(0).max(4);
    print_windows(outcomes, width);
    print_cells(outcomes, width);
    println!("mean ± standard deviation over the repeats");
    print_missing_count(outcomes);
}

fn print_windows(outcomes: &Outcomes, width: usize) {
    let power = outcomes.part_of_window;
    print!("\n{:<width$} {:>5} {:>10} {:>10} {:>9}", "cell", "block", "stored J", "now J", "change");
    if power {
        print!(" {:>8} {:>8} {:>9}", "stored W", "now W", "change");
    }
    println!(" {:>8}  reasons", "residual");
    for row in &outcomes.trials {
        let (before, after) = (joules(row.stored_j), joules(row.recomputed_j));
        print!("{:<width$} {:>5} {before:>10} {after:>10} {:>9}", row.cell, row.block + 1, share(row.difference));
        if power {
            let (before, after) = (watts(row.stored_w), watts(row.recomputed_w));
            print!(" {before:>8} {after:>8} {:>9}", share(row.power_difference()));
        }
        println!(" {:>8}  {}", share(row.residual), reasons(row));
    }
}

fn print_cells(outcomes: &Outcomes, width: usize) {
    let (stored, now) = match outcomes.cells_unit {
        Unit::Joules => ("stored J", "now J"),
        Unit::Watts => ("stored W", "now W"),
    };
    println!("\n{:<width$} {:>5} {stored:>24} {now:>24} {:>9}", "cell", "n", "change");
    for row in &outcomes.cells {
        let CellRow { cell, n, .. } = row;
        let before = with_deviation(row.stored_mean, row.stored_sd);
        let after = with_deviation(row.recomputed_mean, row.recomputed_sd);
        println!("{cell:<width$} {n:>5} {before:>24} {after:>24} {:>9}", share(Some(row.difference)));
    }
}

fn explanation(method: Method) -> &'static str {
    match method {
        Method::Counter => "the primary source, a difference of the energy counter if there is one",
        Method::Power => "the second source, the time integral of power",
        Method::EptBench => "E_sum_J of EPT-Bench, the sum of `power_usage` times 0.1 s; for comparison only",
    }
}

fn print_missing_count(outcomes: &Outcomes) {
    if !outcomes.missing.is_empty() {
        println!("{} can't be recomputed", format::plural(outcomes.missing.len(), "window"));
    }
}

fn joules(energy: Option<Joules>) -> String {
    energy.map_or_else(|| format::UNKNOWN.to_owned(), |energy| format::precise(energy.get()))
}

fn watts(power: Option<Watts>) -> String {
    power.map_or_else(|| format::UNKNOWN.to_owned(), |power| format::precise(power.get()))
}

fn share(value: Option<f64>) -> String {
    value.map_or_else(|| format::UNKNOWN.to_owned(), format::change)
}

fn with_deviation(mean: f64, deviation: Option<f64>) -> String {
    match deviation {
        Some(deviation) => format!("{} ± {}", format::precise(mean), format::number(deviation, None)),
        None => format::precise(mean),
    }
}

fn reasons(row: &WindowRow) -> String {
    let invalid = row.invalid_reasons.iter().map(|reason| format!("not valid: {}", reason.code()));
    let all: Vec<String> = invalid.chain(row.warnings.iter().map(|reason| reason.code().to_owned())).collect();
    if all.is_empty() { format::UNKNOWN.to_owned() } else { all.join(", ") }
}
