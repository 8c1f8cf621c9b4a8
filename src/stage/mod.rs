//! One trial: warm up, guarded window, validity → outcome. Prints nothing, writes nothing.
//!
//! ```text
//! meter on │ warm-up │ guard │ t0 ── whole passes over the prompt list ── t1 │ guard │ meter off
//! ```

mod passes;

use std::sync::atomic::{AtomicBool, Ordering};

use crate::clock::Clock;
use crate::engine::{Engine, GenerateOptions, Generation, Prompt};
use crate::error::{Error, Kind, Result};
use crate::meter::{self, Meter, integrate};
use crate::record::{CellSpec, Cost, FailureKind, IdleBaseline, Measurement, Outcome, Protocol, Reason, Trace, Window};
use crate::units::{Seconds, Tokens};

use passes::{Batches, Totals};

/// What one block's load of a model gives to its trials.
pub struct Stage<'a> {
    /// The loaded model.
    pub engine: &'a mut dyn Engine,
    /// What measures.
    pub meter: &'a mut dyn Meter,
    /// The clock of engine and meter.
    pub clock: &'a Clock,
    /// The fixed prompt list, in order.
    pub prompts: &'a [Prompt],
    /// The protocol.
    pub protocol: &'a Protocol,
    /// Idle baseline of this load.
    pub idle: Option<IdleBaseline>,
    /// What loading took.
    pub load: Cost,
    /// Set when the user asks to stop.
    pub stop: &'a AtomicBool,
}

/// What a trial gives: the outcome to record, the raw readings and the outputs of the first pass.
pub struct Measured {
    /// The outcome.
    pub outcome: Outcome,
    /// Raw readings, where a window was measured.
    pub trace: Option<Trace>,
    /// Outputs of the first pass, one for each prompt.
    pub generations: Vec<Generation>,
}

impl Measured {
    /// A trial that wasn't tried.
    pub fn skipped(message: String) -> Self {
        Self { outcome: Outcome::Skipped { message }, trace: None, generations: Vec::new() }
    }

    /// A trial that broke.
    pub fn failed(failure: FailureKind, error: &Error) -> Self {
        let outcome = Outcome::Failed { failure, message: error.one_line() };
        Self { outcome, trace: None, generations: Vec::new() }
    }
}

/// Power without work, with the model resident.
///
/// # Errors
/// The meter fails.
pub fn idle_baseline(
    meter: &mut dyn Meter,
    clock: &Clock,
    duration: Seconds,
    stop: &AtomicBool,
) -> Result<Option<IdleBaseline>> {
    if duration.0 <= 0.0 {
        return Ok(None);
    }
    let ((), t0, t1, trace) = meter::during(meter, clock, || idle(clock, duration, stop))?;
    let cost = span_cost(&trace, meter, t0, t1);
    Ok(cost.energy_j.map(|energy| IdleBaseline { power_w: energy / cost.duration_s, duration_s: cost.duration_s }))
}

/// Waits in slices, so that an interruption is obeyed.
fn idle(clock: &Clock, duration: Seconds, stop: &AtomicBool) -> Result<()> {
    const SLICE: f64 = 0.1;
    let end = clock.now() + duration;
    while (end - clock.now()).0 > 0.0 {
        check_stop(stop)?;
        clock.idle(Seconds((end - clock.now()).0.min(SLICE)));
    }
    Ok(())
}

/// Runs work that isn't part of a window, and says what it took.
///
/// # Errors
/// The work or the meter fails.
pub fn cost<T>(meter: &mut dyn Meter, clock: &Clock, work: impl FnOnce() -> Result<T>) -> Result<(T, Cost)> {
    let (value, t0, t1, trace) = meter::during(meter, clock, work)?;
    let cost = span_cost(&trace, meter, t0, t1);
    Ok((value, cost))
}

fn span_cost(trace: &Trace, meter: &dyn Meter, t0: Seconds, t1: Seconds) -> Cost {
    let (energy, _) = integrate::window_energy(trace, meter.info(), t0, t1);
    let energy_j = energy.total_j;
    Cost { duration_s: t1 - t0, energy_j }
}

impl Stage<'_> {
    /// Measures one cell once.
    ///
    /// # Errors
    /// Only when the user asked to stop; everything else is an outcome.
    pub fn trial(&mut self, cell: &CellSpec) -> Result<Measured> {
        match self.measure(cell) {
            Ok(measured) => Ok(measured),
            Err(error) if error.kind_of() == Kind::Interrupted => Err(error),
            Err(error) => Ok(Measured::failed(failure_kind(&error), &error)),
        }
    }

    fn measure(&mut self, cell: &CellSpec) -> Result<Measured> {
        let options = GenerateOptions {
            max_new_tokens: cell.max_new_tokens,
            length: cell.output_length,
            decoding: cell.decoding,
        };
        let (clock, protocol, stop) = (self.clock, self.protocol, self.stop);
        let mut batches = Batches::new(self.prompts, cell.batch_size, options);
        let engine = &mut *self.engine;
        let (marks, _, _, trace) = meter::during(self.meter, clock, || {
            let warm = clock.now();
            batches.run_for(engine, clock, protocol.warmup_s, stop)?;
            let warmed = clock.now();
            batches.guard(engine, clock, protocol.guard_s, stop)?;
            let t0 = clock.now();
            let totals = batches.passes(engine, clock, protocol.min_window_s, stop)?;
            let t1 = clock.now();
            batches.guard(engine, clock, protocol.guard_s, stop)?;
            Ok((warm, warmed, t0, t1, totals))
        })?;
        let (warm, warmed, t0, t1, totals) = marks;
        let warmup = span_cost(&trace, self.meter, warm, warmed);
        let window = Window {
            t0_s: t0,
            t1_s: t1,
            passes: totals.passes,
            batches: totals.batches,
            prompts: totals.passes * self.prompts.len() as u32,
        };
        let measurement = self.measurement(window, &totals, &trace, warmup);
        Ok(Measured {
            outcome: Outcome::Measured(Box::new(measurement)),
            trace: Some(trace),
            generations: totals.first_pass,
        })
    }

    fn measurement(&self, window: Window, totals: &Totals, trace: &Trace, warmup: Cost) -> Measurement {
        let (energy, mut validity) = integrate::window_energy(trace, self.meter.info(), window.t0_s, window.t1_s);
        if !totals.repeatable {
            validity.warnings.push(Reason::NondeterministicOutput);
        }
        Measurement {
            window,
            tokens_in: Tokens(totals.tokens_in),
            tokens_out: Tokens(totals.tokens_out),
            tokens_pad: Tokens(totals.tokens_pad),
            output_bytes: None,
            energy,
            idle: self.idle,
            load: self.load,
            warmup,
            validity,
        }
    }
}

fn failure_kind(error: &Error) -> FailureKind {
    match error.kind_of() {
        Kind::OutOfMemory => FailureKind::OutOfMemory,
        Kind::Meter => FailureKind::Meter,
        Kind::Input => FailureKind::Prompt,
        Kind::Runtime | Kind::Interrupted => FailureKind::Engine,
    }
}

/// Gives up where the user asked to stop.
fn check_stop(stop: &AtomicBool) -> Result<()> {
    if stop.load(Ordering::Relaxed) { Err(Error::interrupted()) } else { Ok(()) }
}
