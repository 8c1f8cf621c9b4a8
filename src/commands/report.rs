//! `ept-sweep report`: records on disk → frame → analysis → figures → report. Needs neither model nor meter.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use polars::prelude::DataFrame;

use crate::analysis::{self, Study};
use crate::cli::ReportArgs;
use crate::cli::exit::Exit;
use crate::console::Console;
use crate::error::Result;
use crate::figures::{self, PowerTrace};
use crate::file::write_atomic;
use crate::record::{
    CellSpec, EnergyMethod, Measurement, ModelMeta, Outcome, PREFILL, Quantity, Sample, SourceTrace, Trace, WORK,
};
use crate::report;
use crate::store::{self, Stored, samples_path};
use crate::{frame, table};

/// What was written.
pub struct Written {
    /// Trials that failed or were skipped, and evaluations that failed.
    pub failed: usize,
}

/// A run with everything that is computed from it.
pub struct Analysed {
    /// What is on disk.
    pub stored: Stored,
    /// The tidy frame.
    pub frame: DataFrame,
    /// The numbers.
    pub study: Study,
}

/// Reports runs again.
///
/// # Errors
/// A directory holds no run, its records are damaged, or the disk fails.
pub fn report(arguments: &ReportArgs, console: &Console) -> Result<Exit> {
    let written: Vec<Written> = arguments.runs.iter().map(|root| write(root, console)).collect::<Result<_>>()?;
    let failed: usize = written.iter().map(|written| written.failed).sum();
    Ok(if failed > 0 { Exit::TrialsFailed } else { Exit::Done })
}

/// Reads and analyses a run.
///
/// # Errors
/// The directory holds no run, or its records are damaged.
pub fn analyse(root: &Path) -> Result<Analysed> {
    let stored = store::read(root)?;
    let frame = frame::build(&stored.info, &stored.trials, &stored.evaluations, &stored.baselines)?;
    let study = analysis::analyse(&stored.info, &frame, &stored.evaluations)?;
    Ok(Analysed { stored, frame, study })
}

/// Writes `results.parquet`, `results.csv`, `figures/`, `report.html` and `report.md` into a run directory, and the
/// path of the report to standard output.
///
/// # Errors
/// As [`analyse`], or the disk fails.
pub fn write(root: &Path, console: &Console) -> Result<Written> {
    let Analysed { stored, frame, study } = analyse(root)?;
    table::write_parquet(&root.join("results.parquet"), &frame)?;
    table::write_csv(&root.join("results.csv"), &frame)?;
    let power = power_traces(&stored, console);
    let figures = figures::draw_all(&study, &power, &root.join("figures"))?;
    let rendered = report::render(&stored.info, &study, &figures)?;
    write_atomic(&root.join("report.html"), rendered.html.as_bytes())?;
    write_atomic(&root.join("report.md"), rendered.markdown.as_bytes())?;
    let trials = stored.trials.iter().filter(|trial| !matches!(trial.outcome, Outcome::Measured(_))).count();
    if trials > 0 {
        console.warn(format!("{trials} of {} trials failed or were skipped: the report says why", stored.trials.len()));
    }
    let failed = trials + unscored(&stored);
    println!("{}", root.join("report.html").display());
    Ok(Written { failed })
}

/// Models and output lengths whose last evaluation failed.
fn unscored(stored: &Stored) -> usize {
    let mut last = BTreeMap::new();
    for evaluation in &stored.evaluations {
        last.insert((&evaluation.model, evaluation.max_new_tokens), evaluation.error.is_some());
    }
    last.into_values().filter(|failed| *failed).count()
}

/// One window of each model: its first valid trial in the cell of the largest batch and the longest output.
///
/// One damaged file costs one line of one figure, not the report.
fn power_traces(stored: &Stored, console: &Console) -> Vec<PowerTrace> {
    let trace = |model| match power_trace(stored, model) {
        Ok(trace) => trace,
        Err(error) => {
            console.warn(format!("left out of the power figure: {}", error.one_line()));
            None
        }
    };
    stored.info.models.iter().filter_map(trace).collect()
}

fn power_trace(stored: &Stored, model: &ModelMeta) -> Result<Option<PowerTrace>> {
    let Some((measurement, path)) = shown_trial(stored, &model.label) else { return Ok(None) };
    let trace = table::read_samples(&path)?;
    let window = measurement.window;
    // the load around the window, without the whole warm-up before it
    let around = stored.info.protocol.guard_s.0 + window.duration().0 * AROUND;
    let shown = (window.t0_s.0 - around)..=(window.t1_s.0 + around);
    let points = power_points(&trace, measurement).into_iter().filter(|(t, _)| shown.contains(t)).collect::<Vec<_>>();
    Ok((points.len() > 1).then(|| PowerTrace {
        label: model.label.clone(),
        role: model.role,
        t0: window.t0_s.0,
        t1: window.t1_s.0,
        prefill: prefill_spans(&trace, measurement),
        points,
        modelled: measurement.energy.method == Some(EnergyMethod::Modelled),
    }))
}

/// Share of a window's length that the power figure shows before and after it, beside the guard work.
const AROUND: f64 = 0.1;

fn shown_trial<'a>(stored: &'a Stored, label: &str) -> Option<(&'a Measurement, PathBuf)> {
    let size = |cell: &CellSpec| (cell.batch_size, cell.max_new_tokens);
    let own = stored.trials.iter().filter(|trial| trial.cell.model == label && !trial.cell.probe);
    let measured = own.filter_map(|trial| match &trial.outcome {
        Outcome::Measured(measurement) if measurement.validity.is_valid() => Some((trial, &**measurement)),
        _ => None,
    });
    let with_samples = measured.filter_map(|(trial, measurement)| {
        let path = samples_path(&stored.root, &trial.key());
        path.exists().then_some((trial, measurement, path))
    });
    let shown = with_samples.max_by_key(|(trial, _, _)| (size(&trial.cell), Reverse(trial.block)));
    shown.map(|(_, measurement, path)| (measurement, path))
}

/// Power over time, summed over the domains whose energy counts: by the finest source that each of them has.
fn power_points(trace: &Trace, measurement: &Measurement) -> Vec<(f64, f64)> {
    let finest = |domain: &str| {
        let find = |quantity| trace.find(domain, quantity).filter(|source| !source.samples.is_empty());
        find(Quantity::Power).or_else(|| find(Quantity::PowerUsage))
    };
    let domains = measurement.energy.domains.iter().map(|domain| domain.domain.as_str());
    let sources: Option<Vec<&SourceTrace>> = domains.map(finest).collect();
    let sources = sources.unwrap_or_default();
    let Some((first, others)) = sources.split_first() else { return Vec::new() };
    let sum = |sample: &Sample| {
        let t = sample.t.0 - first.lag.0;
        let rest: f64 = others.iter().map(|source| nearest(source, t)).sum();
        (t, sample.value + rest)
    };
    first.samples.iter().map(sum).collect()
}

/// The reading of a source that speaks of the time closest to `t`.
fn nearest(source: &SourceTrace, t: f64) -> f64 {
    let t = t + source.lag.0;
    let after = source.samples.partition_point(|sample| sample.t.0 < t);
    let around = source.samples[after.saturating_sub(1)..].iter().take(2);
    around.min_by(|a, b| (a.t.0 - t).abs().total_cmp(&(b.t.0 - t).abs())).map_or(0.0, |sample| sample.value)
}

/// When the engine read prompts inside the window.
fn prefill_spans(trace: &Trace, measurement: &Measurement) -> Vec<(f64, f64)> {
    let Some(marks) = trace.find(WORK, Quantity::Phase) else { return Vec::new() };
    let window = measurement.window;
    let is_prefill =
        |pair: &&[Sample]| pair[0].value == PREFILL && pair[0].t.0 >= window.t0_s.0 && pair[1].t.0 <= window.t1_s.0;
    marks.samples.windows(2).filter(is_prefill).map(|pair| (pair[0].t.0, pair[1].t.0)).collect()
}
