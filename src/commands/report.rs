//! `ept-sweep report`: records on disk → frame → analysis → figures → report. Needs neither model nor meter.

use std::collections::BTreeMap;
use std::path::Path;

use crate::analysis::{self, PowerTrace, Study};
use crate::cli::ReportArgs;
use crate::cli::exit::Exit;
use crate::console::Console;
use crate::error::Result;
use crate::figures;
use crate::file::write_atomic;
use crate::frame::Frame;
use crate::record::{ModelMeta, Outcome, Trial};
use crate::report;
use crate::store::{self, Stored, samples_path};
use crate::table;

/// What was written.
pub(crate) struct Written {
    /// Trials that failed or were skipped, and evaluations that failed.
    pub(crate) failed: usize,
}

/// A run with everything that is computed from it.
pub(crate) struct Analysed {
    /// What is on disk.
    pub(crate) stored: Stored,
    pub(crate) frame: Frame,
    /// The numbers.
    pub(crate) study: Study,
}

/// Reports runs again.
///
/// # Errors
/// A directory holds no run, its records are damaged, or the disk fails.
pub(crate) fn report(arguments: &ReportArgs, console: &Console) -> Result<Exit> {
    let written: Vec<Written> = arguments.runs.iter().map(|root| write(root, console)).collect::<Result<_>>()?;
    let failed: usize = written.iter().map(|written| written.failed).sum();
    Ok(if failed > 0 { Exit::TrialsFailed } else { Exit::Done })
}

/// Reads and analyses a run.
///
/// # Errors
/// The directory holds no run, or its records are damaged.
pub(crate) fn analyse(root: &Path) -> Result<Analysed> {
    let stored = store::read(root)?;
    let frame = Frame::build(&stored.info, &stored.trials, &stored.evaluations, &stored.baselines)?;
    let study = analysis::analyse(&stored.info, &frame, &stored.evaluations)?;
    Ok(Analysed { stored, frame, study })
}

/// Writes `results.parquet`, `results.csv`, `figures/`, `report.html` and `report.md` into a run directory, and the
/// path of the report to standard output.
///
/// # Errors
/// As [`analyse`], or the disk fails.
pub(crate) fn write(root: &Path, console: &Console) -> Result<Written> {
    let Analysed { stored, frame, study } = analyse(root)?;
    table::write_parquet(&root.join("results.parquet"), frame.trials())?;
    table::write_csv(&root.join("results.csv"), &frame.flat()?)?;
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
    let has_samples = |trial: &Trial| samples_path(&stored.root, &trial.key()).exists();
    let candidates = stored.trials.iter().filter(|trial| trial.cell.model == model.label && has_samples(trial));
    let Some((trial, measurement)) = analysis::shown_trial(candidates) else { return Ok(None) };
    let trace = table::read_samples(&samples_path(&stored.root, &trial.key()))?;
    Ok(analysis::power_trace(model, &trace, measurement, stored.info.protocol.guard_s))
}
