//! `ept-sweep recompute`: recomputes a run's energies from the raw samples that it stored. Needs neither model nor
//! meter, and never writes into the run's directory.

mod outcomes;
mod text;

use std::path::Path;

use self::outcomes::Outcomes;
use crate::analysis::recomputed;
use crate::cli::exit::Exit;
use crate::cli::{Format, RecomputeArgs};
use crate::console::Console;
use crate::error::{Context, Error, Result};
use crate::meter::recompute::Cut;
use crate::run::recompute::{Request, windows};
use crate::store::{self, Stored};
use crate::sweep::plan::CellFilter;
use crate::table;
use crate::units::Seconds;

/// Recomputes a run's energies and prints them.
///
/// # Errors
/// The directory holds no run or a damaged one, `--only` matches nothing measured, the method's source was never
/// recorded, or `--out` can't be written or lies in the run's directory.
pub(crate) fn recompute(arguments: &RecomputeArgs, console: &Console) -> Result<Exit> {
    let stored = store::read(&arguments.run)?;
    if let Some(out) = &arguments.out {
        refuse_inside(out, &stored.root)?;
    }
    let only = arguments.only.as_deref().map(CellFilter::new).transpose()?;
    let request = Request { method: arguments.method, cut: cut(arguments), only: only.as_ref() };
    let outcomes = Outcomes::new(&stored, request, windows(&stored, request)?);
    if let Some(out) = &arguments.out {
        table::write_csv(out, &recomputed::table(&outcomes.trials, outcomes.method.code())?)?;
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
        return Err(Error::input(message).with_hint("choose a file elsewhere: the files of a run stay as they are"));
    }
    Ok(())
}
