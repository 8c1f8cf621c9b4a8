//! Every number that a reader sees: estimates with intervals, savings, the Pareto front, verdicts.
//!
//! Takes the tidy frame and plain structs; gives plain structs. No strings for people are made here.

use std::collections::{BTreeMap, BTreeSet};

use polars::prelude::DataFrame;

use crate::error::Result;
use crate::record::{ClockEvent, EnergyMethod, Evaluation, OutputLength, Reason, Role, RunInfo};

mod accuracy;
mod break_even;
mod cells;
pub mod comparison;
mod derived;
pub mod detectable;
pub mod diff;
mod overall;
mod pareto;
mod phases;
mod savings;
mod trials;

use accuracy::Scores;
use trials::Trials;

pub use crate::stats::{Estimate, Interval};

/// Everything about a run, from its tidy frame and its evaluations. Verdicts use the run's floor.
///
/// Cells that were added to tell prefill and decode apart are in `probes` and `phases` alone.
///
/// # Errors
/// The frame lacks a column, has a trial that isn't in the plan, or two valid trials of a cell in one block.
pub fn analyse(run: &RunInfo, frame: &DataFrame, evaluations: &[Evaluation]) -> Result<Study> {
    let trials = Trials::read(run, frame)?;
    let scores = Scores::of(accuracy::of_compared_cells(run, evaluations));
    let summaries = |cells: &[trials::CellTrials<'_>]| cells.iter().map(|c| cells::summarise(c, run.blocks)).collect();
    let (cells, probes): (Vec<CellSummary>, Vec<CellSummary>) = (summaries(&trials.cells), summaries(&trials.probes));
    Ok(Study {
        stopping: stopping(run, &cells),
        phases: phases::phases(&trials),
        probes,
        accuracies: accuracy::accuracies(run, &scores),
        savings: savings::savings(run, &trials, &scores),
        overall: overall::overall(run, &trials, &scores),
        points: pareto::points(&cells, &scores),
        methods: methods(&trials),
        reasons: reason_counts(&trials),
        cells,
    })
}

/// Which cells of a run with adaptive repeats have an interval as narrow as it asked for.
fn stopping(run: &RunInfo, cells: &[CellSummary]) -> Option<Stopping> {
    let adaptive = run.protocol.adaptive?;
    let width = |cell: &&CellSummary| cell.ept_out_j.as_ref().and_then(Estimate::relative_half_width);
    let has_interval = |cell: &&CellSummary| cell.ept_out_j.is_some_and(|ept| ept.interval.is_some());
    let (known, unknown): (Vec<&CellSummary>, Vec<_>) = cells.iter().partition(has_interval);
    let is_narrow = |cell: &&CellSummary| width(cell).is_some_and(|width| width <= adaptive.half_width);
    let (narrow, wide): (Vec<&CellSummary>, Vec<_>) = known.into_iter().partition(is_narrow);
    let names = |cells: Vec<&CellSummary>| cells.into_iter().map(|cell| cell.id.clone()).collect();
    Some(Stopping {
        half_width: adaptive.half_width,
        fewest: run.blocks as usize,
        most: adaptive.max_repeats as usize,
        repeats: cells.iter().map(|cell| cell.counts.valid + cell.counts.invalid).max().unwrap_or_default(),
        narrow: narrow.len(),
        wide: names(wide),
        unknown: names(unknown),
    })
}

fn methods(trials: &Trials<'_>) -> Vec<EnergyMethod> {
    let all =
        trials.cells.iter().flat_map(|cell| cell.valid()).filter_map(|(_, window)| window.energy_j.and(window.method));
    all.collect::<BTreeSet<_>>().into_iter().collect()
}

fn reason_counts(trials: &Trials<'_>) -> Vec<ReasonCount> {
    let mut counts: BTreeMap<Reason, (usize, usize)> = BTreeMap::new();
    for row in trials.all().flat_map(|cell| &cell.rows) {
        for reason in &row.invalid_reasons {
            counts.entry(*reason).or_default().0 += 1;
        }
        for reason in &row.warnings {
            counts.entry(*reason).or_default().1 += 1;
        }
    }
    counts.into_iter().map(|(reason, (invalid, warned))| ReasonCount { reason, invalid, warned }).collect()
}

/// Everything that the figures and the report show.
#[derive(Debug, Clone, PartialEq)]
pub struct Study {
    /// One entry for each cell of the plan, measured or not, in the plan's order; without those in `probes`.
    pub cells: Vec<CellSummary>,
    /// The cells that were added to tell prefill and decode apart: in no comparison, no figure and no headline.
    pub probes: Vec<CellSummary>,
    /// Energy of prefill and decode, one entry for each model and batch size of which something is known.
    pub phases: Vec<Phases>,
    /// How repeats ended, where they were adaptive.
    pub stopping: Option<Stopping>,
    /// Accuracy of each model at each output length.
    pub accuracies: Vec<Accuracy>,
    /// One entry for each student or control, batch size and output length: against its teacher in the same cell.
    pub savings: Vec<Saving>,
    /// One entry for each student or control: over all cells that it shares with its teacher.
    pub overall: Vec<OverallSaving>,
    /// The energy–accuracy points, one for each cell with both, with the Pareto front marked.
    pub points: Vec<Point>,
    /// Energy method of the valid trials; more than one is a mixture that is never pooled in one comparison.
    pub methods: Vec<EnergyMethod>,
    /// How often each reason occurred, over all trials.
    pub reasons: Vec<ReasonCount>,
}

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
    /// What EPT-Bench's own estimator gives, where it was recorded.
    pub ept_bench_sum: Option<EptBenchSum>,
    /// Messages of its failed or skipped trials, without repeats.
    pub failures: Vec<String>,
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

/// What EPT-Bench's own estimator gives for the same windows: Σ Pᵢ·Δtᵢ over `power_usage` every 0.1 s.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EptBenchSum {
    /// Energy of one pass in joules.
    pub per_pass_j: Estimate,
    /// Its ratio to the measured energy of the same window.
    pub ratio: Estimate,
}

/// How adaptive repeats ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Stopping {
    /// The half-width of the 95 % interval, relative to the mean, at which they were to end.
    pub half_width: f64,
    /// Repeats in any case.
    pub fewest: usize,
    /// Most repeats.
    pub most: usize,
    /// Repeats that were measured.
    pub repeats: usize,
    /// Cells that have the half-width.
    pub narrow: usize,
    /// Names of the cells whose interval is wider.
    pub wide: Vec<String>,
    /// Names of the cells without an interval: they have fewer than two valid repeats.
    pub unknown: Vec<String>,
}

/// Energy of prefill and decode of one model at one batch size, by up to three methods.
///
/// Prefill back to back (windows of one new token) runs at another clock and power state than prefill inside a generate
/// call: the methods may disagree for that reason.
#[derive(Debug, Clone, PartialEq)]
pub struct Phases {
    /// Label of the model.
    pub model: String,
    /// What the model is.
    pub role: Role,
    /// Sequences decoded together.
    pub batch_size: usize,
    /// Data type while running.
    pub dtype: String,
    /// By difference: the longest windows less those of one new token.
    pub difference: Option<PhaseEnergy>,
    /// By a weighted straight line through all lengths.
    pub regression: Option<PhaseEnergy>,
    /// What a parabola adds to the line in joules a step², where its interval excludes 0: the line isn't one.
    pub curvature: Option<Estimate>,
    /// From power samples inside the windows.
    pub inside: Option<PhaseEnergy>,
    /// (largest − smallest) / mean of the methods, for prefill; `None` below two methods.
    pub prefill_disagreement: Option<f64>,
    /// The same for decode.
    pub decode_disagreement: Option<f64>,
}

/// Energy of prefill and decode by one method, in joules.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PhaseEnergy {
    /// Prefill of one prompt.
    pub prefill_j_per_prompt: Estimate,
    /// One decoding step of a whole batch.
    pub decode_j_per_step: Estimate,
    /// Decoding of one token.
    pub decode_j_per_token: Estimate,
    /// Output lengths that it rests on.
    pub lengths: usize,
    /// The longest of them.
    pub longest: usize,
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
    /// Standard error of `rouge_l`.
    pub rouge_l_stderr: f64,
    /// Exact match by category: name, share, number of prompts.
    pub by_category: Vec<(String, f64, usize)>,
    /// The data set.
    pub dataset: String,
}

/// A student against its teacher in one cell.
#[derive(Debug, Clone, PartialEq)]
pub struct Saving {
    /// Label of the student (or control).
    pub student: String,
    /// What it is.
    pub role: Role,
    /// Label of the teacher.
    pub teacher: String,
    /// Batch size of both.
    pub batch_size: usize,
    /// Output length of both.
    pub max_new_tokens: usize,
    /// The comparison of energy per output token.
    pub ept_out: Comparison,
    /// Accuracy of the student minus that of the teacher (exact match, paired over prompts).
    pub accuracy_difference: Option<Estimate>,
    /// Tokens that have to be generated before the saving has paid for the distillation.
    pub break_even: BreakEven,
}

/// Two cells of equal batch size and output length, new against base.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// new / base, estimated on the log scale; `None` where one side is unknown.
    pub ratio: Option<Estimate>,
    /// 1 − new / base.
    pub saving: Option<Estimate>,
    /// base − new, in joules per output token.
    pub saved_j_per_token: Option<Estimate>,
    /// base / new: how many times less energy.
    pub factor: Option<Estimate>,
    /// p value of "the ratio is 1", adjusted over the cells of the comparison (Holm).
    pub p_adjusted: Option<f64>,
    /// What may be said.
    pub verdict: Verdict,
}

/// What may be said of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The new one takes less energy, beyond the floor.
    Improved,
    /// The new one takes more energy, beyond the floor.
    Regressed,
    /// The two are the same within the floor (two one-sided tests).
    Equivalent,
    /// The data don't tell.
    Inconclusive,
}

/// After how many output tokens a distillation has paid for itself.
#[derive(Debug, Clone, PartialEq)]
pub enum BreakEven {
    /// So many tokens, with a Fieller interval whose upper end may be infinite.
    Tokens(Estimate),
    /// The saving may be zero or negative: never.
    Never,
    /// It can't be said, and why: `no_training_energy`, `mixed_methods`, `unknown_saving`.
    Unknown(BreakEvenUnknown),
}

/// Why a break-even isn't known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BreakEvenUnknown {
    /// The student wasn't trained for the purpose, or what training took isn't recorded.
    NoTrainingEnergy,
    /// Training energy and saving come from methods that must not be mixed (measured and modelled).
    MixedMethods,
    /// The saving isn't known.
    UnknownSaving,
}

/// A student against its teacher over all cells that they share.
#[derive(Debug, Clone, PartialEq)]
pub struct OverallSaving {
    /// Label of the student (or control).
    pub student: String,
    /// What it is.
    pub role: Role,
    /// Label of the teacher.
    pub teacher: String,
    /// Number of cells.
    pub cells: usize,
    /// Geometric mean over the cells of new / base; the block is the unit of replication.
    pub ept_out: Comparison,
    /// Exact match of the student at the longest output length.
    pub student_accuracy: Option<Estimate>,
    /// Exact match of the teacher at the longest output length.
    pub teacher_accuracy: Option<Estimate>,
    /// Student minus teacher, paired over prompts.
    pub accuracy_difference: Option<Estimate>,
    /// Student minus control (the undistilled model of the same teacher), paired over prompts: distillation's part.
    pub over_control: Option<(String, Estimate)>,
    /// All trials in it are valid and by one method that measures.
    pub measured: bool,
    /// The break-even over all cells.
    pub break_even: BreakEven,
}

/// One point of the energy–accuracy plane.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// The cell.
    pub cell: String,
    /// Label of the model.
    pub model: String,
    /// What the model is.
    pub role: Role,
    /// Batch size.
    pub batch_size: usize,
    /// Output length.
    pub max_new_tokens: usize,
    /// Joules per output token.
    pub ept_out_j: Estimate,
    /// Exact match.
    pub accuracy: Estimate,
    /// No other point has less energy and at least the accuracy, or the same energy and more accuracy.
    pub on_front: bool,
}

/// How often a reason occurred.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReasonCount {
    /// The reason.
    pub reason: Reason,
    /// Trials that it makes unusable.
    pub invalid: usize,
    /// Trials that it warns of.
    pub warned: usize,
}
