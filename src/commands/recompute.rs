//! `ept-sweep recompute`: the energies of a run anew, from the raw samples that it stored. Needs neither model nor
//! meter, and never writes into the run's directory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use polars::prelude::{Column, DataFrame};
use serde::Serialize;

use crate::cli::exit::Exit;
use crate::cli::{Format, RecomputeArgs};
use crate::console::Console;
use crate::error::{Context, Error, Result};
use crate::meter::recompute::{Cut, Known, Method, differences, recompute as again};
use crate::record::{Measurement, Outcome, Reason, Trial};
use crate::stats::Contrast;
use crate::store::{self, Stored, samples_path};
use crate::sweep::plan::CellFilter;
use crate::units::Seconds;
use crate::{format, host, table};

/// A window as stored and as recomputed.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Row {
    cell: String,
    block: u32,
    stored_j: Option<f64>,
    recomputed_j: Option<f64>,
    /// (recomputed − stored) / stored.
    difference: Option<f64>,
    duration_s: f64,
    stored_w: Option<f64>,
    recomputed_w: Option<f64>,
    residual: Option<f64>,
    valid: bool,
    invalid_reasons: Vec<Reason>,
    warnings: Vec<Reason>,
    /// Fields of the record that come out differently; looked for only where nothing else was asked for.
    differs: Vec<String>,
}

/// A cell over its repeats: joules, or watts where the window was changed.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct CellRow {
    cell: String,
    n: usize,
    stored_mean: f64,
    stored_sd: Option<f64>,
    recomputed_mean: f64,
    recomputed_sd: Option<f64>,
    difference: f64,
}

/// A trial that can't be recomputed.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Missing {
    cell: String,
    block: u32,
    message: String,
}

/// All that is printed.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Outcomes {
    run: PathBuf,
    method: Method,
    /// Only a part of each window: energy per token isn't known for it.
    part_of_window: bool,
    /// `J`, or `W` where only a part of each window is asked for.
    cells_unit: &'static str,
    trials: Vec<Row>,
    cells: Vec<CellRow>,
    missing: Vec<Missing>,
    /// Windows with exactly the stored energy.
    same_energy: usize,
    /// Windows that come out differently in any field, although nothing else was asked for.
    different: usize,
}

/// Recomputes a run's energies and prints them.
///
/// # Errors
/// The directory holds no run or a damaged one, `--only` matches nothing measured, the method's source was never
/// recorded, or `--out` can't be written or lies in the run's directory.
pub fn recompute(arguments: &RecomputeArgs, console: &Console) -> Result<Exit> {
    let stored = store::read(&arguments.run)?;
    if let Some(out) = &arguments.out {
        refuse_inside(out, &stored.root)?;
    }
    let only = arguments.only.as_deref().map(CellFilter::new).transpose()?;
    let outcomes = outcomes(&stored, arguments.method, cut(arguments), only.as_ref())?;
    if let Some(out) = &arguments.out {
        write_csv(out, &outcomes)?;
    }
    let changed = outcomes.part_of_window || arguments.method != Method::Counter;
    match (arguments.format, changed) {
        (Format::Json, _) => {
            let text = serde_json::to_string_pretty(&outcomes).context(|| "can't write the windows as JSON")?;
            println!("{text}");
        }
        (Format::Text, true) => print_changed(&outcomes),
        (Format::Text, false) => print_same(&outcomes, &stored),
    }
    for missing in &outcomes.missing {
        console.warn(format!("`{}` block {} left out: {}", missing.cell, missing.block + 1, missing.message));
    }
    Ok(match (outcomes.different, outcomes.missing.len()) {
        (0, 0) => Exit::Done,
        (0, _) => Exit::TrialsFailed,
        _ => Exit::Failed,
    })
}

fn cut(arguments: &RecomputeArgs) -> Cut {
    match (arguments.trim, arguments.from, arguments.to) {
        (Some(edge), _, _) => Cut::Trim(Seconds(edge)),
        (None, None, None) => Cut::Whole,
        (None, from, to) => Cut::Between(from.map(Seconds), to.map(Seconds)),
    }
}

/// A run directory is evidence: nothing is added to it.
fn refuse_inside(out: &Path, root: &Path) -> Result<()> {
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let what = |path: &Path| format!("can't find the folder `{}`", path.display());
    let folder = folder.canonicalize().input_context(|| what(folder))?;
    if folder.starts_with(root.canonicalize().input_context(|| what(root))?) {
        let message = format!("`--out {}` lies in the run's directory", out.display());
        return Err(Error::input(message).hint("choose a file elsewhere: what a run stored stays as it is"));
    }
    Ok(())
}

fn outcomes(stored: &Stored, method: Method, cut: Cut, only: Option<&CellFilter>) -> Result<Outcomes> {
    let (mut rows, mut missing) = (Vec::new(), Vec::new());
    for trial in stored.trials.iter().filter(|trial| only.is_none_or(|filter| filter.matches(&trial.cell.id))) {
        let Outcome::Measured(measurement) = &trial.outcome else { continue };
        match row(stored, trial, measurement, method, cut) {
            Ok(row) => rows.push(row),
            Err(error) => {
                missing.push(Missing { cell: trial.cell.id.0.clone(), block: trial.block, message: error.one_line() })
            }
        }
    }
    if rows.is_empty() && missing.is_empty() {
        let hint = "`ept-sweep report` shows what is in the run; `--only` takes a glob such as `teacher.b8.*`";
        return Err(Error::input(format!("no measured window in `{}`", stored.root.display())).hint(hint));
    }
    let order: BTreeMap<&str, usize> =
        stored.info.cells.iter().enumerate().map(|(index, cell)| (cell.id.0.as_str(), index)).collect();
    rows.sort_by_key(|row| (order.get(row.cell.as_str()).copied(), row.block));
    if !rows.is_empty() && rows.iter().all(|row| row.recomputed_j.is_none()) && method != Method::Counter {
        return Err(no_source(method));
    }
    let part_of_window = cut != Cut::Whole;
    Ok(Outcomes {
        run: stored.root.clone(),
        method,
        part_of_window,
        cells_unit: if part_of_window { "W" } else { "J" },
        cells: cell_rows(&rows, part_of_window),
        same_energy: rows.iter().filter(|row| !row.differs.iter().any(|name| name.starts_with("energy"))).count(),
        different: rows.iter().filter(|row| !row.differs.is_empty()).count(),
        trials: rows,
        missing,
    })
}

fn no_source(method: Method) -> Error {
    let (what, hint) = match method {
        Method::EptBench => {
            ("`power_usage` readings", "only NVML gives them; `--method power` takes the second source")
        }
        _ => ("a second source of power", "`ept-sweep meter` says what this machine can measure"),
    };
    Error::input(format!("`--method {method}` needs {what}, and this run has none")).hint(hint)
}

fn row(stored: &Stored, trial: &Trial, measurement: &Measurement, method: Method, cut: Cut) -> Result<Row> {
    let part = stored.info.parts.get(trial.part).ok_or_else(|| {
        Error::input(format!("run.json has no part {}, to which this trial belongs", trial.part))
            .hint("restore the file from a copy")
    })?;
    let path = samples_path(&stored.root, &trial.key());
    let trace = table::read_samples(&path)?;
    let known = Known {
        measurement,
        batch_size: trial.cell.batch_size,
        weight_bytes: part.models.get(&trial.cell.model).and_then(|model| model.weight_bytes),
    };
    let found = again(&trace, &part.meter, &known, cut)?;
    let findings = &found.findings;
    let (before, after) = (measurement.energy.total_j, method.energy(&findings.energy));
    let duration = found.t1 - found.t0;
    let unchanged = cut == Cut::Whole && method == Method::Counter;
    Ok(Row {
        cell: trial.cell.id.0.clone(),
        block: trial.block,
        stored_j: before.map(|energy| energy.0),
        recomputed_j: after.map(|energy| energy.0),
        difference: before.zip(after).and_then(|(before, after)| change(before.0, after.0)),
        duration_s: duration.0,
        stored_w: before.map(|energy| (energy / measurement.window.duration()).0),
        recomputed_w: after.map(|energy| (energy / duration).0),
        residual: findings.energy.residual,
        valid: findings.validity.is_valid(),
        differs: if unchanged { differences(measurement, findings) } else { Vec::new() },
        invalid_reasons: findings.validity.invalid_reasons.clone(),
        warnings: findings.validity.warnings.clone(),
    })
}

/// (after − before) / before.
fn change(before: f64, after: f64) -> Option<f64> {
    (before != 0.0).then(|| (after - before) / before)
}

/// Means and standard deviations of the cells over the repeats that have both figures.
fn cell_rows(rows: &[Row], power: bool) -> Vec<CellRow> {
    let figures = |row: &Row| match power {
        true => row.stored_w.zip(row.recomputed_w),
        false => row.stored_j.zip(row.recomputed_j),
    };
    let cell = |rows: &[Row]| {
        let (stored, recomputed): (Vec<f64>, Vec<f64>) = rows.iter().filter_map(figures).unzip();
        let ((stored_mean, stored_sd), (recomputed_mean, recomputed_sd)) =
            (mean_and_deviation(&stored)?, mean_and_deviation(&recomputed)?);
        let difference = change(stored_mean, recomputed_mean)?;
        let (cell, n) = (rows.first()?.cell.clone(), stored.len());
        Some(CellRow { cell, n, stored_mean, stored_sd, recomputed_mean, recomputed_sd, difference })
    };
    rows.chunk_by(|a, b| a.cell == b.cell).filter_map(cell).collect()
}

fn mean_and_deviation(values: &[f64]) -> Option<(f64, Option<f64>)> {
    let mean = Contrast::of_mean(values)?;
    Some((mean.value, mean.spread.map(|spread| spread.standard_error * (values.len() as f64).sqrt())))
}

/// Nothing was changed: whether the record holds, and where it doesn't.
fn print_same(outcomes: &Outcomes, stored: &Stored) {
    println!("{} of {} windows give the same energy", outcomes.same_energy, outcomes.trials.len());
    for row in outcomes.trials.iter().filter(|row| !row.differs.is_empty()) {
        println!(
            "  `{}` block {}: stored {} J, now {} J; differs in {}",
            row.cell,
            row.block + 1,
            figure(row.stored_j),
            figure(row.recomputed_j),
            row.differs.join(", ")
        );
    }
    print_missing_count(outcomes);
    if outcomes.different > 0 {
        for part in &stored.info.parts {
            let revision = |revision: Option<&str>| revision.unwrap_or("no revision").to_owned();
            println!(
                "  measured by version {} ({}), recomputed by {} ({})",
                part.version,
                revision(part.git_revision.as_deref()),
                host::VERSION,
                revision(host::git_revision().as_deref())
            );
        }
    }
}

fn print_changed(outcomes: &Outcomes) {
    let width = outcomes.trials.iter().map(|row| row.cell.len()).max().unwrap_or(0).max(4);
    println!("method `{}`: {}", outcomes.method, explanation(outcomes.method));
    if outcomes.part_of_window {
        println!(
            "a part of each window: its tokens aren't known, so energy per token isn't given; compare the power (W)"
        );
    }
    let heads = ("block", "stored J", "now J", "change", "residual");
    print!("\n{:<width$} {:>5} {:>10} {:>10} {:>9}", "cell", heads.0, heads.1, heads.2, heads.3);
    if outcomes.part_of_window {
        print!(" {:>8} {:>8} {:>9}", "stored W", "now W", "change");
    }
    println!(" {:>8}  reasons", heads.4);
    for row in &outcomes.trials {
        print!(
            "{:<width$} {:>5} {:>10} {:>10} {:>9}",
            row.cell,
            row.block + 1,
            figure(row.stored_j),
            figure(row.recomputed_j),
            share(row.difference)
        );
        if outcomes.part_of_window {
            let power = row.stored_w.zip(row.recomputed_w).and_then(|(before, after)| change(before, after));
            print!(" {:>8} {:>8} {:>9}", figure(row.stored_w), figure(row.recomputed_w), share(power));
        }
        println!(" {:>8}  {}", share(row.residual), reasons(row));
    }
    let unit = outcomes.cells_unit;
    println!(
        "\n{:<width$} {:>5} {:>24} {:>24} {:>9}",
        "cell",
        "n",
        format!("stored {unit}"),
        format!("now {unit}"),
        "change"
    );
    for cell in &outcomes.cells {
        println!(
            "{:<width$} {:>5} {:>24} {:>24} {:>9}",
            cell.cell,
            cell.n,
            with_deviation(cell.stored_mean, cell.stored_sd),
            with_deviation(cell.recomputed_mean, cell.recomputed_sd),
            share(Some(cell.difference))
        );
    }
    println!("mean ± standard deviation over the repeats");
    print_missing_count(outcomes);
}

fn explanation(method: Method) -> &'static str {
    match method {
        Method::Counter => "the primary source, a difference of the energy counter where there is one",
        Method::Power => "the second source, the time integral of power",
        Method::EptBench => "E_sum_J of EPT-Bench, the sum of `power_usage` times 0.1 s; for comparison only",
    }
}

fn print_missing_count(outcomes: &Outcomes) {
    if !outcomes.missing.is_empty() {
        println!("{} can't be recomputed", format::plural(outcomes.missing.len(), "window"));
    }
}

fn figure(value: Option<f64>) -> String {
    value.map_or_else(|| format::UNKNOWN.to_owned(), format::precise)
}

fn share(value: Option<f64>) -> String {
    value.map_or_else(|| format::UNKNOWN.to_owned(), format::change)
}

fn with_deviation(mean: f64, deviation: Option<f64>) -> String {
    match deviation {
        Some(deviation) => format!("{} ± {}", format::precise(mean), format::number(deviation, None)),
        None => format::precise(mean),
    }
}

fn reasons(row: &Row) -> String {
    let invalid = row.invalid_reasons.iter().map(|reason| format!("not valid: {}", reason.code()));
    let all: Vec<String> = invalid.chain(row.warnings.iter().map(|reason| reason.code().to_owned())).collect();
    if all.is_empty() { format::UNKNOWN.to_owned() } else { all.join(", ") }
}

fn write_csv(path: &Path, outcomes: &Outcomes) -> Result<()> {
    let rows = &outcomes.trials;
    let numbers = |get: fn(&Row) -> Option<f64>| rows.iter().map(get).collect::<Vec<_>>();
    let texts = |get: fn(&Row) -> String| rows.iter().map(get).collect::<Vec<_>>();
    let codes = |reasons: &[Reason]| reasons.iter().map(|reason| reason.code()).collect::<Vec<_>>().join(" ");
    let columns = vec![
        Column::new("cell".into(), texts(|row| row.cell.clone())),
        Column::new("block".into(), rows.iter().map(|row| row.block).collect::<Vec<u32>>()),
        Column::new("method".into(), vec![outcomes.method.code(); rows.len()]),
        Column::new("duration_s".into(), numbers(|row| Some(row.duration_s))),
        Column::new("stored_J".into(), numbers(|row| row.stored_j)),
        Column::new("recomputed_J".into(), numbers(|row| row.recomputed_j)),
        Column::new("difference".into(), numbers(|row| row.difference)),
        Column::new("stored_W".into(), numbers(|row| row.stored_w)),
        Column::new("recomputed_W".into(), numbers(|row| row.recomputed_w)),
        Column::new("residual".into(), numbers(|row| row.residual)),
        Column::new("valid".into(), rows.iter().map(|row| row.valid).collect::<Vec<bool>>()),
        Column::new("invalid_reasons".into(), rows.iter().map(|row| codes(&row.invalid_reasons)).collect::<Vec<_>>()),
        Column::new("warnings".into(), rows.iter().map(|row| codes(&row.warnings)).collect::<Vec<_>>()),
        Column::new("differs".into(), texts(|row| row.differs.join(" "))),
    ];
    let frame = DataFrame::new(rows.len(), columns).context(|| format!("can't write `{}`", path.display()))?;
    table::write_csv(path, &frame)
}
