//! The measuring part of a run: sessions → trials → committed records, with progress.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::clock::Clock;
use crate::console::{Console, Progress};
use crate::engine::{Engine, Generation, Prompt};
use crate::error::{Error, Kind, Result};
use crate::format;
use crate::host;
use crate::meter::Meter;
use crate::model::{Codec, TokenizedPrompts};
use crate::record::{
    Baseline, BaselineTime, CellSpec, Cost, FORMAT, FailureKind, GenerationLine, IdleBaseline, Order, Outcome,
    PromptForm, Protocol, Trial,
};
use crate::run::fit::{Device, Fit};
use crate::run::prepare::Prepared;
use crate::run::spread::Spread;
use crate::stage::{self, Measured, Stage};
use crate::store::RunDir;
use crate::sweep::plan::Session;
use crate::sweep::spec::ModelSpec;

/// What measuring works with.
pub struct Measuring<'a> {
    /// The sweep.
    pub prepared: &'a Prepared,
    /// What measures.
    pub meter: &'a mut dyn Meter,
    /// The clock of the run.
    pub clock: &'a Clock,
    /// Where trials are committed.
    pub dir: &'a mut RunDir,
    /// What is known of the memory that cells take.
    pub fit: Fit,
    /// How far the repeats of each cell agree.
    pub spread: Spread,
    /// Blocks beyond the planned ones, and whether they are measured.
    pub further: BTreeMap<u32, bool>,
    /// Cells that didn't fit when their model was loaded, and why.
    pub misfits: BTreeMap<usize, String>,
    /// Where progress goes.
    pub console: &'a Console,
    /// Set when the user asks to stop.
    pub stop: &'a AtomicBool,
}

/// A model that is ready to be measured.
struct Loaded {
    model: String,
    engine: Box<dyn Engine>,
    codec: Codec,
    prompts: Vec<Prompt>,
    /// What loading took.
    load: Cost,
    /// The newest idle baseline with it resident.
    idle: Option<IdleBaseline>,
}

impl Measuring<'_> {
    /// Runs sessions, committing each trial as it is done.
    ///
    /// # Errors
    /// An interruption, or a failure of the disk or the meter.
    pub fn sessions(&mut self, sessions: &[Session], done: usize) -> Result<()> {
        let left: usize = sessions.iter().map(|session| session.cells.len()).sum();
        let mut progress = self.console.progress(done + left, done);
        let mut kept = None;
        let result = sessions.iter().try_for_each(|session| match self.is_wanted(session) {
            true => self.session(session, &mut kept, &mut progress),
            false => Ok(()),
        });
        progress.finish();
        result
    }

    /// Whether a session's block is measured at all: the planned ones are, and with adaptive repeats a further one as
    /// long as a cell's interval is too wide. A block is measured whole, so that all models meet in it.
    fn is_wanted(&mut self, session: &Session) -> bool {
        let Some(adaptive) = self.dir.info().protocol.adaptive.filter(|_| session.block >= self.prepared.plan.blocks)
        else {
            return true;
        };
        let spread = &self.spread;
        *self.further.entry(session.block).or_insert_with(|| spread.is_wide(adaptive.half_width))
    }

    /// Measures the cells of one block on a model: on the one that is loaded already, where it is the same.
    fn session(&mut self, session: &Session, kept: &mut Option<Loaded>, progress: &mut Progress) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Error::interrupted());
        }
        progress.begin(&format!("{} block {}", session.model, session.block + 1));
        let Some(spec) = self.prepared.spec.model(&session.model) else {
            return Err(Error::new(format!("the plan names `{}`, which isn't in the sweep", session.model)));
        };
        let reusable = kept.take().filter(|loaded| loaded.model == session.model && self.reuses_models());
        let (mut loaded, fitting) = match reusable {
            Some(loaded) => {
                let fitting = self.skip_known_misfits(session, &loaded.prompts, progress)?;
                (loaded, fitting)
            }
            None => match self.load(session, spec, progress)? {
                Some(loaded) => loaded,
                None => return Ok(()),
            },
        };
        let protocol: Protocol = self.dir.info().protocol.clone();
        // what ended the block before stands at the beginning of this one
        if loaded.idle.is_none() {
            loaded.idle = match stage::idle_baseline(self.meter, self.clock, &protocol, self.stop) {
                Ok(idle) => idle,
                Err(error) => return self.fail_cells(session.block, &fitting, FailureKind::Load, &error, progress),
            };
        }
        self.commit_baseline(session, BaselineTime::Before, loaded.idle.as_ref())?;
        for index in fitting {
            self.trial(session.block, index, &mut loaded, &protocol, progress)?;
        }
        match stage::idle_baseline(self.meter, self.clock, &protocol, self.stop) {
            Ok(after) => {
                self.commit_baseline(session, BaselineTime::After, after.as_ref())?;
                loaded.idle = after;
            }
            Err(error) if error.kind_of() == Kind::Interrupted => return Err(error),
            // the trials stand, with the baseline from before them
            Err(error) => {
                self.console.warn(format!("no idle baseline after `{}`: {}", session.model, error.one_line()));
                loaded.idle = None;
            }
        }
        *kept = Some(loaded);
        Ok(())
    }

    /// In blocks every model is loaded anew, as its place in the random order comes up.
    fn reuses_models(&self) -> bool {
        self.dir.info().protocol.order == Order::ByModel
    }

    /// Loads a model for the cells of a session that are worth trying; `None` where nothing is left to measure.
    fn load(
        &mut self,
        session: &Session,
        spec: &ModelSpec,
        progress: &mut Progress,
    ) -> Result<Option<(Loaded, Vec<usize>)>> {
        let (loader, clock) = (&self.prepared.loader, self.clock);
        let asked = loader.codec(spec).map_err(|error| (FailureKind::Load, error)).and_then(|codec| {
            let encoded = self.encode(&codec).map_err(|error| (FailureKind::Prompt, error))?;
            Ok((codec, encoded))
        });
        let (codec, encoded) = match asked {
            Ok(asked) => asked,
            Err((what, error)) => {
                self.fail_cells(session.block, &session.cells, what, &error, progress)?;
                return Ok(None);
            }
        };
        let fitting = self.skip_misfits(session, spec, &encoded.prompts, progress)?;
        if fitting.is_empty() {
            return Ok(None);
        }
        // hashing the files once for the record is no part of what loading costs
        let loaded = loader.hash(spec).and_then(|()| stage::cost(self.meter, clock, || loader.engine(spec, clock)));
        let (engine, load) = match loaded {
            Ok(loaded) => loaded,
            Err(error) => {
                self.fail_cells(session.block, &fitting, FailureKind::Load, &error, progress)?;
                return Ok(None);
            }
        };
        self.dir.record_model(&session.model, engine.info())?;
        let form = PromptForm { energy: Some(encoded.truncated), ..codec.form() };
        self.dir.record_prompt_form(&session.model, &form)?;
        let model = session.model.clone();
        Ok(Some((Loaded { model, engine, codec, prompts: encoded.prompts, load, idle: None }, fitting)))
    }

    /// Measures one cell in one block and commits it.
    fn trial(
        &mut self,
        block: u32,
        index: usize,
        loaded: &mut Loaded,
        protocol: &Protocol,
        progress: &mut Progress,
    ) -> Result<()> {
        let cell = &self.prepared.plan.cells[index];
        progress.begin(&format!("{} block {}", cell.id, block + 1));
        let started_at = host::timestamp();
        let Loaded { engine, codec, prompts, load, idle, .. } = loaded;
        // what ran out of memory a moment ago rules out larger cells
        if let Some(message) = self.fit.obstacle(cell, None, 0, Device::UNKNOWN) {
            return self.commit(block, cell, started_at, Measured::skipped(message), prompts, progress);
        }
        let mut stage = Stage {
            engine: &mut **engine,
            meter: self.meter,
            clock: self.clock,
            prompts,
            decode: &|ids| codec.decode(ids),
            protocol,
            idle: idle.clone(),
            offset: stage::random_offset(protocol.seed, cell, block, protocol.random_offset_s),
            load: *load,
            stop: self.stop,
        };
        let measured = stage.trial(cell)?;
        self.fit.learn(cell, &measured.outcome);
        self.spread.learn(cell, &measured.outcome);
        self.commit(block, cell, started_at, measured, prompts, progress)
    }

    fn commit_baseline(&mut self, session: &Session, time: BaselineTime, idle: Option<&IdleBaseline>) -> Result<()> {
        let Some(idle) = idle else { return Ok(()) };
        let part = self.dir.info().parts.len().saturating_sub(1);
        let (model, block, idle) = (session.model.clone(), session.block, idle.clone());
        self.dir.commit_baseline(Baseline { format: FORMAT, model, block, part, time, idle })
    }

    /// Records the cells that aren't worth trying as skipped, and gives the others.
    fn skip_misfits(
        &mut self,
        session: &Session,
        spec: &ModelSpec,
        prompts: &[Prompt],
        progress: &mut Progress,
    ) -> Result<Vec<usize>> {
        let summary = self.prepared.models.get(&session.model).and_then(|known| known.as_ref().ok()?.as_ref());
        let device = Device::of(&self.prepared.loader, spec);
        let longest = prompts.iter().map(|prompt| prompt.ids.len()).max().unwrap_or(0);
        for (index, cell) in self.prepared.plan.cells.iter().enumerate().filter(|(_, cell)| cell.model == session.model)
        {
            match self.fit.obstacle(cell, summary, longest, device) {
                Some(message) => self.misfits.insert(index, message),
                None => self.misfits.remove(&index),
            };
        }
        self.skip_known_misfits(session, prompts, progress)
    }

    /// The same for a model that is loaded: what didn't fit before loading doesn't fit now, and the memory that is free says
    /// nothing any more.
    fn skip_known_misfits(
        &mut self,
        session: &Session,
        prompts: &[Prompt],
        progress: &mut Progress,
    ) -> Result<Vec<usize>> {
        let mut fitting = Vec::with_capacity(session.cells.len());
        for index in &session.cells {
            match self.misfits.get(index).cloned() {
                None => fitting.push(*index),
                Some(message) => {
                    let (cell, measured) = (&self.prepared.plan.cells[*index], Measured::skipped(message));
                    let now = host::timestamp();
                    self.commit(session.block, cell, now, measured, prompts, progress)?;
                }
            }
        }
        Ok(fitting)
    }

    fn encode(&self, codec: &Codec) -> Result<TokenizedPrompts> {
        codec.prompts(self.prepared.prompts.items.iter().map(|item| item.text.as_str()))
    }

    fn commit(
        &mut self,
        block: u32,
        cell: &CellSpec,
        started_at: String,
        measured: Measured,
        prompts: &[Prompt],
        progress: &mut Progress,
    ) -> Result<()> {
        let lines = generation_lines(cell, prompts, &measured);
        let result = describe(&measured.outcome);
        let part = self.dir.info().parts.len().saturating_sub(1);
        let trial = Trial { format: FORMAT, cell: cell.clone(), block, part, started_at, outcome: measured.outcome };
        self.dir.commit(trial, &lines, measured.trace.as_ref())?;
        progress.step(&format!("{} block {}", cell.id, block + 1), &result);
        Ok(())
    }

    /// A model that can't be loaded or asked is a failed row for each of its cells; the sweep goes on.
    fn fail_cells(
        &mut self,
        block: u32,
        cells: &[usize],
        what: FailureKind,
        error: &Error,
        progress: &mut Progress,
    ) -> Result<()> {
        if error.kind_of() == Kind::Interrupted {
            return Err(error.clone());
        }
        // out of memory while loading says nothing about the cells: another process may hold it
        let failure = if error.kind_of() == Kind::Meter { FailureKind::Meter } else { what };
        for index in cells {
            let cell = &self.prepared.plan.cells[*index];
            let measured = Measured::failed(failure, error);
            self.commit(block, cell, host::timestamp(), measured, &[], progress)?;
        }
        Ok(())
    }
}

fn generation_lines(cell: &CellSpec, prompts: &[Prompt], measured: &Measured) -> Vec<GenerationLine> {
    let line = |(index, ((prompt, generation), text)): (usize, ((&Prompt, &Generation), &String))| GenerationLine {
        format: FORMAT,
        cell: cell.id.clone(),
        prompt_index: index,
        prompt: prompt.text.clone(),
        tokens_in: prompt.ids.len() as u32,
        output_ids: generation.ids.clone(),
        text: text.clone(),
        finish: generation.finish,
        natural_length: generation.natural_length.map(|length| length as u32),
    };
    prompts.iter().zip(&measured.generations).zip(&measured.texts).enumerate().map(line).collect()
}

/// One line for the progress.
fn describe(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Measured(measurement) => {
            let per_token = format::joules_per_token(measurement.ept_out());
            let energy = format::joules(measurement.energy.total_j);
            let seconds = format::seconds(measurement.window.duration());
            let flag = if measurement.validity.is_valid() { "" } else { ", not valid" };
            format!("{energy} in {seconds}, {per_token} per token{flag}")
        }
        Outcome::Failed { message, .. } => format!("failed: {message}"),
        Outcome::Skipped { message } => format!("skipped: {message}"),
    }
}
