//! `ept-sweep run`: measure what is left of a sweep, score the answers, write the report.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::cli::RunArgs;
use crate::cli::exit::Exit;
use crate::commands::report;
use crate::console::Console;
use crate::error::{Kind, Result};
use crate::meter;
use crate::record::RunInfo;
use crate::run::info;
use crate::run::prepare::Prepared;
use crate::run::setup::Setup;
use crate::run::start::Start;
use crate::store::{Existing, Opened, RunDir};

/// Runs a sweep.
///
/// # Errors
/// Bad input, a failure of the disk, or an interruption; a failed trial is a row, not an error.
pub(crate) fn run(arguments: &RunArgs, console: &Console, stop: &Arc<AtomicBool>) -> Result<Exit> {
    let place = &arguments.place;
    let prepared = Prepared::new(&arguments.sweep, place.device, place.offline, console.downloads(stop))?;
    let only = prepared.filter(arguments.only.as_deref())?;
    let clock = prepared.clock();
    let mut meter = meter::open(prepared.meter_choice(&clock), &prepared.meter_options(), &clock)?;
    let run_info = info::run_info(&prepared, meter.info())?;
    if let Some(short) = prepared.spec.measure.too_short(meter.info()) {
        console.warn(short);
    }
    let Opened { mut dir, trials, evaluations, .. } = open(arguments, &run_info, console)?;
    let setup = Setup { prepared: &prepared, only: only.as_ref(), clock: &clock, console, stop };
    let start = Start::new(setup, dir.info(), run_info, &trials, &evaluations, arguments.retry_failed);
    start.announce(dir.root());
    let measured = start.carry_out(&mut *meter, &mut dir);
    finish(measured, &dir, console)
}

fn open(arguments: &RunArgs, run_info: &RunInfo, console: &Console) -> Result<Opened> {
    let root = arguments.out.clone().unwrap_or_else(|| default_root(&run_info.name));
    let existing = if arguments.fresh { Existing::Rotate } else { Existing::Resume };
    let opened = RunDir::open(&root, run_info, existing)?;
    if let Some(path) = &opened.rotated_to {
        console.say(format!("moved the earlier run to `{}`", path.display()));
    }
    Ok(opened)
}

/// Writes the report of what is there, also after an interruption.
fn finish(measured: Result<()>, dir: &RunDir, console: &Console) -> Result<Exit> {
    match measured {
        Err(error) if error.kind() == Kind::Interrupted => {
            console.warn("interrupted: finished trials are kept; start again to go on");
            report::write(dir.root(), console)?;
            Ok(Exit::Interrupted)
        }
        Err(error) => Err(error),
        Ok(()) => {
            let written = report::write(dir.root(), console)?;
            Ok(if written.failed > 0 { Exit::TrialsFailed } else { Exit::Done })
        }
    }
}

/// `reports/<name>` under the current directory.
pub(crate) fn default_root(name: &str) -> PathBuf {
    Path::new("reports").join(name)
}
