//! `ept-sweep recompute`: recomputes a run's energies from the raw samples that it stored. Needs neither model nor
//! meter, and never writes into the run's directory.

mod csv;
mod text;

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::analysis::recomputed::{CellRow, Unit, WindowRow, by_cell};
use crate::cli::exit::Exit;
use crate::cli::{Format, RecomputeArgs};
use crate::console::Console;
use crate::error::{Context, Error, Result};
use crate::meter::recompute::{Cut, Method};
use crate::record::TrialKey;
use crate::run::recompute::{Recomputed, Request, windows};
use crate::store::{self, Stored};
use crate::sweep::plan::CellFilter;
use crate::units::Seconds;

/// All that is printed. The names are the keys of the JSON output.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Outcomes {
    run: PathBuf,
    method: Method,
    /// Only a part of each window: its tokens aren't known, so there is no energy per token.
    part_of_window: bool,
    cells_unit: Unit,
    trials: Vec<WindowRow>,
    cells: Vec<CellRow>,
    missing: Vec<Missing>,
    /// Windows with exactly the stored energy.
    same_energy: usize,
    /// Windows that come out differently in any field, although nothing else was asked for.
    different: usize,
}

/// A trial that can't be recomputed.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Missing {
    cell: String,
    block: u32,
    message: String,
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
    let request = Request { method: arguments.method, cut: cut(arguments), only: only.as_ref() };
    let outcomes = Outcomes::new(&stored, request, windows(&stored, request)?);
    if let Some(out) = &arguments.out {
        csv::write(out, &outcomes)?;
    }
    print(&outcomes, &stored, request, arguments.format)?;
    for missing in &outcomes.missing {
        console.warn(format!("`{}` block {} left out: {}", missing.cell, missing.block + 1, missing.message));
    }
    Ok(match (outcomes.different, outcomes.missing.len()) {
        (0, 0) => Exit::Done,
        (0, _) => Exit::TrialsFailed,
        _ => Exit::Failed,
    })
}

fn print(outcomes: &Outcomes, stored: &Stored, request: Request<'_>, format: Format) -> Result<()> {
    match format {
        Format::Json => {
            let text = serde_json::to_string_pretty(outcomes).context(|| "can't write the windows as JSON")?;
            println!("{text}");
        }
        Format::Text if request.is_unchanged() => text::print_same(outcomes, stored),
        Format::Text => text::print_changed(outcomes),
    }
    Ok(())
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
        return Err(Error::input(message).hint("choose a file elsewhere: the files of a run stay as they are"));
    }
    Ok(())
}

impl Outcomes {
    fn new(stored: &Stored, request: Request<'_>, recomputed: Recomputed) -> Self {
        let Recomputed { rows, missing } = recomputed;
        let part_of_window = request.cut != Cut::Whole;
        let cells_unit = if part_of_window { Unit::Watts } else { Unit::Joules };
        Self {
            run: stored.root.clone(),
            method: request.method,
            part_of_window,
            cells_unit,
            cells: by_cell(&rows, cells_unit),
            same_energy: rows.iter().filter(|row| row.is_same_energy()).count(),
            different: rows.iter().filter(|row| !row.differs.is_empty()).count(),
            trials: rows,
            missing: missing.into_iter().map(Missing::new).collect(),
        }
    }
}

impl Missing {
    fn new((TrialKey { cell, block }, error): (TrialKey, Error)) -> Self {
        Self { cell: cell.0, block, message: error.one_line() }
    }
}
