//! The measuring loop: sessions → trials → committed records, with progress.

use crate::calendar;
use crate::console::Progress;
use crate::error::{Error, Kind, Result};
use crate::meter::Meter;
use crate::record::{Baseline, BaselineTime, CellSpec, FORMAT, FailureKind, IdleBaseline, Order, Protocol, Trial};
use crate::run::finished::Finished;
use crate::run::fit::Device;
use crate::run::learned::Learned;
use crate::run::loaded::{Encoder, Failure, Loaded};
use crate::run::resume::Remaining;
use crate::run::setup::Setup;
use crate::stage::{self, Stage};
use crate::store::RunDir;
use crate::sweep::plan::Session;
use crate::sweep::spec::ModelSpec;
use crate::units::Seconds;

/// The measuring loop under way.
pub(super) struct Measuring<'a> {
    setup: Setup<'a>,
    meter: &'a mut dyn Meter,
    dir: &'a mut RunDir,
    sessions: Vec<Session>,
    learned: Learned,
    progress: Progress,
    /// The model of the session before, which `order: by_model` uses again.
    kept: Option<Loaded>,
}

impl<'a> Measuring<'a> {
    /// Gets ready to measure what remains.
    pub(super) fn new(setup: Setup<'a>, meter: &'a mut dyn Meter, dir: &'a mut RunDir, remaining: Remaining) -> Self {
        let progress = setup.console.progress(remaining.done + remaining.trials(), remaining.done);
        let Remaining { sessions, learned, .. } = remaining;
        Self { setup, meter, dir, sessions, learned, progress, kept: None }
    }

    /// Runs the sessions, committing each trial as it is done.
    ///
    /// # Errors
    /// An interruption, or a failure of the disk or the meter.
    pub(crate) fn sessions(mut self) -> Result<()> {
        let sessions = std::mem::take(&mut self.sessions);
        let result = sessions.iter().try_for_each(|session| match self.is_wanted(session) {
            true => self.session(session),
            false => Ok(()),
        });
        self.progress.finish();
        result
    }

    /// Whether a session's block is measured: the planned ones are, a further one as long as intervals are too wide.
    fn is_wanted(&mut self, session: &Session) -> bool {
        let further = session.block >= self.setup.prepared.plan.blocks;
        match self.dir.info().protocol.adaptive {
            Some(adaptive) if further => self.learned.wants_further(session.block, adaptive),
            _ => true,
        }
    }

    /// Measures the cells of one block on one model.
    fn session(&mut self, session: &Session) -> Result<()> {
        self.setup.check_stop()?;
        self.progress.begin(&format!("{} block {}", session.model, session.block + 1));
        let kept = self.kept.take().filter(|loaded| loaded.label == session.model && self.keeps_models());
        let (loaded, fitting) = match kept {
            // free memory no longer means anything: what didn't fit before loading still doesn't
            Some(loaded) => (loaded, self.skip_misfits(session)?),
            None => match self.load(session)? {
                Some(loaded) => loaded,
                None => return Ok(()),
            },
        };
        self.cells(session, loaded, &fitting)
    }

    /// In blocks every model is loaded again as its turn in the random order comes.
    fn keeps_models(&self) -> bool {
        self.dir.info().protocol.order == Order::ByModel
    }

    /// Loads a model for the cells of a session that are worth trying; `None` if nothing is left to measure.
    fn load(&mut self, session: &Session) -> Result<Option<(Loaded, Vec<usize>)>> {
        let prepared = self.setup.prepared;
        let Some(spec) = prepared.spec.model(&session.model) else {
            return Err(Error::new(format!("the plan names `{}`, which isn't in the sweep", session.model)));
        };
        let encoder = match Encoder::new(prepared, spec) {
            Ok(encoder) => encoder,
            Err(failure) => return self.fail_cells(session.block, &session.cells, &failure).map(|()| None),
        };
        self.find_misfits(spec, encoder.longest());
        let fitting = self.skip_misfits(session)?;
        if fitting.is_empty() {
            return Ok(None);
        }
        match encoder.load(prepared, spec, self.meter, self.setup.clock) {
            Ok(loaded) => {
                self.warn_of_fallback(&loaded);
                self.dir.record_model(&loaded.label, loaded.engine.info())?;
                self.dir.record_prompt_form(&loaded.label, &loaded.form)?;
                Ok(Some((loaded, fitting)))
            }
            Err(failure) => self.fail_cells(session.block, &fitting, &failure).map(|()| None),
        }
    }

    /// Says when a start first loads a model that doesn't run on the fastest operations: its energies are then higher
    /// than they need to be, which nobody would see in the middle of a sweep.
    fn warn_of_fallback(&self, loaded: &Loaded) {
        let info = loaded.engine.info();
        let is_known = self.dir.info().parts.last().is_some_and(|part| part.models.contains_key(&loaded.label));
        if !info.fallback.is_empty() && !is_known {
            let why = info.fallback.join("; ");
            self.setup
                .console
                .warn(format!("model `{}` runs on plain operations, which are slower: {why}", loaded.label));
        }
    }

    /// Looks for the cells of a model that don't fit into what is free now. `longest` is the longest prompt in tokens.
    fn find_misfits(&mut self, spec: &ModelSpec, longest: usize) {
        let prepared = self.setup.prepared;
        let summary = prepared.models.get(&spec.label).and_then(|known| known.as_ref().ok()?.as_ref());
        let device = Device::of(&prepared.loader, spec);
        for (index, cell) in prepared.plan.cells.iter().enumerate().filter(|(_, cell)| cell.model == spec.label) {
            self.learned.set_misfit(index, self.learned.fit.obstacle(cell, summary, longest, device));
        }
    }

    /// Records the cells of a session that don't fit as skipped, and gives the others.
    fn skip_misfits(&mut self, session: &Session) -> Result<Vec<usize>> {
        let mut fitting = Vec::with_capacity(session.cells.len());
        for index in &session.cells {
            match self.learned.misfit(*index).cloned() {
                None => fitting.push(*index),
                Some(message) => self.commit(session.block, self.cell(*index), Finished::skipped(message))?,
            }
        }
        Ok(fitting)
    }

    /// Measures cells on a loaded model, between two idle baselines.
    fn cells(&mut self, session: &Session, mut loaded: Loaded, fitting: &[usize]) -> Result<()> {
        let protocol = self.dir.info().protocol.clone();
        // on a kept model, the baseline after the block before is the one before this block
        if loaded.idle.is_none() {
            loaded.idle = match self.idle(&protocol) {
                Ok(idle) => idle,
                Err(error) => {
                    return self.fail_cells(session.block, fitting, &Failure::new(FailureKind::Load, error));
                }
            };
            loaded.rest += stage::idle_time(&protocol);
        }
        self.commit_baseline(session, BaselineTime::Before, loaded.idle.as_ref())?;
        for index in fitting {
            self.trial(session.block, self.cell(*index), &mut loaded, &protocol)?;
        }
        loaded.idle = self.idle_after(session, &protocol)?;
        loaded.rest = stage::idle_time(&protocol);
        self.kept = Some(loaded);
        Ok(())
    }

    /// Measures one cell once and commits it.
    fn trial(&mut self, block: u32, cell: &'a CellSpec, loaded: &mut Loaded, protocol: &Protocol) -> Result<()> {
        self.progress.begin(&format!("{} block {}", cell.id, block + 1));
        // a cell that ran out of memory a moment ago rules out larger ones
        if let Some(message) = self.learned.fit.obstacle(cell, None, 0, Device::UNKNOWN) {
            return self.commit(block, cell, Finished::skipped(message));
        }
        let started_at = calendar::timestamp();
        let mut stage = Stage {
            engine: &mut *loaded.engine,
            meter: self.meter,
            clock: self.setup.clock,
            prompts: &loaded.prompts,
            decode: &|ids| loaded.codec.decode(ids),
            protocol,
            idle: loaded.idle.clone(),
            offset: offset(protocol, cell, block),
            rest: std::mem::take(&mut loaded.rest),
            load: loaded.load,
            stop: self.setup.stop,
        };
        let measured = stage.trial(cell)?;
        self.learned.learn(cell, &measured.outcome);
        self.commit(block, cell, Finished::new(cell, started_at, measured, loaded))
    }

    fn idle(&mut self, protocol: &Protocol) -> Result<Option<IdleBaseline>> {
        stage::idle_baseline(self.meter, self.setup.clock, protocol, self.setup.stop)
    }

    /// The baseline after a block. If it fails, the trials keep the one from before them.
    fn idle_after(&mut self, session: &Session, protocol: &Protocol) -> Result<Option<IdleBaseline>> {
        match self.idle(protocol) {
            Ok(after) => {
                self.commit_baseline(session, BaselineTime::After, after.as_ref())?;
                Ok(after)
            }
            Err(error) if error.kind() == Kind::Interrupted => Err(error),
            Err(error) => {
                let message = format!("no idle baseline after `{}`: {}", session.model, error.one_line());
                self.setup.console.warn(message);
                Ok(None)
            }
        }
    }

    fn commit_baseline(&mut self, session: &Session, time: BaselineTime, idle: Option<&IdleBaseline>) -> Result<()> {
        let Some(idle) = idle else { return Ok(()) };
        let (model, block, part, idle) = (session.model.clone(), session.block, self.part(), idle.clone());
        self.dir.commit_baseline(Baseline { format: FORMAT, model, block, part, time, idle })
    }

    fn commit(&mut self, block: u32, cell: &CellSpec, finished: Finished) -> Result<()> {
        let result = finished.describe();
        let Finished { started_at, outcome, lines, trace } = finished;
        let trial = Trial { format: FORMAT, cell: cell.clone(), block, part: self.part(), started_at, outcome };
        self.dir.commit(trial, &lines, trace.as_ref())?;
        self.progress.step(&format!("{} block {}", cell.id, block + 1), &result);
        Ok(())
    }

    /// A model that can't be loaded or prompted is a failed row for each of its cells; the sweep goes on.
    fn fail_cells(&mut self, block: u32, cells: &[usize], failure: &Failure) -> Result<()> {
        if failure.error.kind() == Kind::Interrupted {
            return Err(failure.error.clone());
        }
        for index in cells {
            self.commit(block, self.cell(*index), Finished::failed(failure.kind, &failure.error))?;
        }
        Ok(())
    }

    /// Number of the start under way.
    fn part(&self) -> usize {
        self.dir.info().parts.len().saturating_sub(1)
    }

    fn cell(&self, index: usize) -> &'a CellSpec {
        &self.setup.prepared.plan.cells[index]
    }
}

fn offset(protocol: &Protocol, cell: &CellSpec, block: u32) -> Seconds {
    stage::random_offset(protocol.seed, cell, block, protocol.random_offset_s)
}
