//! One start of a run: works out what is left, and does it.

use std::path::Path;

use crate::error::Result;
use crate::meter::Meter;
use crate::record::{EnergyMethod, Evaluation, Part, RunInfo, Trial};
use crate::run::calibrate::{calibrate, needed};
use crate::run::evaluate::Scoring;
use crate::run::measure::Measuring;
use crate::run::resume::Remaining;
use crate::run::setup::Setup;
use crate::store::RunDir;

/// A start of a run: its setup, and what earlier starts left to do.
pub(crate) struct Start<'a> {
    setup: Setup<'a>,
    info: RunInfo,
    remaining: Remaining,
    scoring: Option<Scoring<'a>>,
}

impl<'a> Start<'a> {
    /// Compares the plan of `run`, as it is recorded, with what earlier starts did. `info` describes the run as this
    /// start sees it; trials that failed count as left if `retry_failed`.
    pub(crate) fn new(
        setup: Setup<'a>,
        run: &RunInfo,
        info: RunInfo,
        trials: &[Trial],
        evaluations: &[Evaluation],
        retry_failed: bool,
    ) -> Self {
        let remaining = Remaining::new(setup, run, trials, retry_failed);
        let scoring = Scoring::left(setup, evaluations);
        Self { setup, info, remaining, scoring }
    }

    /// Says what is measured, with which meter and where, and what earlier starts did.
    pub(crate) fn announce(&self, root: &Path) {
        let (prepared, console) = (self.setup.prepared, self.setup.console);
        let meter = self.info.parts.first().map(|Part { meter, .. }| meter);
        console.say(format!(
            "{}: {} cells × {} repeats, {} prompts, meter `{}` → {}",
            prepared.spec.name,
            prepared.plan.cells.len(),
            prepared.plan.blocks,
            prepared.prompts.items.len(),
            meter.map_or("none", |meter| &meter.name),
            root.display()
        ));
        if meter.is_some_and(|meter| meter.method == EnergyMethod::Modelled) {
            console.warn(
                "no energy sensor here: energy is modelled from processor time. Suitable for trying the tool, not for \
                 publication (`ept-sweep meter` shows what is missing)",
            );
        }
        if let Some(sentence) = self.remaining.sentence() {
            console.say(sentence);
        }
    }

    /// Measures the trials that are left, then scores the answers that are left.
    ///
    /// # Errors
    /// An interruption, or a failure of the disk or the meter; a trial that fails is a row, not an error.
    pub(crate) fn carry_out(self, meter: &mut dyn Meter, dir: &mut RunDir) -> Result<()> {
        if self.remaining.sessions.is_empty() && self.scoring.is_none() {
            return Ok(());
        }
        let needed = needed(self.setup, meter.info(), dir, &self.remaining.sessions)?;
        dir.begin_part(&self.info)?;
        calibrate(self.setup, meter, dir, needed)?;
        Measuring::new(self.setup, meter, dir, self.remaining).sessions()?;
        self.scoring.map_or(Ok(()), |scoring| scoring.score(dir))
    }
}
