//! `ept-sweep report`: records on disk → frame → analysis → figures → report. Needs neither model nor meter.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use polars::prelude::DataFrame;

use crate::analysis::{self, Study};
use crate::cli::ReportArgs;
use crate::cli::console::Console;
use crate::cli::exit::Exit;
use crate::error::Result;
use crate::figures::{self, PowerTrace};
use crate::record::{CellSpec, EnergyMethod, Measurement, ModelMeta, Outcome, Quantity, Sample, SourceTrace, Trace};
use crate::report;
use crate::store::{self, Stored, samples_path, write_atomic};
use crate::sweep::TrialKey;
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
    let frame = frame::build(&stored.info, &stored.trials, &stored.evaluations)?;
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
    let points = power_points(&trace);
    Ok((points.len() > 1).then(|| PowerTrace {
        label: model.label.clone(),
        role: model.role,
        t0: measurement.window.t0_s.0,
        t1: measurement.window.t1_s.0,
        points,
        modelled: measurement.energy.method == Some(EnergyMethod::Modelled),
    }))
}

fn shown_trial<'a>(stored: &'a Stored, label: &str) -> Option<(&'a Measurement, PathBuf)> {
    let size = |cell: &CellSpec| (cell.batch_size, cell.max_new_tokens);
    let measured =
        stored.trials.iter().filter(|trial| trial.cell.model == label).filter_map(|trial| match &trial.outcome {
            Outcome::Measured(measurement) if measurement.validity.is_valid() => Some((trial, &**measurement)),
            _ => None,
        });
    let with_samples = measured.filter_map(|(trial, measurement)| {
        let path = samples_path(&stored.root, &TrialKey { cell: trial.cell.id.clone(), block: trial.block });
        path.exists().then_some((trial, measurement, path))
    });
    let shown = with_samples.max_by_key(|(trial, _, _)| (size(&trial.cell), Reverse(trial.block)));
    shown.map(|(_, measurement, path)| (measurement, path))
}

/// Power over time, summed over the domains that were sampled together.
fn power_points(trace: &Trace) -> Vec<(f64, f64)> {
    let mut sources = trace.sources.iter().filter(|source| source.quantity == Quantity::Power);
    let Some(first) = sources.next() else { return Vec::new() };
    let others: Vec<_> = sources.collect();
    let sum = |sample: &Sample| {
        let rest: f64 = others.iter().map(|source| nearest(source, sample.t.0)).sum();
        (sample.t.0, sample.value + rest)
    };
    first.samples.iter().map(sum).collect()
}

/// The reading of a source closest in time.
fn nearest(source: &SourceTrace, t: f64) -> f64 {
    let after = source.samples.partition_point(|sample| sample.t.0 < t);
    let around = source.samples[after.saturating_sub(1)..].iter().take(2);
    around.min_by(|a, b| (a.t.0 - t).abs().total_cmp(&(b.t.0 - t).abs())).map_or(0.0, |sample| sample.value)
}
