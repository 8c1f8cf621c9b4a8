//! Whole passes over a fixed prompt list in fixed batches, counted.

use std::sync::atomic::AtomicBool;

use crate::clock::Clock;
use crate::engine::{Engine, GenerateOptions, Generation, Prompt};
use crate::error::Result;
use crate::stage::check_stop;
use crate::units::Seconds;

/// The prompt list cut into batches; the last one may be smaller.
pub struct Batches<'a> {
    batches: Vec<&'a [Prompt]>,
    options: GenerateOptions,
    /// Where warm-up and guard work go on in the list.
    next: usize,
}

/// What the passes of a window did.
#[derive(Debug, Default)]
pub struct Totals {
    /// Whole passes.
    pub passes: u32,
    /// Batches.
    pub batches: u32,
    /// Input tokens.
    pub tokens_in: u64,
    /// Output tokens.
    pub tokens_out: u64,
    /// Padding positions of the prompts.
    pub tokens_pad: u64,
    /// Outputs of the first pass.
    pub first_pass: Vec<Generation>,
    /// Every pass wrote the same as the first.
    pub repeatable: bool,
}

impl<'a> Batches<'a> {
    /// Cuts the list.
    pub fn new(prompts: &'a [Prompt], batch_size: usize, options: GenerateOptions) -> Self {
        Self { batches: prompts.chunks(batch_size.max(1)).collect(), options, next: 0 }
    }

    /// Work of the window's kind for at least `duration`, and at least one batch: warm-up.
    pub fn run_for(
        &mut self,
        engine: &mut dyn Engine,
        clock: &Clock,
        duration: Seconds,
        stop: &AtomicBool,
    ) -> Result<()> {
        let start = clock.now();
        loop {
            check_stop(stop)?;
            let batch = self.batches[self.next % self.batches.len()];
            engine.generate(batch, self.options)?;
            self.next += 1;
            if (clock.now() - start).0 >= duration.0 {
                return Ok(());
            }
        }
    }

    /// Work of the window's kind around it, so that the source's ticks at the edges fall inside the load; none where
    /// the source needs none.
    pub fn guard(
        &mut self,
        engine: &mut dyn Engine,
        clock: &Clock,
        duration: Seconds,
        stop: &AtomicBool,
    ) -> Result<()> {
        if duration.0 <= 0.0 { Ok(()) } else { self.run_for(engine, clock, duration, stop) }
    }

    /// Whole passes until `least` has passed.
    pub fn passes(
        &mut self,
        engine: &mut dyn Engine,
        clock: &Clock,
        least: Seconds,
        stop: &AtomicBool,
    ) -> Result<Totals> {
        let start = clock.now();
        let mut totals = Totals { repeatable: true, ..Totals::default() };
        while totals.passes == 0 || (clock.now() - start).0 < least.0 {
            self.pass(engine, &mut totals, stop)?;
        }
        Ok(totals)
    }

    fn pass(&self, engine: &mut dyn Engine, totals: &mut Totals, stop: &AtomicBool) -> Result<()> {
        let mut done = 0;
        for batch in &self.batches {
            check_stop(stop)?;
            let outputs = engine.generate(batch, self.options)?;
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
        self.batches += 1;
        self.tokens_in += input as u64;
        self.tokens_pad += (longest * batch.len() - input) as u64;
        self.tokens_out += outputs.iter().map(|output| output.ids.len() as u64).sum::<u64>();
    }
}
