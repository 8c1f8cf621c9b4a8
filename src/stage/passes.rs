//! Whole passes over a fixed prompt list in fixed batches, counted.

use std::sync::atomic::AtomicBool;

use crate::clock::Clock;
use crate::engine::{Engine, GenerateOptions, Generation, Prompt};
use crate::error::Result;
use crate::meter::Meter;
use crate::record::{DECODE, EnergyMethod, NEITHER, PREFILL, Protocol, Quantity, Sample, SourceTrace, WORK};
use crate::stage::check_stop;
use crate::units::Seconds;

/// The prompt list cut into batches; the last one may be smaller.
pub struct Batches<'a> {
    batches: Vec<&'a [Prompt]>,
    options: GenerateOptions,
    clock: &'a Clock,
    stop: &'a AtomicBool,
    /// Where warm-up and guard work go on in the list.
    next: usize,
    /// What the engine did when, where it tells.
    marks: Vec<Sample>,
}

/// What the passes of a window did.
#[derive(Debug, Default)]
pub struct Totals {
    /// Whole passes.
    pub passes: u32,
    /// Batches.
    pub batches: u32,
    /// Steps after the first token of each batch.
    pub decode_steps: u64,
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

/// A device that warms by more over this time isn't steady.
const SLOPE_OVER: f64 = 5.0;
/// The most that it may warm over that time, in °C: the sensor shows whole degrees.
const SLOPE: f64 = 1.0;
/// The same batch has to take the same time within this share.
const SPEED: f64 = 0.02;

impl<'a> Batches<'a> {
    /// Cuts the list.
    pub fn new(
        prompts: &'a [Prompt],
        batch_size: usize,
        options: GenerateOptions,
        clock: &'a Clock,
        stop: &'a AtomicBool,
    ) -> Self {
        let batches = prompts.chunks(batch_size.max(1)).collect();
        Self { batches, options, clock, stop, next: 0, marks: Vec::new() }
    }

    /// Work of the window's kind for at least the shortest warm-up, and on until a device with a thermometer is steady in
    /// temperature and speed, or the longest warm-up has passed. Says whether it became steady.
    ///
    /// A device without a thermometer has no heat to wait for that could be seen.
    pub fn warm_up(&mut self, engine: &mut dyn Engine, meter: &dyn Meter, protocol: &Protocol) -> Result<bool> {
        let start = self.clock.now();
        let mut warmth = Warmth::default();
        loop {
            let (index, began) = (self.next % self.batches.len(), self.clock.now());
            self.run_next(engine)?;
            let now = self.clock.now();
            let passed = (now - start).0;
            let Some(temperature) = meter.temperature() else {
                if passed >= protocol.warmup_s.0 {
                    return Ok(true);
                }
                continue;
            };
            warmth.note(index, began, now, temperature);
            let steady = warmth.is_steady();
            if passed >= protocol.warmup_s.0 && (steady || passed >= protocol.max_warmup_s.0) {
                return Ok(steady);
            }
        }
    }

    /// Work of the window's kind around it for at least `duration`, so that the source's ticks at the edges fall inside the
    /// load; none where the source needs none.
    pub fn guard(&mut self, engine: &mut dyn Engine, duration: Seconds) -> Result<()> {
        let start = self.clock.now();
        while (self.clock.now() - start).0 < duration.0 {
            self.run_next(engine)?;
        }
        Ok(())
    }

    /// Whole passes until `least` has passed.
    pub fn passes(&mut self, engine: &mut dyn Engine, least: Seconds) -> Result<Totals> {
        let start = self.clock.now();
        let mut totals = Totals { repeatable: true, ..Totals::default() };
        while totals.passes == 0 || (self.clock.now() - start).0 < least.0 {
            self.pass(engine, &mut totals)?;
        }
        Ok(totals)
    }

    /// What the engine did when, as a source of the trace; `None` where it doesn't tell.
    pub fn phases(&mut self) -> Option<SourceTrace> {
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

/// How warm a device is and how fast it works, over a warm-up.
#[derive(Debug, Default)]
struct Warmth {
    temperatures: Vec<(Seconds, f64)>,
    /// How long each batch took, the last time and the time before.
    batches: std::collections::BTreeMap<usize, (f64, Option<f64>)>,
    last: usize,
}

impl Warmth {
    fn note(&mut self, batch: usize, began: Seconds, now: Seconds, temperature: f64) {
        self.temperatures.push((now, temperature));
        let took = (now - began).0;
        let before = self.batches.get(&batch).map(|(last, _)| *last);
        self.batches.insert(batch, (took, before));
        self.last = batch;
    }

    /// Over the last seconds the temperature rose by a degree at most, and the last batch took as long as the time before.
    /// A list so long that no batch came up twice says nothing about speed.
    fn is_steady(&self) -> bool {
        let Some((now, temperature)) = self.temperatures.last() else { return false };
        let Some((_, earlier)) = self.temperatures.iter().rev().find(|(t, _)| (*now - *t).0 >= SLOPE_OVER) else {
            return false;
        };
        let same_speed = match self.batches.get(&self.last) {
            Some((took, Some(before))) => (took / before - 1.0).abs() <= SPEED,
            _ => true,
        };
        (temperature - earlier).abs() <= SLOPE && same_speed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warmth(readings: &[(usize, f64, f64)]) -> Warmth {
        let mut warmth = Warmth::default();
        let mut now = 0.0;
        for (batch, took, temperature) in readings {
            warmth.note(*batch, Seconds(now), Seconds(now + took), *temperature);
            now += took;
        }
        warmth
    }

    #[test]
    fn a_device_is_steady_when_neither_its_temperature_nor_its_speed_changes() {
        let steady = |readings: &[(usize, f64, f64)]| warmth(readings).is_steady();
        assert!(!steady(&[(0, 2.0, 50.0)]), "two seconds tell no slope");
        assert!(steady(&[(0, 2.0, 50.0), (0, 2.0, 50.0), (0, 2.0, 50.0), (0, 2.0, 51.0)]));
        assert!(!steady(&[(0, 2.0, 50.0), (0, 2.0, 51.0), (0, 2.0, 52.0), (0, 2.0, 53.0)]), "it warms");
        assert!(!steady(&[(0, 3.0, 50.0), (0, 3.0, 50.0), (0, 3.0, 50.0), (0, 3.2, 50.0)]), "it slows down");
        assert!(steady(&[(0, 3.0, 50.0), (1, 4.0, 50.0), (2, 3.5, 50.0)]), "no batch came up twice");
    }
}
