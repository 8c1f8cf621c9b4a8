//! A stored run again: reads the raw samples of its windows and computes their energies from them.

use std::collections::BTreeMap;

use crate::analysis::recomputed::{Drawn, WindowRow};
use crate::error::{Error, Result};
use crate::meter::recompute::{Cut, Known, Method, differences, recompute};
use crate::record::{CellId, Measurement, Outcome, Trial, TrialKey};
use crate::store::{Stored, samples_path};
use crate::sweep::plan::CellFilter;
use crate::table;

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    pub(crate) method: Method,
    /// The part of each window.
    pub(crate) cut: Cut,
    /// The cells; `None` for all of them.
    pub(crate) only: Option<&'a CellFilter>,
}

impl Request<'_> {
    /// Whether the windows are recomputed as they were measured: only then must the results be the same.
    pub(crate) fn is_unchanged(&self) -> bool {
        self.cut == Cut::Whole && self.method == Method::Counter
    }
}

/// The windows of a run, recomputed.
#[derive(Debug)]
pub(crate) struct Recomputed {
    /// In the order of the plan, then of the blocks.
    pub(crate) rows: Vec<WindowRow>,
    /// The windows that can't be recomputed, and why.
    pub(crate) missing: Vec<(TrialKey, Error)>,
}

/// Recomputes the measured windows of a run.
///
/// # Errors
/// Nothing measured matches, or the method's source was never recorded.
pub(crate) fn windows(stored: &Stored, request: Request<'_>) -> Result<Recomputed> {
    let (mut rows, mut missing) = (Vec::new(), Vec::new());
    let wanted = |trial: &&Trial| request.only.is_none_or(|filter| filter.matches(&trial.cell.id));
    for trial in stored.trials.iter().filter(wanted) {
        let Outcome::Measured(measurement) = &trial.outcome else { continue };
        match window(stored, trial, measurement, request) {
            Ok(row) => rows.push(row),
            Err(error) => missing.push((trial.key(), error)),
        }
    }
    if rows.is_empty() && missing.is_empty() {
        let hint = "`ept-sweep report` shows what is in the run; `--only` takes a glob such as `teacher.b8.*`";
        return Err(Error::input(format!("no measured window in `{}`", stored.root.display())).with_hint(hint));
    }
    if !rows.is_empty() && rows.iter().all(|row| row.recomputed_j.is_none()) && request.method != Method::Counter {
        return Err(no_source(request.method));
    }
    let order: BTreeMap<&CellId, usize> =
        stored.info.cells.iter().enumerate().map(|(index, cell)| (&cell.id, index)).collect();
    rows.sort_by_key(|row| (order.get(&CellId(row.cell.clone())).copied(), row.block));
    Ok(Recomputed { rows, missing })
}

fn no_source(method: Method) -> Error {
    let (what, hint) = match method {
        Method::EptBench => {
            ("`power_usage` readings", "only NVML gives them; `--method power` takes the second source")
        }
        _ => ("a second source of power", "`ept-sweep meter` shows what this machine can measure"),
    };
    Error::input(format!("`--method {method}` needs {what}, and this run has none")).with_hint(hint)
}

fn window(stored: &Stored, trial: &Trial, measurement: &Measurement, request: Request<'_>) -> Result<WindowRow> {
    let part = stored.info.parts.get(trial.part).ok_or_else(|| {
        Error::input(format!("run.json has no part {}, to which this trial belongs", trial.part))
            .with_hint("restore the file from a copy")
    })?;
    let trace = table::read_samples(&samples_path(&stored.root, &trial.key()))?;
    let known = Known {
        measurement,
        batch_size: trial.cell.batch_size,
        weight_bytes: part.models.get(&trial.cell.model).and_then(|model| model.weight_bytes),
    };
    let again = recompute(&trace, &part.meter, &known, request.cut)?;
    let findings = again.findings;
    let before = Drawn { energy: measurement.energy.total_j, duration: measurement.window.duration() };
    let after = Drawn { energy: request.method.energy(&findings.energy), duration: again.t1 - again.t0 };
    let differs = if request.is_unchanged() { differences(measurement, &findings) } else { Vec::new() };
    let row = WindowRow::new(&trial.key(), before, after, findings.energy.residual, findings.validity);
    Ok(WindowRow { differs, ..row })
}
