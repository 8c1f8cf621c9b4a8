//! A trial, from the random wait to its outcome.

use std::sync::atomic::AtomicBool;

use super::passes::{Batches, Totals};
use crate::clock::Clock;
use crate::digest::sha256_hex;
use crate::engine::{Engine, GenerateOptions, Generation, Prompt};
use crate::error::{Error, Kind, Result};
use crate::meter::findings::Findings;
use crate::meter::integrate::window_energy;
use crate::meter::phases::decode_time;
use crate::meter::span::wait;
use crate::meter::{self, Edge, Meter};
use crate::record::{CellSpec, Cost, FailureKind, Heat, IdleBaseline, Measurement, Outcome, Protocol, Trace, Window};
use crate::units::{Seconds, Tokens};
use crate::validity::Work;

/// One block's load of a model, and everything that its trials need.
pub(crate) struct Stage<'a> {
    /// The loaded model.
    pub(crate) engine: &'a mut dyn Engine,
    pub(crate) meter: &'a mut dyn Meter,
    /// The clock of engine and meter.
    pub(crate) clock: &'a Clock,
    /// The fixed prompt list, in order.
    pub(crate) prompts: &'a [Prompt],
    /// Turns output ids into text.
    pub(crate) decode: &'a dyn Fn(&[u32]) -> Result<String>,
    pub(crate) protocol: &'a Protocol,
    /// Idle baseline of this load.
    pub(crate) idle: Option<IdleBaseline>,
    /// Random wait before the trial, which shifts its work against the sensor's rhythm.
    pub(crate) offset: Seconds,
    /// How long the device idled before the trial, and cooled: loading and the idle baseline, if they came right before.
    pub(crate) rest: Seconds,
    /// The cost of loading.
    pub(crate) load: Cost,
    /// Set when the user asks to stop.
    pub(crate) stop: &'a AtomicBool,
}

/// What a trial gives: the outcome to record, the raw readings and the outputs of the first pass.
pub(crate) struct Measured {
    pub(crate) outcome: Outcome,
    /// Raw readings, if a window was measured.
    pub(crate) trace: Option<Trace>,
    /// Outputs of the first pass, one for each prompt.
    pub(crate) generations: Vec<Generation>,
    /// The text of each of `generations`.
    pub(crate) texts: Vec<String>,
}

impl Measured {
    /// A trial that wasn't attempted.
    pub(crate) fn skipped(message: String) -> Self {
        Self::without_window(Outcome::Skipped { message })
    }

    /// A trial that broke.
    pub(crate) fn failed(failure: FailureKind, error: &Error) -> Self {
        Self::without_window(Outcome::Failed { failure, message: error.one_line() })
    }

    fn without_window(outcome: Outcome) -> Self {
        Self { outcome, trace: None, generations: Vec::new(), texts: Vec::new() }
    }
}

/// Runs work that isn't part of a window, and measures its cost.
///
/// # Errors
/// The work or the meter fails.
pub(crate) fn cost<T>(meter: &mut dyn Meter, clock: &Clock, work: impl FnOnce() -> Result<T>) -> Result<(T, Cost)> {
    let (value, t0, t1, trace) = meter::during(meter, clock, work)?;
    let cost = span_cost(&trace, meter, t0, t1);
    Ok((value, cost))
}

fn span_cost(trace: &Trace, meter: &dyn Meter, t0: Seconds, t1: Seconds) -> Cost {
    Cost { duration_s: t1 - t0, energy_j: window_energy(trace, meter.info(), t0, t1).total_j }
}

impl Stage<'_> {
    /// Measures one cell once.
    ///
    /// # Errors
    /// Only when the user asked to stop; everything else is an outcome.
    pub(crate) fn trial(&mut self, cell: &CellSpec) -> Result<Measured> {
        let measured = self.record(cell).map_err(|error| (failure_kind(&error), error)).and_then(|(marks, trace)| {
            // an answer that can't be turned into text is the engine's failure
            self.measured(cell, marks, trace).map_err(|error| (FailureKind::Engine, error))
        });
        match measured {
            Ok(measured) => Ok(measured),
            Err((_, error)) if error.kind() == Kind::Interrupted => Err(error),
            Err((failure, error)) => Ok(Measured::failed(failure, &error)),
        }
    }

    /// Does the work while the meter records.
    fn record(&mut self, cell: &CellSpec) -> Result<(Marks, Trace)> {
        let options = GenerateOptions {
            max_new_tokens: cell.max_new_tokens,
            length: cell.output_length,
            decoding: cell.decoding,
        };
        let (clock, protocol, rest, stop) = (self.clock, self.protocol, self.rest, self.stop);
        let mut batches = Batches::new(self.prompts, cell.batch_size, options, clock, stop);
        let engine = &mut *self.engine;
        wait(clock, self.offset, stop)?;
        let (marks, mut trace) = meter::recording(self.meter, |meter| {
            let start = clock.now();
            let heat = batches.warm_up(engine, meter, protocol, rest)?;
            let warmed = clock.now();
            meter.edge(Edge::Soon);
            batches.guard(engine, protocol.guard_s)?;
            let t0 = clock.now();
            meter.edge(Edge::Passed);
            let totals = batches.passes(engine, protocol.min_window_s)?;
            let t1 = clock.now();
            meter.edge(Edge::Passed);
            batches.guard(engine, protocol.guard_s)?;
            Ok(Marks { start, warmed, t0, t1, totals, heat })
        })?;
        trace.sources.extend(batches.phases());
        Ok((marks, trace))
    }

    fn measured(&self, cell: &CellSpec, marks: Marks, trace: Trace) -> Result<Measured> {
        let texts = marks.totals.first_pass.iter().map(|output| (self.decode)(&output.ids));
        let texts = texts.collect::<Result<Vec<String>>>()?;
        let measurement = self.measurement(cell, &marks, &trace, &texts);
        Ok(Measured {
            outcome: Outcome::Measured(Box::new(measurement)),
            trace: Some(trace),
            generations: marks.totals.first_pass,
            texts,
        })
    }

    fn measurement(&self, cell: &CellSpec, marks: &Marks, trace: &Trace, texts: &[String]) -> Measurement {
        let (totals, weight_bytes) = (&marks.totals, self.engine.info().weight_bytes);
        let work = marks.work(cell.batch_size, weight_bytes);
        let findings = Findings::of(trace, self.meter.info(), &work, self.idle.as_ref());
        let bytes_of_pass: u64 = texts.iter().map(|text| text.len() as u64).sum();
        Measurement {
            window: Window {
                decode_s: decode_time(trace, marks.t0, marks.t1),
                ..marks.window(self.prompts.len(), self.offset)
            },
            tokens_in: Tokens(totals.tokens_in),
            tokens_out: Tokens(totals.tokens_out),
            tokens_pad: Tokens(totals.tokens_pad),
            output_bytes: Some(bytes_of_pass * u64::from(totals.passes)),
            energy: findings.energy,
            idle: self.idle.clone(),
            load: self.load,
            warmup: span_cost(trace, self.meter, marks.start, marks.warmed),
            validity: findings.validity,
            conditions: findings.conditions,
            phases: findings.phases,
            heat: marks.heat.clone(),
        }
    }
}

/// Instants of a trial, and the work of its window.
struct Marks {
    start: Seconds,
    warmed: Seconds,
    t0: Seconds,
    t1: Seconds,
    totals: Totals,
    heat: Option<Heat>,
}

impl Marks {
    fn window(&self, prompts: usize, offset: Seconds) -> Window {
        Window {
            t0_s: self.t0,
            t1_s: self.t1,
            passes: self.totals.passes,
            batches: self.totals.batches,
            prompts: self.totals.passes * prompts as u32,
            decode_steps: Some(self.totals.decode_steps),
            decode_s: None,
            offset_s: offset,
        }
    }

    fn work(&self, batch_size: usize, weight_bytes: Option<u64>) -> Work {
        Work {
            t0: self.t0,
            t1: self.t1,
            batches: self.totals.batches,
            decode_steps: self.totals.decode_steps,
            step: None,
            tokens_out: Tokens(self.totals.tokens_out),
            batch_size,
            weight_bytes,
            unsteady: self.heat.as_ref().is_some_and(|heat| !heat.is_steady()),
            outputs_differ: !self.totals.repeatable,
        }
    }
}

/// The random wait before a trial: the same for the same seed, cell and block, anywhere in `0 … longest`.
pub(crate) fn random_offset(seed: u64, cell: &CellSpec, block: u32, longest: Seconds) -> Seconds {
    let digest = sha256_hex(format!("{seed}\u{0}{}\u{0}{block}", cell.id).as_bytes());
    let share = u32::from_str_radix(digest.get(..8).unwrap_or("0"), 16).unwrap_or(0);
    longest * (f64::from(share) / f64::from(u32::MAX))
}

fn failure_kind(error: &Error) -> FailureKind {
    match error.kind() {
        Kind::OutOfMemory => FailureKind::OutOfMemory,
        Kind::Meter => FailureKind::Meter,
        Kind::Input => FailureKind::Prompt,
        Kind::Runtime | Kind::Interrupted => FailureKind::Engine,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SimulatedDevice;
    use crate::record::{
        CellId, Decoding, EnergyMethod, Finish, MeterChoice, MeterInfo, ModelInfo, OutputLength, Quantity, Reason,
        Sample, SourceTrace, SyntheticSpec,
    };
    use crate::units::Watts;

    /// Writes `answer(n)` in its n-th batch, each of one second.
    struct Scripted {
        info: ModelInfo,
        device: SimulatedDevice,
        batches: u32,
        answer: fn(u32) -> u32,
    }

    impl Engine for Scripted {
        fn info(&self) -> &ModelInfo {
            &self.info
        }

        fn generate(&mut self, batch: &[Prompt], _: GenerateOptions) -> Result<Vec<Generation>> {
            self.device.spend(Seconds(1.0), Watts(300.0));
            self.batches += 1;
            let ids = vec![(self.answer)(self.batches)];
            let generation = Generation { ids, finish: Finish::Length, natural_length: None };
            Ok(vec![generation; batch.len()])
        }
    }

    /// A simulated device whose work shows a power that rises by this share, with a time constant of 25 s.
    struct Warming {
        meter: Box<dyn Meter>,
        device: SimulatedDevice,
        rise: f64,
    }

    impl Meter for Warming {
        fn info(&self) -> &MeterInfo {
            self.meter.info()
        }

        fn start(&mut self) -> Result<()> {
            self.meter.start()
        }

        fn stop(&mut self) -> Result<Trace> {
            self.meter.stop()
        }

        fn so_far(&mut self, from: Seconds) -> Option<Trace> {
            let times = (0..).map(|i| from.0 + f64::from(i) * 0.1).take_while(|t| *t <= self.device.now().0 + 1e-9);
            let watts = |t: f64| 300.0 * (1.0 - self.rise * (-t / 25.0).exp());
            Some(Trace {
                sources: vec![SourceTrace {
                    domain: "sim0".into(),
                    quantity: Quantity::Power,
                    method: EnergyMethod::Simulated,
                    tick: None,
                    lag: Seconds(0.0),
                    samples: times.map(|t| Sample { t: Seconds(t), value: watts(t) }).collect(),
                }],
            })
        }
    }

    fn cell() -> CellSpec {
        CellSpec {
            id: CellId("m.b1.n1".into()),
            model: "m".into(),
            batch_size: 1,
            max_new_tokens: 1,
            dtype: "f32".into(),
            output_length: OutputLength::Fixed,
            decoding: Decoding::Greedy,
            dummy_weights: false,
            probe: false,
        }
    }

    /// Warnings and length of the warm-up of a trial that warms up for 8 s at least and 20 s at most.
    fn trial(rise: f64, answer: fn(u32) -> u32) -> (Vec<Reason>, f64) {
        match tried(rise, answer, &|_| Ok("four".to_owned())).outcome {
            Outcome::Measured(measurement) => (measurement.validity.warnings, measurement.warmup.duration_s.0),
            other => panic!("{other:?}"),
        }
    }

    fn tried(rise: f64, answer: fn(u32) -> u32, decode: &dyn Fn(&[u32]) -> Result<String>) -> Measured {
        rested(0.0, rise, answer, decode)
    }

    fn rested(rest: f64, rise: f64, answer: fn(u32) -> u32, decode: &dyn Fn(&[u32]) -> Result<String>) -> Measured {
        let device = SimulatedDevice::new(Watts(60.0));
        let clock = Clock::Simulated(device.clone());
        let meter = meter::open(MeterChoice::Auto, &meter::MeterOptions::default(), &clock).unwrap();
        let mut meter = Warming { meter, device: device.clone(), rise };
        let spec: SyntheticSpec = serde_json::from_str(r#"{"step_s": 1, "power_w": 300, "idle_w": 60}"#).unwrap();
        let info = crate::engine::synthetic::Synthetic::new(spec, device.clone()).unwrap().info().clone();
        let mut engine = Scripted { info, device, batches: 0, answer };
        let mut protocol = crate::sweep::measure::MeasureSpec::default().protocol(meter.info());
        (protocol.min_window_s, protocol.warmup_s, protocol.max_warmup_s) = (Seconds(5.0), Seconds(8.0), Seconds(20.0));
        let mut stage = Stage {
            engine: &mut engine,
            meter: &mut meter,
            clock: &clock,
            prompts: &[Prompt { text: "a".into(), ids: vec![1] }],
            decode,
            protocol: &protocol,
            idle: None,
            offset: Seconds(0.0),
            rest: Seconds(rest),
            load: Cost::default(),
            stop: &AtomicBool::new(false),
        };
        stage.trial(&cell()).unwrap()
    }

    #[test]
    fn a_record_counts_the_bytes_of_the_text_over_all_passes() {
        let measured = tried(0.0, |_| 7, &|_| Ok("four".to_owned()));
        assert_eq!(measured.texts, ["four"]);
        let Outcome::Measured(measurement) = measured.outcome else { panic!("{:?}", measured.outcome) };
        assert_eq!((measurement.window.passes, measurement.output_bytes), (5, Some(20)));
    }

    #[test]
    fn an_answer_that_cannot_be_turned_into_text_is_a_failure_of_the_engine() {
        let measured = tried(0.0, |_| 7, &|_| Err(Error::input("no such token")));
        let failed = matches!(measured.outcome, Outcome::Failed { failure: FailureKind::Engine, .. });
        assert!(failed && measured.trace.is_none(), "{:?}", measured.outcome);
    }

    #[test]
    fn work_that_keeps_its_energy_is_measured_after_the_shortest_warm_up() {
        assert_eq!(trial(0.0, |_| 7), (vec![], 8.0));
    }

    #[test]
    fn work_whose_energy_goes_on_rising_is_measured_after_the_longest_warm_up_and_marked_with_what_was_left() {
        assert_eq!(trial(0.1, |_| 7), (vec![Reason::NotSteady], 20.0));
        let Outcome::Measured(measurement) = tried(0.1, |_| 7, &|_| Ok(String::new())).outcome else {
            panic!("nothing failed")
        };
        let left = 0.1 * (-19.5f64 / 25.0).exp();
        let found = measurement.heat.unwrap();
        assert!((found.remainder.unwrap() - left / (1.0 - left)).abs() < 4e-3, "{:?}", found.remainder);
        assert_eq!(found.cycles.len(), 18, "two batches came before the cycles");
    }

    #[test]
    fn a_rest_before_a_trial_is_made_good_by_a_longer_warm_up() {
        let Outcome::Measured(measurement) = rested(15.0, 0.1, |_| 7, &|_| Ok(String::new())).outcome else {
            panic!("nothing failed")
        };
        assert_eq!(measurement.warmup.duration_s, Seconds(35.0));
    }

    #[test]
    fn passes_that_write_something_else_are_marked() {
        assert_eq!(trial(0.0, |batch| batch), (vec![Reason::NondeterministicOutput], 8.0));
    }

    #[test]
    fn a_random_offset_is_the_same_for_the_same_trial_and_spreads_over_the_whole_range() {
        let offset = |block| random_offset(42, &cell(), block, Seconds(0.1)).0;
        assert_eq!(offset(3), offset(3));
        let offsets: Vec<f64> = (0..200).map(offset).collect();
        let mean = offsets.iter().sum::<f64>() / 200.0;
        assert!((mean - 0.05).abs() < 0.008, "the mean of a uniform spread: {mean}");
        assert!(offsets.iter().all(|offset| (0.0..=0.1).contains(offset)));
    }
}
