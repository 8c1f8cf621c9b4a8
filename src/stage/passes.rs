//! Whole passes over a fixed prompt list in fixed batches, counted.

use std::sync::atomic::{AtomicBool, Ordering};

use super::steady::Warmth;
use crate::clock::Clock;
use crate::engine::{Engine, GenerateOptions, Generation, Prompt};
use crate::error::{Error, Result};
use crate::meter::{Edge, Meter};
use crate::record::{DECODE, EnergyMethod, Heat, NEITHER, PREFILL, Protocol, Quantity, Sample, SourceTrace, WORK};
use crate::units::Seconds;

/// A cycle of the warm-up lasts about so many seconds: long enough for samples of 20 ms to show its energy to some tenths
/// of a per cent.
const CYCLE: f64 = 1.0;
/// A cycle of one long batch: the longest warm-up is prolonged for so many of them …
const CYCLES_NEEDED: f64 = 8.0;
/// … but to no more than so many times its length.
const LONGER_FOR_LONG_CYCLES: f64 = 3.0;
/// Seconds of rest that are made good at most: after a minute a device is about as cool as it gets.
const LONGEST_REST: f64 = 60.0;

/// The prompt list cut into batches; the last one may be smaller.
pub(crate) struct Batches<'a> {
    batches: Vec<&'a [Prompt]>,
    options: GenerateOptions,
    clock: &'a Clock,
    stop: &'a AtomicBool,
    /// Where warm-up and guard work continue in the list.
    next: usize,
    /// When the engine did what, if it reports that.
    marks: Vec<Sample>,
}

/// The work of a window's passes.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) passes: u32,
    pub(crate) batches: u32,
    /// Steps after the first token of each batch.
    pub(crate) decode_steps: u64,
    pub(crate) tokens_in: u64,
    pub(crate) tokens_out: u64,
    /// Padding positions of the prompts.
    pub(crate) tokens_pad: u64,
    /// Outputs of the first pass.
    pub(crate) first_pass: Vec<Generation>,
    /// Every pass wrote the same as the first.
    pub(crate) repeatable: bool,
}

impl<'a> Batches<'a> {
    pub(super) fn new(
        prompts: &'a [Prompt],
        batch_size: usize,
        options: GenerateOptions,
        clock: &'a Clock,
        stop: &'a AtomicBool,
    ) -> Self {
        let batches = prompts.chunks(batch_size.max(1)).collect();
        Self { batches, options, clock, stop, next: 0, marks: Vec::new() }
    }

    /// Work of the window's kind before it, for at least the shortest warm-up. If the meter can show it, until the work
    /// is steady or the longest warm-up has passed; then the course of the warm-up is returned.
    ///
    /// `rest` is how long the device idled before: it has cooled meanwhile, so the longest warm-up is prolonged by as
    /// much.
    pub(crate) fn warm_up(
        &mut self,
        engine: &mut dyn Engine,
        meter: &mut dyn Meter,
        protocol: &Protocol,
        rest: Seconds,
    ) -> Result<Option<Heat>> {
        let start = self.clock.now();
        let passed = |clock: &Clock| (clock.now() - start).0;
        let Some(allowed) = protocol.steady.filter(|_| meter.so_far(start).is_some()) else {
            while passed(self.clock) < protocol.warmup_s.0 {
                self.run_next(engine)?;
            }
            return Ok(None);
        };
        let batches = self.cycle(engine)?;
        let mut warmth = Warmth::default();
        let longest = protocol.max_warmup_s.0 + rest.0.min(LONGEST_REST);
        loop {
            let began = self.clock.now();
            for index in 0..batches {
                self.generate(engine, self.batches[index % self.batches.len()])?;
            }
            let ended = self.clock.now();
            // so that the counter's next tick is known closely: by power samples alone a cycle scatters by a per cent
            meter.edge(Edge::Passed);
            warmth.note(began, ended);
            warmth.look(meter);
            let for_cycles = ((ended - began).0 * CYCLES_NEEDED).min(longest * LONGER_FOR_LONG_CYCLES);
            let passed = passed(self.clock);
            if passed >= longest.max(for_cycles) || (passed >= protocol.warmup_s.0 && warmth.is_steady(allowed)) {
                return Ok(Some(warmth.into_heat(allowed)));
            }
        }
    }

    /// Batches of a cycle: as many from the start of the list as take about a second, or several times the whole list.
    /// The first batch runs twice for it, since loading kernels and allocating memory is part of its first time.
    fn cycle(&mut self, engine: &mut dyn Engine) -> Result<usize> {
        self.generate(engine, self.batches[0])?;
        let began = self.clock.now();
        self.generate(engine, self.batches[0])?;
        let wanted = (CYCLE / (self.clock.now() - began).0.max(1e-6)).ceil() as usize;
        let list = self.batches.len();
        Ok(if wanted <= list { wanted.max(1) } else { wanted.div_ceil(list) * list })
    }

    /// Work of the window's kind around it for at least `duration`: a counter is interpolated between the ticks around
    /// an edge, which is right only if the load is the same on both sides of it.
    pub(crate) fn guard(&mut self, engine: &mut dyn Engine, duration: Seconds) -> Result<()> {
        let start = self.clock.now();
        while (self.clock.now() - start).0 < duration.0 {
            self.run_next(engine)?;
        }
        Ok(())
    }

    /// Whole passes until `least` has passed.
    pub(crate) fn passes(&mut self, engine: &mut dyn Engine, least: Seconds) -> Result<Totals> {
        let start = self.clock.now();
        let mut totals = Totals { repeatable: true, ..Totals::default() };
        while totals.passes == 0 || (self.clock.now() - start).0 < least.0 {
            self.pass(engine, &mut totals)?;
        }
        Ok(totals)
    }

    /// When the engine did what, as a source of the trace; `None` if it doesn't report that.
    pub(super) fn phases(&mut self) -> Option<SourceTrace> {
        let samples = std::mem::take(&mut self.marks);
        (!samples.is_empty()).then(|| SourceTrace {
            domain: WORK.into(),
            quantity: Quantity::Phase,
            method: EnergyMethod::PowerIntegral,
            tick: None,
            lag: Seconds(0.0),
            samples,
        })
    }

    fn run_next(&mut self, engine: &mut dyn Engine) -> Result<()> {
        let batch = self.batches[self.next % self.batches.len()];
        self.next += 1;
        self.generate(engine, batch).map(drop)
    }

    fn generate(&mut self, engine: &mut dyn Engine, batch: &[Prompt]) -> Result<Vec<Generation>> {
        check_stop(self.stop)?;
        let start = self.clock.now();
        let outputs = engine.generate(batch, self.options)?;
        if let Some(first) = engine.time_to_first_token() {
            let marks = [(start, PREFILL), (start + first, DECODE), (self.clock.now(), NEITHER)];
            self.marks.extend(marks.map(|(t, value)| Sample { t, value }));
        }
        Ok(outputs)
    }

    fn pass(&mut self, engine: &mut dyn Engine, totals: &mut Totals) -> Result<()> {
        let mut done = 0;
        for index in 0..self.batches.len() {
            let batch = self.batches[index];
            let outputs = self.generate(engine, batch)?;
            totals.count(batch, &outputs);
            if totals.passes == 0 {
                totals.first_pass.extend(outputs);
            } else {
                totals.repeatable &= totals.first_pass[done..done + outputs.len()] == outputs;
                done += outputs.len();
            }
        }
        totals.passes += 1;
        Ok(())
    }
}

impl Totals {
    fn count(&mut self, batch: &[Prompt], outputs: &[Generation]) {
        let longest = batch.iter().map(|prompt| prompt.ids.len()).max().unwrap_or(0);
        let input: usize = batch.iter().map(|prompt| prompt.ids.len()).sum();
        let steps = outputs.iter().map(|output| output.ids.len()).max().unwrap_or(0);
        self.batches += 1;
        self.decode_steps += steps.saturating_sub(1) as u64;
        self.tokens_in += input as u64;
        self.tokens_pad += (longest * batch.len() - input) as u64;
        self.tokens_out += outputs.iter().map(|output| output.ids.len() as u64).sum::<u64>();
    }
}

/// Gives up if the user asked to stop.
fn check_stop(stop: &AtomicBool) -> Result<()> {
    if stop.load(Ordering::Relaxed) { Err(Error::interrupted()) } else { Ok(()) }
}
