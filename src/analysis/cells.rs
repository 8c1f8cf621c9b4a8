//! What is known of one cell over its repeats.

use std::collections::{BTreeMap, BTreeSet};

use super::per::per;
use crate::frame::{CellTrials, TrialOutcome, TrialRow, WindowRow};
use crate::record::{ClockEvent, EnergyMethod, OutputLength, Reason, Role};
use crate::stats::{Estimate, Interval, mean};
use crate::units::{Joules, JoulesPerToken, Seconds, Watts};

/// What is known of one cell over its repeats.
#[derive(Debug, Clone, PartialEq)]
pub struct CellSummary {
    /// The readable name.
    pub id: String,
    /// Label of the model.
    pub model: String,
    /// What the model is.
    pub role: Role,
    /// Sequences decoded together.
    pub batch_size: usize,
    /// Upper limit of new tokens.
    pub max_new_tokens: usize,
    /// Data type while running.
    pub dtype: String,
    /// Its weights are made up.
    pub dummy_weights: bool,
    /// When a sequence ends.
    pub output_length: OutputLength,
    /// Repeats planned, measured and valid, failed, skipped.
    pub counts: TrialCounts,
    /// Energy of one pass over the prompt list, in joules (E_run of one window divided by its passes).
    pub energy_per_pass_j: Option<Estimate>,
    /// Tokens of one pass: input, output, padding.
    pub tokens_per_pass: Option<PassTokens>,
    /// E / T_in.
    pub ept_in_j: Option<Estimate>,
    /// E / T_out.
    pub ept_out_j: Option<Estimate>,
    /// E / (T_in + T_out).
    pub ept_total_j: Option<Estimate>,
    /// Energy above the idle baseline per output token.
    pub net_ept_out_j: Option<Estimate>,
    /// Energy per prompt, in joules.
    pub energy_per_prompt_j: Option<Estimate>,
    /// Output tokens per second.
    pub tokens_per_s: Option<Estimate>,
    /// Mean power in watts.
    pub power_w: Option<Estimate>,
    /// Energy method, where all valid trials share one.
    pub method: Option<EnergyMethod>,
    /// Reasons of its invalid trials.
    pub invalid_reasons: Vec<Reason>,
    /// Warnings of its trials.
    pub warnings: Vec<Reason>,
    /// The conditions of its windows.
    pub windows: WindowFacts,
    /// Energy of one pass by what drew it, where that was measured.
    pub domains: Domains,
    /// The part of the GPUs' memory, where the driver gives it.
    pub memory: Option<MemoryPart>,
    /// What EPT-Bench's own estimator gives, where it was recorded.
    pub ept_bench_sum: Option<EptBenchSum>,
    /// What the engine costs.
    pub engine: EngineCost,
    /// Messages of its failed or skipped trials, without repeats.
    pub failures: Vec<String>,
}

/// How a cell compares with the limits of its device, over its valid windows.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct EngineCost {
    /// The energy floor per output token in joules, with the interval of the calibration.
    pub floor_j: Option<Estimate>,
    /// Energy per output token / the floor.
    pub floor_multiple: Option<Estimate>,
    /// Mean time of a decode step in seconds.
    pub decode_step_s: Option<Estimate>,
    /// Bytes of a decode step / its time / the bandwidth of a pure read.
    pub bandwidth_share: Option<Estimate>,
    /// Share of the time in which some kernel ran.
    pub gpu_busy: Option<f64>,
    /// Kernels that a decode step launches.
    pub launches_per_step: Option<u32>,
}

impl EngineCost {
    /// Something compares it with its device; the time of a step alone doesn't.
    pub(crate) fn is_known(&self) -> bool {
        self.floor_j.is_some() || self.gpu_busy.is_some() || self.launches_per_step.is_some()
    }
}

/// Conditions of the measured windows of a cell, valid or not.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct WindowFacts {
    /// How many there are.
    pub windows: usize,
    /// Their mean length in seconds.
    pub window_s: Option<f64>,
    /// Mean number of passes.
    pub passes: Option<f64>,
    /// The residual of the two sources that is furthest from 0, of any window and any domain.
    pub residual: Option<f64>,
    /// The lowest coverage of the second source.
    pub coverage: Option<f64>,
    /// The longest tick of the primary counter in seconds.
    pub tick_s: Option<f64>,
    /// What was still to come of the energy's approach to its steady state after any of their warm-ups, at most, as a
    /// share of it.
    pub remainder_at_most: Option<f64>,
    /// Mean temperature in °C of the memory at their end.
    pub memory_temperature_c: Option<f64>,
    /// Mean temperature in °C at their start, of the hottest GPU.
    pub temperature_start_c: Option<f64>,
    /// Mean temperature in °C at their end.
    pub temperature_end_c: Option<f64>,
    /// Mean clock of the multiprocessors in MHz.
    pub sm_clock_mhz: Option<f64>,
    /// Their lowest clock in MHz.
    pub sm_clock_min_mhz: Option<f64>,
    /// Clock events with the mean share of the windows in which each was active; `None` without telemetry.
    pub clock_events: Option<Vec<(ClockEvent, f64)>>,
    /// Most compute processes of others at once.
    pub foreign_processes: Option<f64>,
    /// The largest change of idle power in watts (after − before) around any of them.
    pub idle_drift_w: Option<f64>,
}

/// Energy of one pass over the prompt list in joules, by what drew it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Domains {
    /// The GPUs.
    pub gpu_j: Option<Estimate>,
    /// The processor packages.
    pub cpu_j: Option<Estimate>,
    /// The main memory.
    pub dram_j: Option<Estimate>,
    /// All of those, where GPUs and packages were measured.
    pub total_j: Option<Estimate>,
}

impl Domains {
    /// The GPUs' share of all that was measured.
    pub(crate) fn gpu_share(&self) -> Option<f64> {
        Some(self.gpu_j?.value / self.total_j?.value)
    }
}

/// A token's energy split into the GPU's memory and the rest of the board.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MemoryPart {
    /// Of the memory, per output token in joules.
    pub ept_out_j: Estimate,
    /// Of everything else on the board.
    pub rest_ept_out_j: Estimate,
    /// The memory's share of the board's energy.
    pub share: Estimate,
}

/// What EPT-Bench's own estimator gives for the same windows: Σ Pᵢ·Δtᵢ over `power_usage` every 0.1 s.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EptBenchSum {
    /// Energy of one pass in joules.
    pub per_pass_j: Estimate,
    /// Its ratio to the measured energy of the same window.
    pub ratio: Estimate,
}

/// How a cell's trials ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TrialCounts {
    /// Blocks of the plan; with adaptive repeats those that there are, where they are more.
    pub planned: usize,
    /// Measured and valid.
    pub valid: usize,
    /// Measured, but not to be used.
    pub invalid: usize,
    /// Failed.
    pub failed: usize,
    /// Skipped.
    pub skipped: usize,
}

impl TrialCounts {
    /// Every planned trial was measured and is valid; adaptive repeats go on beyond the planned ones.
    pub(crate) fn all_valid(&self, blocks: u32) -> bool {
        self.valid >= blocks as usize && self.invalid + self.failed + self.skipped == 0
    }
}

/// Tokens of one pass over the prompt list.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PassTokens {
    /// Prompts.
    pub prompts: f64,
    /// Input tokens.
    pub input: f64,
    /// Output tokens.
    pub output: f64,
    /// Share of prefill positions that are padding.
    pub pad_fraction: f64,
}

/// Summary of a cell: each quantity is a ratio within one window, averaged over the valid windows with the Student-t
/// interval. Energies are unknown where the windows mix energy methods.
///
/// The interval of the net energy doesn't contain the error of the idle baseline, which all repeats of a load share.
pub(crate) fn summarise(cell: &CellTrials<'_>, blocks: u32) -> CellSummary {
    let method = cell.method();
    let energy = |get: fn(&WindowRow) -> Option<f64>| method.and_then(|_| over_valid(cell, get));
    let per_pass = |get: fn(&WindowRow) -> Option<Joules>| {
        method.and_then(|_| over_valid(cell, |window| per(get(window), window.passes.into())))
    };
    CellSummary {
        id: cell.spec.id.0.clone(),
        model: cell.spec.model.clone(),
        role: cell.model.map_or_else(Default::default, |model| model.role),
        batch_size: cell.spec.batch_size,
        max_new_tokens: cell.spec.max_new_tokens,
        dtype: cell.spec.dtype.clone(),
        dummy_weights: cell.spec.dummy_weights,
        output_length: cell.spec.output_length,
        counts: counts(&cell.trials, blocks),
        energy_per_pass_j: per_pass(|window| window.energy),
        tokens_per_pass: tokens_per_pass(cell),
        ept_in_j: energy(|window| window.ept_in.map(JoulesPerToken::get)),
        ept_out_j: energy(|window| window.ept_out.map(JoulesPerToken::get)),
        ept_total_j: energy(|window| window.ept_total.map(JoulesPerToken::get)),
        net_ept_out_j: energy(|window| per(window.net_energy, window.tokens_out.get() as f64)),
        energy_per_prompt_j: energy(|window| per(window.energy, window.prompts.into())),
        tokens_per_s: over_valid(cell, |window| window.tokens_per_s),
        power_w: energy(|window| window.power.map(Watts::get)),
        method,
        invalid_reasons: distinct(cell.trials.iter().flat_map(|row| &row.invalid_reasons)),
        warnings: distinct(cell.trials.iter().flat_map(|row| &row.warnings)),
        windows: window_facts(cell),
        domains: Domains {
            gpu_j: per_pass(|window| window.gpu),
            cpu_j: per_pass(|window| window.cpu),
            dram_j: per_pass(|window| window.dram),
            total_j: per_pass(|window| window.total),
        },
        memory: method.and_then(|_| memory(cell)),
        ept_bench_sum: method.and_then(|_| ept_bench_sum(cell)),
        engine: engine_cost(cell),
        failures: failures(&cell.trials),
    }
}

fn over_valid(cell: &CellTrials<'_>, get: impl Fn(&WindowRow) -> Option<f64>) -> Option<Estimate> {
    mean(&cell.valid().filter_map(|(_, window)| get(window)).collect::<Vec<_>>())
}

fn memory(cell: &CellTrials<'_>) -> Option<MemoryPart> {
    Some(MemoryPart {
        ept_out_j: over_valid(cell, |window| per(window.memory, window.tokens_out.get() as f64))?,
        rest_ept_out_j: over_valid(cell, |window| {
            per(Some(Joules(window.gpu?.get() - window.memory?.get())), window.tokens_out.get() as f64)
        })?,
        share: over_valid(cell, |window| per(window.memory, window.gpu?.get()))?,
    })
}

fn engine_cost(cell: &CellTrials<'_>) -> EngineCost {
    let average = |get: fn(&WindowRow) -> Option<f64>| over_valid(cell, get).map(|estimate| estimate.value);
    // repeats share the calibration: only its own repeats show how well the floor is known
    let floor = |value: f64| {
        let half = average(|window| window.floor_half.map(JoulesPerToken::get));
        let interval = half.map(|half| Interval { low: value - half, high: value + half });
        Estimate { value, interval, n: cell.valid().count() }
    };
    EngineCost {
        floor_j: average(|window| window.floor.map(JoulesPerToken::get)).map(floor),
        floor_multiple: over_valid(cell, |window| window.floor_multiple),
        decode_step_s: over_valid(cell, |window| window.decode_step.map(Seconds::get)),
        bandwidth_share: over_valid(cell, |window| window.bandwidth_share),
        gpu_busy: average(|window| window.gpu_busy),
        launches_per_step: cell.valid().find_map(|(_, window)| window.launches_per_step),
    }
}

/// What EPT-Bench's estimator gives in the valid windows in which it was recorded, and its ratio to the energy there.
fn ept_bench_sum(cell: &CellTrials<'_>) -> Option<EptBenchSum> {
    Some(EptBenchSum {
        per_pass_j: over_valid(cell, |window| per(window.ept_bench_sum, window.passes.into()))?,
        ratio: over_valid(cell, |window| per(window.ept_bench_sum, window.energy?.get()))?,
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
        window_s: average(|window| window.length.map(Seconds::get)),
        passes: average(|window| Some(window.passes.into())),
        residual: furthest(|window| window.residual),
        coverage: lowest(|window| window.coverage),
        tick_s: highest(|window| window.tick.map(Seconds::get)),
        remainder_at_most: highest(|window| window.remainder_at_most),
        memory_temperature_c: average(|window| window.memory_temperature_end_c),
        temperature_start_c: average(|window| window.temperature_start_c),
        temperature_end_c: average(|window| window.temperature_end_c),
        sm_clock_mhz: average(|window| window.sm_clock_mhz),
        sm_clock_min_mhz: lowest(|window| window.sm_clock_min_mhz),
        clock_events: clock_events(cell),
        foreign_processes: highest(|window| window.foreign_processes.map(f64::from)),
        idle_drift_w: furthest(|window| window.idle_drift.map(Watts::get)),
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
        let of_window = |window: &WindowRow| (window.passes > 0).then(|| get(window) / f64::from(window.passes));
        over_valid(cell, of_window).map(|estimate| estimate.value)
    };
    let input = per_pass(|window| window.tokens_in.get() as f64)?;
    let padding = per_pass(|window| window.tokens_pad.get() as f64)?;
    let positions = input + padding;
    Some(PassTokens {
        prompts: per_pass(|window| window.prompts.into())?,
        input,
        output: per_pass(|window| window.tokens_out.get() as f64)?,
        pad_fraction: if positions > 0.0 { padding / positions } else { 0.0 },
    })
}

fn counts(trials: &[TrialRow], blocks: u32) -> TrialCounts {
    let planned = trials.len().max(blocks as usize);
    let mut counts = TrialCounts { planned, ..TrialCounts::default() };
    for trial in trials {
        match trial.outcome {
            TrialOutcome::Measured(_, true) => counts.valid += 1,
            TrialOutcome::Measured(_, false) => counts.invalid += 1,
            TrialOutcome::Failed(_) => counts.failed += 1,
            TrialOutcome::Skipped(_) => counts.skipped += 1,
        }
    }
    counts
}

fn distinct<'a>(reasons: impl Iterator<Item = &'a Reason>) -> Vec<Reason> {
    reasons.copied().collect::<BTreeSet<_>>().into_iter().collect()
}

fn failures(trials: &[TrialRow]) -> Vec<String> {
    let mut messages: Vec<String> = Vec::new();
    for trial in trials {
        if let TrialOutcome::Failed(message) | TrialOutcome::Skipped(message) = &trial.outcome
            && !messages.contains(message)
        {
            messages.push(message.clone());
        }
    }
    messages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gpus_share_is_unknown_where_either_energy_is() {
        let of = |value| Some(Estimate { value, interval: None, n: 1 });
        assert_eq!(Domains { gpu_j: of(8.0), total_j: of(10.0), ..Domains::default() }.gpu_share(), Some(0.8));
        assert_eq!(Domains { gpu_j: of(8.0), ..Domains::default() }.gpu_share(), None);
    }
}
