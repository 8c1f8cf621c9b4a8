//! Records as a tidy table: one row a trial, with the unit in each column's name; unknown is null.
//!
//! Divides and subtracts, and estimates nothing.

use std::collections::{BTreeMap, HashMap};

use polars::prelude::{Column, DataFrame, SchemaRef};

use crate::error::{Context as _, Result};
use crate::record::{
    Baseline, BaselineTime, ClockEvent, Conditions, DomainEnergy, Evaluation, Measurement, ModelMeta, Outcome, Part,
    PhaseSplit, Reason, RunInfo, Trial,
};
use crate::table::code;
use crate::units::{Joules, JoulesPerToken, Seconds, Tokens, Watts};

/// Idle power before and after a model's load may differ by this share of the net power that rests on their mean.
const IDLE_DRIFT: f64 = 0.02;

/// One row for each trial, measured, failed or skipped, in the order of the plan and then of the blocks.
///
/// `EPT_in_J_per_tok` = E_run_J / T_in, `EPT_out_J_per_tok` = E_run_J / T_out and `EPT_total_J_per_tok` =
/// E_run_J / (T_in + T_out) are gross energies of the trial's own window. `net_E_run_J` is above the idle baseline:
/// `idle_w` is the mean of those before and after the model's trials of that block and start, and `idle_drift_w` is
/// after − before; a drift of more than 2 % of the trial's net power is the warning `idle_drift`. `total_J` adds GPUs,
/// processor packages and their memory, where the first two were measured. Where there are several GPUs, temperatures
/// are those of the one that ends hottest, and a share in `throttle` is the largest of any. Accuracy is that of the
/// same model, data type and output length.
///
/// # Errors
/// The table can't be built.
pub fn build(run: &RunInfo, trials: &[Trial], evaluations: &[Evaluation], baselines: &[Baseline]) -> Result<DataFrame> {
    let rows = rows_in_plan_order(run, trials, evaluations, baselines);
    let mut columns = identity_columns(&rows);
    columns.extend(outcome_columns(&rows));
    columns.extend(energy_columns(&rows));
    columns.extend(domain_columns(&rows));
    columns.extend(window_columns(&rows));
    columns.extend(idle_columns(&rows));
    columns.extend(trust_columns(&rows));
    columns.extend(condition_columns(&rows));
    columns.extend(phase_columns(&rows));
    columns.extend(cost_columns(&rows));
    columns.extend(accuracy_columns(&rows));
    DataFrame::new(rows.len(), columns).context(|| "can't build the table of results")
}

/// Names and types of the columns that [`build`] makes of the trials of `run`.
///
/// # Errors
/// The table can't be built.
pub fn schema(run: &RunInfo) -> Result<SchemaRef> {
    Ok(build(run, &[], &[], &[])?.schema().clone())
}

/// A trial with what is joined to it.
struct Row<'a> {
    trial: &'a Trial,
    model: Option<&'a ModelMeta>,
    /// The start that measured it.
    part: Option<&'a Part>,
    scores: Option<Scores>,
    idle: Idle,
}

/// Idle power around a trial in watts.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Idle {
    /// The mean of what was measured before and after, or the one that there is.
    power_w: Option<f64>,
    /// After − before.
    drift_w: Option<f64>,
}

impl Idle {
    /// From the baselines of the trial's own load; from the trial itself where the run has none.
    fn around(trial: &Trial, baselines: &[Baseline]) -> Self {
        let at = |time: BaselineTime| {
            let own = |line: &&Baseline| {
                (line.model.as_str(), line.block, line.part) == (trial.cell.model.as_str(), trial.block, trial.part)
                    && line.time == time
            };
            baselines.iter().rev().find(own).map(|line| line.idle.power_w.get())
        };
        match (at(BaselineTime::Before), at(BaselineTime::After)) {
            (Some(before), Some(after)) => {
                Self { power_w: Some((before + after) / 2.0), drift_w: Some(after - before) }
            }
            (Some(power), None) | (None, Some(power)) => Self { power_w: Some(power), drift_w: None },
            (None, None) => Self { power_w: Self::recorded(trial), drift_w: None },
        }
    }

    fn recorded(trial: &Trial) -> Option<f64> {
        let Outcome::Measured(measurement) = &trial.outcome else { return None };
        measurement.idle.as_ref().map(|idle| idle.power_w.get())
    }
}

/// Accuracy of a model at one output length, as plain numbers.
#[derive(Clone, Copy)]
struct Scores {
    exact_match: f64,
    exact_match_stderr: f64,
    rouge_l: f64,
    rouge_l_stderr: Option<f64>,
}

impl Row<'_> {
    fn measurement(&self) -> Option<&Measurement> {
        match &self.trial.outcome {
            Outcome::Measured(measurement) => Some(measurement),
            _ => None,
        }
    }

    /// Mean power of the window.
    fn power_w(&self) -> Option<f64> {
        let measurement = self.measurement()?;
        Some((measurement.energy.total_j? / measurement.window.duration()).get())
    }

    /// Energy of the window above idle.
    fn net_j(&self) -> Option<f64> {
        let measurement = self.measurement()?;
        let idle = Watts(self.idle.power_w?) * measurement.window.duration();
        Some((measurement.energy.total_j? - idle).get())
    }

    /// Whether idle power changed by too much for the net energy to stand.
    fn idle_drifted(&self) -> bool {
        let net_power = self.power_w().zip(self.idle.power_w).map(|(power, idle)| (power - idle).max(0.0));
        self.idle.drift_w.zip(net_power).is_some_and(|(drift, net)| drift.abs() > IDLE_DRIFT * net)
    }

    fn warnings(&self) -> Option<String> {
        let mut warnings = self.measurement()?.validity.warnings.clone();
        if self.idle_drifted() && !warnings.contains(&Reason::IdleDrift) {
            warnings.push(Reason::IdleDrift);
        }
        Some(codes(&warnings))
    }

    /// Energy of all domains of one kind, charged or measured beside them; unknown unless every one that the meter had
    /// was measured.
    fn energy_of(&self, kind: &str) -> Option<f64> {
        let energy = &self.measurement()?.energy;
        let own: Vec<&DomainEnergy> =
            energy.domains.iter().chain(&energy.host).filter(|domain| is_a(kind, &domain.domain)).collect();
        let of_meter = self.part.map_or(0, |part| {
            let all = part.meter.domains.iter().chain(&part.meter.host_domains);
            all.filter(|domain| is_a(kind, &domain.name)).count()
        });
        (!own.is_empty() && own.len() >= of_meter).then(|| own.iter().map(|domain| domain.energy_j.get()).sum())
    }

    /// GPUs, processor packages and their memory; unknown where one of the first two is.
    fn total_j(&self) -> Option<f64> {
        Some(self.energy_of(GPU)? + self.energy_of(PACKAGE)? + self.energy_of(DRAM).unwrap_or(0.0))
    }
}

/// Names of domains before their number.
const GPU: &str = "gpu";
const PACKAGE: &str = "package-";
const DRAM: &str = "dram-";

/// Whether a domain's name is that kind and a number: `gpu0`, `package-1`.
fn is_a(kind: &str, domain: &str) -> bool {
    let number = domain.strip_prefix(kind).unwrap_or_default();
    !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
}

fn rows_in_plan_order<'a>(
    run: &'a RunInfo,
    trials: &'a [Trial],
    evaluations: &[Evaluation],
    baselines: &[Baseline],
) -> Vec<Row<'a>> {
    let position: HashMap<_, _> = run.cells.iter().enumerate().map(|(index, cell)| (&cell.id, index)).collect();
    let mut trials: Vec<&Trial> = trials.iter().collect();
    trials.sort_by_key(|trial| (position.get(&trial.cell.id).copied().unwrap_or(usize::MAX), trial.block));
    let row = |trial: &'a Trial| Row {
        trial,
        model: run.models.iter().find(|model| model.label == trial.cell.model),
        part: run.parts.get(trial.part),
        scores: evaluations.iter().find(|evaluation| belongs(evaluation, trial)).map(scores_of),
        idle: Idle::around(trial, baselines),
    };
    trials.into_iter().map(row).collect()
}

fn belongs(evaluation: &Evaluation, trial: &Trial) -> bool {
    let cell = &trial.cell;
    evaluation.model == cell.model
        && evaluation.dtype == cell.dtype
        && evaluation.max_new_tokens == cell.max_new_tokens
        && evaluation.error.is_none()
        && !evaluation.items.is_empty()
}

fn scores_of(evaluation: &Evaluation) -> Scores {
    let n = evaluation.items.len() as f64;
    let exact_match = evaluation.items.iter().filter(|item| item.exact_match).count() as f64 / n;
    let rouge_l = evaluation.items.iter().map(|item| item.rouge_l).sum::<f64>() / n;
    let squares: f64 = evaluation.items.iter().map(|item| (item.rouge_l - rouge_l).powi(2)).sum();
    Scores {
        exact_match,
        exact_match_stderr: (exact_match * (1.0 - exact_match) / n).sqrt(),
        rouge_l,
        rouge_l_stderr: (n > 1.0).then(|| (squares / (n - 1.0) / n).sqrt()),
    }
}

fn identity_columns(rows: &[Row<'_>]) -> Vec<Column> {
    vec![
        text("cell", rows, |row| Some(row.trial.cell.id.0.clone())),
        text("model", rows, |row| Some(row.trial.cell.model.clone())),
        text("role", rows, |row| row.model.map(|model| code(&model.role))),
        text("teacher", rows, |row| row.model.and_then(|model| model.teacher.clone())),
        whole("batch_size", rows, |row| Some(row.trial.cell.batch_size as i64)),
        whole("max_new_tokens", rows, |row| Some(row.trial.cell.max_new_tokens as i64)),
        text("dtype", rows, |row| Some(row.trial.cell.dtype.clone())),
        text("output_length", rows, |row| Some(code(&row.trial.cell.output_length))),
        text("decoding", rows, |row| Some(row.trial.cell.decoding.to_string())),
        text("weights", rows, |row| Some(if row.trial.cell.dummy_weights { "dummy" } else { "stored" }.to_owned())),
        flag("probe", rows, |row| row.trial.cell.probe),
        whole("block", rows, |row| Some(i64::from(row.trial.block))),
        whole("part", rows, |row| Some(row.trial.part as i64)),
        text("started_at", rows, |row| Some(row.trial.started_at.clone())),
    ]
}

fn outcome_columns(rows: &[Row<'_>]) -> Vec<Column> {
    vec![
        text("outcome", rows, |row| Some(outcome(row).to_owned())),
        text("failure", rows, |row| match &row.trial.outcome {
            Outcome::Failed { failure, .. } => Some(code(failure)),
            _ => None,
        }),
        text("message", rows, |row| match &row.trial.outcome {
            Outcome::Failed { message, .. } | Outcome::Skipped { message } => Some(message.clone()),
            Outcome::Measured(_) => None,
        }),
        truth("valid", rows, |m| m.validity.is_valid()),
        text("invalid_reasons", rows, |row| row.measurement().map(|m| codes(&m.validity.invalid_reasons))),
        text("warnings", rows, |row| row.warnings()),
    ]
}

fn outcome(row: &Row<'_>) -> &'static str {
    match row.trial.outcome {
        Outcome::Measured(_) => "measured",
        Outcome::Failed { .. } => "failed",
        Outcome::Skipped { .. } => "skipped",
    }
}

fn codes(reasons: &[Reason]) -> String {
    reasons.iter().map(|reason| reason.code()).collect::<Vec<_>>().join(",")
}

fn energy_columns(rows: &[Row<'_>]) -> Vec<Column> {
    vec![
        text("energy_method", rows, |row| row.measurement()?.energy.method.map(|method| code(&method))),
        number("E_run_J", rows, |m| m.energy.total_j.map(Joules::get)),
        tokens("T_in", rows, |m| m.tokens_in),
        tokens("T_out", rows, |m| m.tokens_out),
        tokens("T_pad", rows, |m| m.tokens_pad),
        number("EPT_in_J_per_tok", rows, |m| m.ept_in().map(JoulesPerToken::get)),
        number("EPT_out_J_per_tok", rows, |m| m.ept_out().map(JoulesPerToken::get)),
        number("EPT_total_J_per_tok", rows, |m| m.ept_total().map(JoulesPerToken::get)),
    ]
}

fn domain_columns(rows: &[Row<'_>]) -> Vec<Column> {
    vec![
        number("E_sum_J", rows, |m| m.energy.ept_bench_sum_j.map(Joules::get)),
        of_row("gpu_J", rows, |row| row.energy_of(GPU)),
        of_row("cpu_J", rows, |row| row.energy_of(PACKAGE)),
        of_row("dram_J", rows, |row| row.energy_of(DRAM)),
        of_row("total_J", rows, |row| row.total_j()),
    ]
}

fn window_columns(rows: &[Row<'_>]) -> Vec<Column> {
    let of_window = |get: fn(&Measurement) -> Option<u64>| {
        move |row: &Row<'_>| row.measurement().and_then(get).map(|count| count as i64)
    };
    vec![
        number("window_s", rows, |m| Some(m.window.duration().get())),
        number("offset_s", rows, |m| Some(m.window.offset_s.get())),
        whole("passes", rows, of_window(|m| Some(m.window.passes.into()))),
        whole("batches", rows, of_window(|m| Some(m.window.batches.into()))),
        whole("prompts", rows, of_window(|m| Some(m.window.prompts.into()))),
        whole("output_bytes", rows, of_window(|m| m.output_bytes)),
        number("tokens_per_s", rows, |m| m.tokens_out.per(m.window.duration())),
    ]
}

fn idle_columns(rows: &[Row<'_>]) -> Vec<Column> {
    vec![
        of_row("power_w", rows, |row| row.power_w()),
        of_row("idle_w", rows, |row| row.measurement().and(row.idle.power_w)),
        of_row("idle_drift_w", rows, |row| row.measurement().and(row.idle.drift_w)),
        of_row("net_E_run_J", rows, |row| row.net_j()),
    ]
}

fn trust_columns(rows: &[Row<'_>]) -> Vec<Column> {
    vec![
        number("integral_J", rows, |m| m.energy.integral_j.map(Joules::get)),
        number("residual", rows, |m| m.energy.residual),
        number("residual_worst", rows, worst_residual),
        number("coverage", rows, |m| m.energy.coverage),
        number("max_gap_s", rows, |m| m.energy.max_gap_s.map(Seconds::get)),
        number("tick_s", rows, |m| m.energy.tick_s.map(Seconds::get)),
    ]
}

/// The residual that is furthest from 0, of any domain: two that are off in opposite ways don't make each other good.
fn worst_residual(m: &Measurement) -> Option<f64> {
    let residuals = m.energy.domains.iter().filter_map(|domain| domain.residual).chain(m.energy.residual);
    residuals.max_by(|a, b| a.abs().total_cmp(&b.abs()))
}

fn condition_columns(rows: &[Row<'_>]) -> Vec<Column> {
    vec![
        number("temperature_start_c", rows, |m| hottest(m)?.temperature_start_c),
        number("temperature_end_c", rows, |m| hottest(m)?.temperature_end_c),
        number("sm_clock_mhz", rows, |m| mean(m.conditions.iter().filter_map(|gpu| gpu.sm_clock_mhz))),
        number("sm_clock_min_mhz", rows, |m| {
            m.conditions.iter().filter_map(|gpu| gpu.sm_clock_min_mhz).reduce(f64::min)
        }),
        text("throttle", rows, |row| row.measurement().and_then(throttle)),
        whole("foreign_processes", rows, |row| {
            let others = row.measurement()?.conditions.iter().filter_map(|gpu| gpu.foreign_processes);
            others.max().map(i64::from)
        }),
    ]
}

fn hottest(m: &Measurement) -> Option<&Conditions> {
    let known = m.conditions.iter().filter_map(|gpu| Some((gpu, gpu.temperature_end_c?)));
    known.max_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(gpu, _)| gpu)
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, n) = values.fold((0.0, 0usize), |(sum, n), value| (sum + value, n + 1));
    (n > 0).then(|| sum / n as f64)
}

/// Clock events with the share of the window in which they were active: `software_power_cap:0.85`. Empty where none
/// was, null without telemetry.
fn throttle(m: &Measurement) -> Option<String> {
    let mut shares: BTreeMap<ClockEvent, f64> = BTreeMap::new();
    for (event, share) in m.conditions.iter().flat_map(|gpu| &gpu.clock_events) {
        let largest = shares.entry(*event).or_default();
        *largest = largest.max(*share);
    }
    let codes = shares.iter().map(|(event, share)| format!("{}:{}", event.code(), (share * 1e4).round() / 1e4));
    (!m.conditions.is_empty()).then(|| codes.collect::<Vec<_>>().join(","))
}

fn phase_columns(rows: &[Row<'_>]) -> Vec<Column> {
    let split = |get: fn(&PhaseSplit) -> f64| move |m: &Measurement| m.phases.as_ref().map(get);
    vec![
        number("prefill_J", rows, split(|phases| phases.prefill_j.get())),
        number("decode_J", rows, split(|phases| phases.decode_j.get())),
        number("prefill_s", rows, split(|phases| phases.prefill_s.get())),
        number("decode_s", rows, split(|phases| phases.decode_s.get())),
        whole("decode_steps", rows, |row| Some(row.measurement()?.phases.as_ref()?.decode_steps as i64)),
    ]
}

fn cost_columns(rows: &[Row<'_>]) -> Vec<Column> {
    vec![
        number("load_s", rows, |m| Some(m.load.duration_s.get())),
        number("load_J", rows, |m| m.load.energy_j.map(Joules::get)),
        number("warmup_s", rows, |m| Some(m.warmup.duration_s.get())),
        number("warmup_J", rows, |m| m.warmup.energy_j.map(Joules::get)),
    ]
}

fn accuracy_columns(rows: &[Row<'_>]) -> Vec<Column> {
    let scores = |name: &str, get: fn(Scores) -> Option<f64>| {
        Column::new(name.into(), rows.iter().map(|row| row.scores.and_then(get)).collect::<Vec<Option<f64>>>())
    };
    vec![
        scores("exact_match", |s| Some(s.exact_match)),
        scores("exact_match_stderr", |s| Some(s.exact_match_stderr)),
        scores("rouge_l", |s| Some(s.rouge_l)),
        scores("rouge_l_stderr", |s| s.rouge_l_stderr),
    ]
}

fn text(name: &str, rows: &[Row<'_>], get: impl Fn(&Row<'_>) -> Option<String>) -> Column {
    Column::new(name.into(), rows.iter().map(get).collect::<Vec<Option<String>>>())
}

fn whole(name: &str, rows: &[Row<'_>], get: impl Fn(&Row<'_>) -> Option<i64>) -> Column {
    Column::new(name.into(), rows.iter().map(get).collect::<Vec<Option<i64>>>())
}

fn tokens(name: &str, rows: &[Row<'_>], get: impl Fn(&Measurement) -> Tokens) -> Column {
    whole(name, rows, |row| row.measurement().map(|m| get(m).get() as i64))
}

fn flag(name: &str, rows: &[Row<'_>], get: impl Fn(&Row<'_>) -> bool) -> Column {
    Column::new(name.into(), rows.iter().map(get).collect::<Vec<bool>>())
}

fn truth(name: &str, rows: &[Row<'_>], get: impl Fn(&Measurement) -> bool) -> Column {
    Column::new(name.into(), rows.iter().map(|row| row.measurement().map(&get)).collect::<Vec<Option<bool>>>())
}

/// A number of a measured trial; null where it is unknown or not finite.
fn number(name: &str, rows: &[Row<'_>], get: impl Fn(&Measurement) -> Option<f64>) -> Column {
    let finite = |row: &Row<'_>| row.measurement().and_then(&get).filter(|value| value.is_finite());
    Column::new(name.into(), rows.iter().map(finite).collect::<Vec<Option<f64>>>())
}

/// A number of a row; null where it is unknown or not finite.
fn of_row(name: &str, rows: &[Row<'_>], get: impl Fn(&Row<'_>) -> Option<f64>) -> Column {
    let finite = |row: &Row<'_>| get(row).filter(|value| value.is_finite());
    Column::new(name.into(), rows.iter().map(finite).collect::<Vec<Option<f64>>>())
}
