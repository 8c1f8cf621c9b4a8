//! The measuring part of a run: sessions → trials → committed records, with progress.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::cli::console::{Console, Progress};
use crate::clock::Clock;
use crate::commands::fit::{Device, Fit};
use crate::commands::prepare::Prepared;
use crate::commands::spread::Spread;
use crate::engine::{Engine, Generation, Prompt};
use crate::error::{Error, Kind, Result};
use crate::format;
use crate::host;
use crate::meter::Meter;
use crate::model::{Codec, Encoded};
use crate::record::{
    Baseline, BaselineTime, CellSpec, Cost, FORMAT, FailureKind, GenerationLine, IdleBaseline, Order, Outcome,
    PromptForm, Protocol, Trial,
};
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
    /// Where progress goes.
    pub console: &'a Console,
    /// Set when the user asks to stop.
    pub stop: &'a AtomicBool,
}

/// A model that is loaded, and what that took.
struct Loaded {
    model: String,
    engine: Box<dyn Engine>,
    load: Cost,
    /// Cells that can't fit, and why: judged by what was free before it was loaded.
    misfits: BTreeMap<usize, String>,
}

impl Measuring<'_> {
    /// Runs sessions, committing each trial as it is done.
    ///
    /// # Errors
    /// An interruption, or a failure of the disk or the meter.
    pub fn sessions(&mut self, sessions: &[Session], done: usize) -> Result<()> {
        let left: usize = sessions.iter().map(|session| session.cells.len()).sum();
        let mut progress = self.console.progress(done + left, done);
        let mut loaded = None;
        let result = sessions.iter().try_for_each(|session| match self.is_wanted(session) {
            true => self.session(session, &mut loaded, &mut progress),
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

    /// Loads a model and measures its cells of one block. With `order: by_model` the model stays loaded for its next
    /// block.
    fn session(&mut self, session: &Session, loaded: &mut Option<Loaded>, progress: &mut Progress) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Error::interrupted());
        }
        progress.begin(&format!("{} block {}", session.model, session.block + 1));
        let Some(spec) = self.prepared.spec.model(&session.model) else {
            return Err(Error::new(format!("the plan names `{}`, which isn't in the sweep", session.model)));
        };
        let (loader, clock) = (&self.prepared.loader, self.clock);
        let asked = loader.codec(spec).map_err(|error| (FailureKind::Load, error)).and_then(|codec| {
            let encoded = self.encode(&codec).map_err(|error| (FailureKind::Prompt, error))?;
            Ok((codec, encoded))
        });
        let (codec, encoded) = match asked {
            Ok(asked) => asked,
            Err((what, error)) => return self.fail_cells(session.block, &session.cells, what, &error, progress),
        };
        // before the next one is loaded, and before it is asked whether that one fits
        let kept = loaded.take().filter(|kept| kept.model == session.model);
        let misfits = match &kept {
            Some(kept) => kept.misfits.clone(),
            None => self.misfits(spec, &encoded.list),
        };
        let fitting = self.skip_misfits(session, &misfits, &encoded.list, &codec, progress)?;
        if fitting.is_empty() {
            return Ok(());
        }
        // hashing the files once for the record is no part of what loading costs
        let load = || {
            loader.hash(spec)?;
            let (engine, load) = stage::cost(self.meter, clock, || loader.engine(spec, clock))?;
            Ok(Loaded { model: session.model.clone(), engine, load, misfits })
        };
        let Loaded { model, mut engine, load, misfits } = match kept.map_or_else(load, Ok) {
            Ok(loaded) => loaded,
            Err(error) => return self.fail_cells(session.block, &fitting, FailureKind::Load, &error, progress),
        };
        self.dir.record_model(&session.model, engine.info())?;
        let form = PromptForm { energy: Some(encoded.truncated), ..codec.form() };
        self.dir.record_prompt_form(&session.model, &form)?;
        let prompts = encoded.list;
        let protocol: Protocol = self.dir.info().protocol.clone();
        let idle = match stage::idle_baseline(self.meter, clock, &protocol, self.stop) {
            Ok(idle) => idle,
            Err(error) => return self.fail_cells(session.block, &fitting, FailureKind::Load, &error, progress),
        };
        self.commit_baseline(session, BaselineTime::Before, idle.as_ref())?;
        for index in fitting {
            let cell = &self.prepared.plan.cells[index];
            progress.begin(&format!("{} block {}", cell.id, session.block + 1));
            let started_at = host::timestamp();
            // what ran out of memory a moment ago rules out larger cells
            if let Some(message) = self.fit.obstacle(cell, None, 0, Device::UNKNOWN) {
                self.commit(session.block, cell, started_at, Measured::skipped(message), &prompts, &codec, progress)?;
                continue;
            }
            let mut stage = Stage {
                engine: &mut *engine,
                meter: self.meter,
                clock,
                prompts: &prompts,
                protocol: &protocol,
                idle: idle.clone(),
                phase: stage::random_phase(protocol.seed, cell, session.block, protocol.random_phase_s),
                load,
                stop: self.stop,
            };
            let measured = stage.trial(cell)?;
            self.fit.learn(cell, &measured.outcome);
            self.spread.learn(cell, &measured.outcome);
            self.commit(session.block, cell, started_at, measured, &prompts, &codec, progress)?;
        }
        let after = stage::idle_baseline(self.meter, clock, &protocol, self.stop);
        *loaded = (protocol.order == Order::ByModel).then_some(Loaded { model, engine, load, misfits });
        match after {
            Ok(after) => self.commit_baseline(session, BaselineTime::After, after.as_ref()),
            Err(error) if error.kind_of() == Kind::Interrupted => Err(error),
            // the trials stand, with the baseline from before them
            Err(error) => {
                self.console.warn(format!("no idle baseline after `{}`: {}", session.model, error.one_line()));
                Ok(())
            }
        }
    }

    fn commit_baseline(&mut self, session: &Session, time: BaselineTime, idle: Option<&IdleBaseline>) -> Result<()> {
        let Some(idle) = idle else { return Ok(()) };
        let part = self.dir.info().parts.len().saturating_sub(1);
        let (model, block, idle) = (session.model.clone(), session.block, idle.clone());
        self.dir.commit_baseline(Baseline { format: FORMAT, model, block, part, time, idle })
    }

    /// The cells of a model that aren't worth trying, and why.
    fn misfits(&self, spec: &ModelSpec, prompts: &[Prompt]) -> BTreeMap<usize, String> {
        let summary = self.prepared.models.get(&spec.label).and_then(|known| known.as_ref().ok()?.as_ref());
        let device = Device::of(&self.prepared.loader, spec);
        let longest = prompts.iter().map(|prompt| prompt.ids.len()).max().unwrap_or(0);
        let cells = self.prepared.plan.cells.iter().enumerate().filter(|(_, cell)| cell.model == spec.label);
        cells.filter_map(|(index, cell)| Some((index, self.fit.obstacle(cell, summary, longest, device)?))).collect()
    }

    /// Records those cells of a session as skipped, and gives the others.
    fn skip_misfits(
        &mut self,
        session: &Session,
        misfits: &BTreeMap<usize, String>,
        prompts: &[Prompt],
        codec: &Codec,
        progress: &mut Progress,
    ) -> Result<Vec<usize>> {
        let mut fitting = Vec::with_capacity(session.cells.len());
        for index in &session.cells {
            let Some(message) = misfits.get(index) else {
                fitting.push(*index);
                continue;
            };
            let (cell, measured) = (&self.prepared.plan.cells[*index], Measured::skipped(message.clone()));
            self.commit(session.block, cell, host::timestamp(), measured, prompts, codec, progress)?;
        }
        Ok(fitting)
    }

    fn encode(&self, codec: &Codec) -> Result<Encoded> {
        codec.prompts(self.prepared.prompts.items.iter().map(|item| item.text.as_str()))
    }

    #[expect(clippy::too_many_arguments, reason = "everything that one committed trial consists of")]
    fn commit(
        &mut self,
        block: u32,
        cell: &CellSpec,
        started_at: String,
        mut measured: Measured,
        prompts: &[Prompt],
        codec: &Codec,
        progress: &mut Progress,
    ) -> Result<()> {
        let lines = generation_lines(cell, prompts, &measured.generations, codec).unwrap_or_else(|error| {
            measured = Measured::failed(FailureKind::Engine, &error);
            Vec::new()
        });
        if let Outcome::Measured(measurement) = &mut measured.outcome {
            let bytes: u64 = lines.iter().map(|line| line.text.len() as u64).sum();
            measurement.output_bytes = Some(bytes * u64::from(measurement.window.passes));
        }
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
            self.commit(block, cell, host::timestamp(), measured, &[], &Codec::Words, progress)?;
        }
        Ok(())
    }
}

fn generation_lines(
    cell: &CellSpec,
    prompts: &[Prompt],
    generations: &[Generation],
    codec: &Codec,
) -> Result<Vec<GenerationLine>> {
    let line = |(index, (prompt, generation)): (usize, (&Prompt, &Generation))| {
        Ok(GenerationLine {
            format: FORMAT,
            cell: cell.id.clone(),
            prompt_index: index,
            prompt: prompt.text.clone(),
            tokens_in: prompt.ids.len() as u32,
            output_ids: generation.ids.clone(),
            text: codec.decode(&generation.ids)?,
            finish: generation.finish,
            natural_length: generation.natural_length.map(|length| length as u32),
        })
    };
    prompts.iter().zip(generations).enumerate().map(line).collect()
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
