//! What is known of one cell over its valid repeats.

use std::collections::BTreeSet;

use super::estimate::mean;
use super::trials::{CellTrials, Row, RowOutcome, WindowRow, share};
use super::{CellSummary, Estimate, PassTokens, TrialCounts};
use crate::record::Reason;

/// Summary of a cell: each quantity is a ratio within one window, averaged over the valid windows with the Student-t
/// interval. Energies are unknown where the windows mix energy methods.
///
/// The interval of the net energy doesn't contain the error of the idle baseline, which all repeats of a load share.
pub fn summarise(cell: &CellTrials<'_>, blocks: u32) -> CellSummary {
    let method = cell.method();
    let energy = |get: fn(&WindowRow) -> Option<f64>| method.and_then(|_| over_valid(cell, get));
    CellSummary {
        id: cell.spec.id.0.clone(),
        model: cell.spec.model.clone(),
        role: cell.model.map_or_else(Default::default, |model| model.role),
        batch_size: cell.spec.batch_size,
        max_new_tokens: cell.spec.max_new_tokens,
        dtype: cell.spec.dtype.clone(),
        dummy_weights: cell.spec.dummy_weights,
        output_length: cell.spec.output_length,
        counts: counts(&cell.rows, blocks),
        energy_per_pass_j: energy(|window| share(window.energy_j, window.passes)),
        tokens_per_pass: tokens_per_pass(cell),
        ept_in_j: energy(|window| share(window.energy_j, window.tokens_in)),
        ept_out_j: energy(WindowRow::ept_out),
        ept_total_j: energy(|window| share(window.energy_j, window.tokens_in + window.tokens_out)),
        net_ept_out_j: energy(|window| share(window.net_energy_j, window.tokens_out)),
        energy_per_prompt_j: energy(|window| share(window.energy_j, window.prompts)),
        tokens_per_s: over_valid(cell, |window| share(Some(window.tokens_out), window.window_s?)),
        power_w: energy(|window| share(window.energy_j, window.window_s?)),
        method,
        invalid_reasons: distinct(cell.rows.iter().flat_map(|row| &row.invalid_reasons)),
        warnings: distinct(cell.rows.iter().flat_map(|row| &row.warnings)),
        failures: failures(&cell.rows),
    }
}

fn over_valid(cell: &CellTrials<'_>, get: impl Fn(&WindowRow) -> Option<f64>) -> Option<Estimate> {
    mean(&cell.valid().filter_map(|(_, window)| get(window)).collect::<Vec<_>>())
}

fn tokens_per_pass(cell: &CellTrials<'_>) -> Option<PassTokens> {
    let per_pass = |get: fn(&WindowRow) -> f64| {
        over_valid(cell, |window| share(Some(get(window)), window.passes)).map(|estimate| estimate.value)
    };
    let (input, padding) = (per_pass(|window| window.tokens_in)?, per_pass(|window| window.tokens_pad)?);
    Some(PassTokens {
        prompts: per_pass(|window| window.prompts)?,
        input,
        output: per_pass(|window| window.tokens_out)?,
        pad_fraction: share(Some(padding), input + padding).unwrap_or_default(),
    })
}

fn counts(rows: &[Row], blocks: u32) -> TrialCounts {
    let mut counts = TrialCounts { planned: blocks as usize, ..TrialCounts::default() };
    for row in rows {
        match row.outcome {
            RowOutcome::Measured(_, true) => counts.valid += 1,
            RowOutcome::Measured(_, false) => counts.invalid += 1,
            RowOutcome::Failed(_) => counts.failed += 1,
            RowOutcome::Skipped(_) => counts.skipped += 1,
        }
    }
    counts
}

fn distinct<'a>(reasons: impl Iterator<Item = &'a Reason>) -> Vec<Reason> {
    reasons.copied().collect::<BTreeSet<_>>().into_iter().collect()
}

fn failures(rows: &[Row]) -> Vec<String> {
    let mut messages: Vec<String> = Vec::new();
    for row in rows {
        if let RowOutcome::Failed(message) | RowOutcome::Skipped(message) = &row.outcome
            && !messages.contains(message)
        {
            messages.push(message.clone());
        }
    }
    messages
}
