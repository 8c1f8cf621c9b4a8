//! What is known of one cell over its valid repeats.

use std::collections::{BTreeMap, BTreeSet};

use super::trials::{CellTrials, Row, RowOutcome, WindowRow, share};
use super::{CellSummary, Domains, EptBenchSum, Estimate, PassTokens, TrialCounts, WindowFacts};
use crate::record::{ClockEvent, Reason};
use crate::stats::mean;

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
        windows: window_facts(cell),
        domains: Domains {
            gpu_j: energy(|window| share(window.gpu_j, window.passes)),
            cpu_j: energy(|window| share(window.cpu_j, window.passes)),
            dram_j: energy(|window| share(window.dram_j, window.passes)),
            total_j: energy(|window| share(window.sum_j, window.passes)),
        },
        ept_bench_sum: method.and_then(|_| ept_bench_sum(cell)),
        failures: failures(&cell.rows),
    }
}

fn over_valid(cell: &CellTrials<'_>, get: impl Fn(&WindowRow) -> Option<f64>) -> Option<Estimate> {
    mean(&cell.valid().filter_map(|(_, window)| get(window)).collect::<Vec<_>>())
}

/// What EPT-Bench's estimator gives in the valid windows in which it was recorded, and its ratio to the energy there.
fn ept_bench_sum(cell: &CellTrials<'_>) -> Option<EptBenchSum> {
    Some(EptBenchSum {
        per_pass_j: over_valid(cell, |window| share(window.ept_bench_sum_j, window.passes))?,
        ratio: over_valid(cell, |window| share(window.ept_bench_sum_j, window.energy_j?))?,
    })
}

/// Conditions of all measured windows, valid or not: the invalid ones are what one wants to see.
fn window_facts(cell: &CellTrials<'_>) -> WindowFacts {
    let values = |get: fn(&WindowRow) -> Option<f64>| cell.measured().filter_map(get).collect::<Vec<f64>>();
    let average = |get| mean(&values(get)).map(|estimate| estimate.value);
    let lowest = |get| values(get).into_iter().reduce(f64::min);
    let highest = |get| values(get).into_iter().reduce(f64::max);
    let furthest = |get| values(get).into_iter().max_by(|a, b| a.abs().total_cmp(&b.abs()));
    WindowFacts {
        windows: cell.measured().count(),
        window_s: average(|window| window.window_s),
        passes: average(|window| Some(window.passes)),
        residual: furthest(|window| window.residual),
        coverage: lowest(|window| window.coverage),
        tick_s: highest(|window| window.tick_s),
        temperature_start_c: average(|window| window.temperature_start_c),
        temperature_end_c: average(|window| window.temperature_end_c),
        sm_clock_mhz: average(|window| window.sm_clock_mhz),
        sm_clock_min_mhz: lowest(|window| window.sm_clock_min_mhz),
        clock_events: clock_events(cell),
        foreign_processes: highest(|window| window.foreign_processes),
        idle_drift_w: furthest(|window| window.idle_drift_w),
    }
}

/// Mean share of each event over the windows with telemetry; `None` where there is none.
fn clock_events(cell: &CellTrials<'_>) -> Option<Vec<(ClockEvent, f64)>> {
    let known: Vec<_> = cell.measured().filter_map(|window| window.clock_events.as_ref()).collect();
    let mut sums: BTreeMap<ClockEvent, f64> = BTreeMap::new();
    for (event, share) in known.iter().copied().flatten() {
        *sums.entry(*event).or_default() += share;
    }
    let shares = sums.into_iter().map(|(event, sum)| (event, sum / known.len() as f64));
    (!known.is_empty()).then(|| shares.collect())
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
    let planned = rows.len().max(blocks as usize);
    let mut counts = TrialCounts { planned, ..TrialCounts::default() };
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
