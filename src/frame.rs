//! Records as a tidy table: one row a trial, with the unit in each column's name; unknown is null.
//!
//! Divides and subtracts, and estimates nothing.

use std::collections::HashMap;

use polars::prelude::{Column, DataFrame, SchemaRef};

use crate::error::{Context as _, Result};
use crate::record::{Evaluation, Measurement, ModelMeta, Outcome, Reason, RunInfo, Trial};
use crate::table::code;
use crate::units::{Joules, JoulesPerToken, Seconds, Tokens, Watts};

/// One row for each trial, measured, failed or skipped, in the order of the plan and then of the blocks.
///
/// `EPT_in_J_per_tok` = E_run_J / T_in, `EPT_out_J_per_tok` = E_run_J / T_out and `EPT_total_J_per_tok` =
/// E_run_J / (T_in + T_out) are gross energies of the trial's own window. `net_E_run_J` is above the idle baseline.
/// Accuracy is that of the same model, data type and output length.
///
/// # Errors
/// The table can't be built.
pub fn build(run: &RunInfo, trials: &[Trial], evaluations: &[Evaluation]) -> Result<DataFrame> {
    let rows = rows_in_plan_order(run, trials, evaluations);
    let mut columns = identity_columns(&rows);
    columns.extend(outcome_columns(&rows));
    columns.extend(energy_columns(&rows));
    columns.extend(window_columns(&rows));
    columns.extend(trust_columns(&rows));
    columns.extend(cost_columns(&rows));
    columns.extend(accuracy_columns(&rows));
    DataFrame::new(rows.len(), columns).context(|| "can't build the table of results")
}

/// Names and types of the columns that [`build`] makes of the trials of `run`.
///
/// # Errors
/// The table can't be built.
pub fn schema(run: &RunInfo) -> Result<SchemaRef> {
    Ok(build(run, &[], &[])?.schema().clone())
}

/// A trial with what is joined to it.
struct Row<'a> {
    trial: &'a Trial,
    model: Option<&'a ModelMeta>,
    scores: Option<Scores>,
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
}

fn rows_in_plan_order<'a>(run: &'a RunInfo, trials: &'a [Trial], evaluations: &[Evaluation]) -> Vec<Row<'a>> {
    let position: HashMap<_, _> = run.cells.iter().enumerate().map(|(index, cell)| (&cell.id, index)).collect();
    let mut trials: Vec<&Trial> = trials.iter().collect();
    trials.sort_by_key(|trial| (position.get(&trial.cell.id).copied().unwrap_or(usize::MAX), trial.block));
    let row = |trial: &'a Trial| Row {
        trial,
        model: run.models.iter().find(|model| model.label == trial.cell.model),
        scores: evaluations.iter().find(|evaluation| belongs(evaluation, trial)).map(scores_of),
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
        text("warnings", rows, |row| row.measurement().map(|m| codes(&m.validity.warnings))),
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

fn window_columns(rows: &[Row<'_>]) -> Vec<Column> {
    let of_window = |get: fn(&Measurement) -> Option<u64>| {
        move |row: &Row<'_>| row.measurement().and_then(get).map(|count| count as i64)
    };
    vec![
        number("window_s", rows, |m| Some(m.window.duration().get())),
        whole("passes", rows, of_window(|m| Some(m.window.passes.into()))),
        whole("prompts", rows, of_window(|m| Some(m.window.prompts.into()))),
        whole("output_bytes", rows, of_window(|m| m.output_bytes)),
        number("tokens_per_s", rows, |m| m.tokens_out.per(m.window.duration())),
        number("power_w", rows, |m| Some((m.energy.total_j? / m.window.duration()).get())),
        number("idle_w", rows, |m| m.idle.as_ref().map(|idle| Watts::get(idle.power_w))),
        number("net_E_run_J", rows, |m| m.net_energy().map(Joules::get)),
    ]
}

fn trust_columns(rows: &[Row<'_>]) -> Vec<Column> {
    vec![
        number("integral_J", rows, |m| m.energy.integral_j.map(Joules::get)),
        number("residual", rows, |m| m.energy.residual),
        number("coverage", rows, |m| m.energy.coverage),
        number("max_gap_s", rows, |m| m.energy.max_gap_s.map(Seconds::get)),
        number("tick_s", rows, |m| m.energy.tick_s.map(Seconds::get)),
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

fn truth(name: &str, rows: &[Row<'_>], get: impl Fn(&Measurement) -> bool) -> Column {
    Column::new(name.into(), rows.iter().map(|row| row.measurement().map(&get)).collect::<Vec<Option<bool>>>())
}

/// A number of a measured trial; null where it is unknown or not finite.
fn number(name: &str, rows: &[Row<'_>], get: impl Fn(&Measurement) -> Option<f64>) -> Column {
    let finite = |row: &Row<'_>| row.measurement().and_then(&get).filter(|value| value.is_finite());
    Column::new(name.into(), rows.iter().map(finite).collect::<Vec<Option<f64>>>())
}
