//! `ept-sweep run`: measure what is left of a sweep, score the answers, write the report.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::cli::RunArgs;
use crate::cli::exit::Exit;
use crate::commands::report;
use crate::console::Console;
use crate::error::{Error, Kind, Result};
use crate::meter;
use crate::record::{EnergyMethod, MeterInfo, Outcome, RunInfo, Trial, TrialKey};
use crate::run::fit::Fit;
use crate::run::measure::Measuring;
use crate::run::prepare::Prepared;
use crate::run::spread::Spread;
use crate::run::{evaluate, info};
use crate::store::{Existing, Opened, RunDir};
use crate::sweep::plan::{CellFilter, Session};

/// Runs a sweep.
///
/// # Errors
/// Bad input, a failure of the disk, or an interruption; a failed trial is a row, not an error.
pub fn run(arguments: &RunArgs, console: &Console, stop: &Arc<AtomicBool>) -> Result<Exit> {
    let prepared =
        Prepared::new(&arguments.sweep, arguments.place.device, arguments.place.offline, console.downloads(stop))?;
    let only = arguments.only.as_deref().map(CellFilter::new).transpose()?;
    require_match(&prepared, only.as_ref())?;
    let clock = prepared.clock();
    let mut meter = meter::open(prepared.meter_choice(&clock), &prepared.meter_options(), &clock)?;
    let run_info = info::run_info(&prepared, meter.info())?;
    if let Some(short) = prepared.spec.measure.too_short(meter.info()) {
        console.warn(short);
    }
    let root = arguments.out.clone().unwrap_or_else(|| default_root(&prepared.spec.name));
    let existing = if arguments.fresh { Existing::Rotate } else { Existing::Resume };
    let Opened { mut dir, trials, evaluations, rotated_to } = RunDir::open(&root, &run_info, existing)?;
    if let Some(path) = rotated_to {
        console.say(format!("moved the earlier run to `{}`", path.display()));
    }
    let done = done_trials(&trials, arguments.retry_failed);
    let kept = |trial: &&Trial| done.contains(&trial.key());
    let (fit, spread) = (Fit::new(trials.iter().filter(kept)), Spread::new(trials.iter().filter(kept)));
    let further = begun(&done, run_info.blocks);
    let sessions = left(prepared.plan.remaining(&done, only.as_ref()), &run_info, &spread, &further);
    let failed = trials.iter().filter(|trial| !matches!(trial.outcome, Outcome::Measured(_))).count();
    announce(
        &prepared,
        meter.info(),
        &root,
        (done.len(), failed),
        sessions.iter().map(|s| s.cells.len()).sum(),
        console,
    );
    let mut measured = Ok(());
    let scores_missing = !evaluate::missing(&prepared, &evaluations, only.as_ref()).is_empty();
    if !sessions.is_empty() || scores_missing {
        dir.begin_part(&run_info)?;
        let mut measuring = Measuring {
            prepared: &prepared,
            meter: &mut *meter,
            clock: &clock,
            dir: &mut dir,
            fit,
            spread,
            further,
            misfits: BTreeMap::new(),
            console,
            stop,
        };
        measured = measuring.sessions(&sessions, done.len());
        if measured.is_ok() {
            measured = evaluate::evaluate(&prepared, &clock, &mut dir, &evaluations, only.as_ref(), console, stop);
        }
    }
    finish(measured, &dir, console)
}

/// Writes the report of what is there, also after an interruption.
fn finish(measured: Result<()>, dir: &RunDir, console: &Console) -> Result<Exit> {
    match measured {
        Err(error) if error.kind_of() == Kind::Interrupted => {
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
pub fn default_root(name: &str) -> PathBuf {
    Path::new("reports").join(name)
}

/// The blocks beyond the planned ones that an earlier start began: a block is measured whole.
fn begun(done: &HashSet<TrialKey>, blocks: u32) -> BTreeMap<u32, bool> {
    done.iter().filter(|key| key.block >= blocks).map(|key| (key.block, true)).collect()
}

/// Without the repeats that are added while intervals are too wide, where they aren't.
fn left(sessions: Vec<Session>, run: &RunInfo, spread: &Spread, begun: &BTreeMap<u32, bool>) -> Vec<Session> {
    let planned = sessions.iter().any(|session| session.block < run.blocks);
    let narrow = run.protocol.adaptive.is_none_or(|adaptive| !spread.is_wide(adaptive.half_width));
    let wanted = |session: &Session| planned || !narrow || begun.contains_key(&session.block);
    sessions.into_iter().filter(wanted).collect()
}

fn done_trials(trials: &[Trial], retry_failed: bool) -> HashSet<TrialKey> {
    let done = trials.iter().filter(|trial| !retry_failed || matches!(trial.outcome, Outcome::Measured(_)));
    done.map(|trial| trial.key()).collect()
}

fn require_match(prepared: &Prepared, only: Option<&CellFilter>) -> Result<()> {
    let Some(filter) = only else { return Ok(()) };
    if prepared.plan.cells.iter().any(|cell| filter.matches(&cell.id)) {
        return Ok(());
    }
    let first = prepared.plan.cells.first().map_or_else(String::new, |cell| format!(", such as `{}`", cell.id));
    Err(Error::input("`--only` matches no cell").hint(format!("`ept-sweep plan` lists the cell ids{first}")))
}

fn announce(prepared: &Prepared, meter: &MeterInfo, root: &Path, done: (usize, usize), left: usize, console: &Console) {
    let plan = &prepared.plan;
    console.say(format!(
        "{}: {} cells × {} repeats, {} prompts, meter `{}` → {}",
        prepared.spec.name,
        plan.cells.len(),
        plan.blocks,
        prepared.prompts.items.len(),
        meter.name,
        root.display()
    ));
    if meter.method == EnergyMethod::Modelled {
        console.warn(
            "no energy sensor here: energy is modelled from processor time. Good for trying the tool, \
             never for a claim (`ept-sweep meter` says what is missing)",
        );
    }
    match (done, left) {
        ((0, _), _) => {}
        ((done, 0), 0) => console.say(format!("all {done} trials are measured already; nothing is measured again")),
        ((done, 0), left) => console.say(format!("resuming: {done} trials are measured already, {left} are left")),
        ((done, failed), left) => console.say(format!(
            "resuming: {done} trials are done already, {left} are left; {failed} failed earlier \
             (`--retry-failed` measures them again)"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::CellId;

    #[test]
    fn a_block_that_was_begun_beyond_the_planned_ones_is_measured_whole() {
        let key = |block| TrialKey { cell: CellId("a.b1.n8".into()), block };
        let done = [0, 1, 4, 5].map(key).into_iter().collect();
        assert_eq!(begun(&done, 5), [(5, true)].into());
    }
}
