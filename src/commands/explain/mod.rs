//! `ept-sweep explain CELL`: everything behind one cell's number, down to the trials and the formula.

mod cell;
mod trial;

use std::path::{Path, PathBuf};

use crate::analysis::CellSummary;
use crate::cli::ExplainArgs;
use crate::cli::exit::Exit;
use crate::commands::report::{Analysed, analyse};
use crate::error::{Error, Result};

/// Prints it.
///
/// # Errors
/// There is no such run or cell.
pub(crate) fn explain(arguments: &ExplainArgs) -> Result<Exit> {
    let root = arguments.run.clone().map_or_else(only_run, Ok)?;
    let analysed = analyse(&root)?;
    let cell = find(&arguments.cell, &analysed)?;
    cell::print_head(cell, &analysed);
    for trial in analysed.stored.trials.iter().filter(|trial| trial.cell.id.0 == cell.id) {
        trial::print(trial, &analysed.stored);
    }
    cell::print_results(cell, &analysed);
    Ok(Exit::Done)
}

/// The only run in `reports/`, so that the common case needs no flag.
fn only_run() -> Result<PathBuf> {
    let entries = std::fs::read_dir("reports").into_iter().flatten().flatten();
    let is_run = |path: &PathBuf| path.join("run.json").exists() && !is_rotated(path);
    let runs: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_run).collect();
    match runs.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(Error::input("no run in `reports/`").with_hint("name the run's directory with `--run DIR`")),
        several => {
            let names: Vec<_> = several.iter().map(|path| path.display().to_string()).collect();
            Err(Error::input("several runs in `reports/`")
                .with_hint(format!("choose one with `--run`: {}", names.join(", "))))
        }
    }
}

/// `kd.1`, `kd.2` …: a run that `--fresh` moved aside.
fn is_rotated(path: &Path) -> bool {
    let number = path.extension().is_some_and(|end| end.as_encoded_bytes().iter().all(u8::is_ascii_digit));
    number && path.with_extension("").join("run.json").exists()
}

fn find<'a>(wanted: &str, analysed: &'a Analysed) -> Result<&'a CellSummary> {
    let cells = || analysed.study.cells.iter().chain(&analysed.study.probes);
    cells().find(|cell| cell.id == wanted).ok_or_else(|| {
        let ids: Vec<&str> = cells().map(|cell| cell.id.as_str()).collect();
        let nearest = ids.iter().min_by_key(|id| strsim::damerau_levenshtein(wanted, id));
        let hint = nearest.map_or_else(String::new, |id| format!("did you mean `{id}`? cells: {}", ids.join(", ")));
        Error::input(format!("no cell `{wanted}` in this run")).with_hint(hint)
    })
}
