//! Work whose power has a course: prefill and decode behind sensors that lag, and a device that warms up.

use ept_sweep::meter::findings::Findings;
use ept_sweep::meter::integrate::{power_energy, window_energy};
use ept_sweep::record::{EnergyMethod, Quantity, Sample, SourceTrace, Trace};
use ept_sweep::units::{Seconds, Tokens};
use ept_sweep::validity::Work;

use super::sensors::{Curve, IDLE, Rig, T0, info};
use super::table::{GUARD, OFFSETS};

/// Seconds of prefill, and of decode, of each batch.
const HALF: f64 = 0.6;
/// Watts during prefill and decode.
pub(crate) const PREFILL_W: f64 = 680.0;
pub(crate) const DECODE_W: f64 = 370.0;
/// Batches in a window of 12 s.
pub(crate) const BATCHES: u32 = 10;
/// How far counter and ring lie behind the host's clock.
pub(crate) const COUNTER_LAG: f64 = 0.005;
pub(crate) const RING_LAG: f64 = 0.012;

/// Sensors with a lag: what they show at an instant applied so much earlier, and nothing says so.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Lags {
    pub counter: f64,
    pub ring: f64,
}

impl Lags {
    pub(crate) const NONE: Lags = Lags { counter: 0.0, ring: 0.0 };
    pub(crate) const BOTH: Lags = Lags { counter: COUNTER_LAG, ring: RING_LAG };
}

/// What is found of a window behind lagging sensors: relative errors, one for each seed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Found {
    /// Energy of the window, by the counter and by the ring.
    pub counter: Vec<f64>,
    pub ring: Vec<f64>,
    /// Prefill and decode where the ring's stamps are taken as they are.
    pub stamped: [Vec<f64>; 2],
    /// Prefill and decode as the meter splits them.
    pub split: [Vec<f64>; 2],
    /// The lag of the ring that it finds, in seconds.
    pub lag: Vec<f64>,
}

/// Windows of batches with sensors of random offset.
pub(crate) fn lagging(lags: Lags) -> Found {
    let length = f64::from(BATCHES) * 2.0 * HALF;
    let curve = batches(-2, BATCHES as i32 + 1);
    let (t0, t1) = (Seconds(T0), Seconds(T0 + length));
    let halves = [0, 1].map(|half| spans(half, BATCHES));
    let truths = [PREFILL_W, DECODE_W].map(|watts| watts * HALF * f64::from(BATCHES));
    let truth = truths[0] + truths[1];
    let mut found = Found::default();
    for seed in 0..OFFSETS {
        let rig = Rig::new(&curve, length, GUARD, seed);
        let ring = later(rig.ring(), lags.ring);
        let sources = vec![rig.followed(&rig.counter().later(lags.counter)), ring.clone(), phases()];
        let trace = Trace { sources };
        let integral = |from, to| power_energy(&ring, from, to).map_or(f64::NAN, |found| found.energy.0);
        let total = window_energy(&trace, &info(), t0, t1).total_j.map_or(f64::NAN, |energy| energy.0);
        found.counter.push(total / truth - 1.0);
        found.ring.push(integral(t0, t1) / truth - 1.0);
        let split = Findings::of(&trace, &info(), &work(length), None).phases;
        found.lag.extend(split.as_ref().and_then(|split| split.lag_s).map(|lag| lag.0));
        for half in 0..2 {
            let stamped: f64 = halves[half].iter().map(|(from, to)| integral(*from, *to)).sum();
            found.stamped[half].push(stamped / truths[half] - 1.0);
            let energy = split.as_ref().map_or(f64::NAN, |split| [split.prefill_j.0, split.decode_j.0][half]);
            found.split[half].push(energy / truths[half] - 1.0);
        }
    }
    found
}

fn work(length: f64) -> Work {
    Work {
        t0: Seconds(T0),
        t1: Seconds(T0 + length),
        batches: BATCHES,
        decode_steps: 50 * u64::from(BATCHES),
        tokens_out: Tokens(510),
        batch_size: 1,
        ..Work::default()
    }
}

fn batches(first: i32, last: i32) -> Curve {
    let at = |batch: i32| T0 + 2.0 * HALF * f64::from(batch);
    let curve = Curve::new(0.0).hold(at(first), IDLE);
    let curve =
        (first..last).fold(curve, |curve, batch| curve.hold(at(batch) + HALF, PREFILL_W).hold(at(batch + 1), DECODE_W));
    curve.hold(at(last) + 5.0, IDLE)
}

fn spans(half: u32, batches: u32) -> Vec<(Seconds, Seconds)> {
    let start = |batch: u32| T0 + HALF * f64::from(2 * batch + half);
    (0..batches).map(|batch| (Seconds(start(batch)), Seconds(start(batch) + HALF))).collect()
}

/// When the engine did what, as a trial records it.
fn phases() -> SourceTrace {
    let batch = |batch: i32| {
        let start = T0 + 2.0 * HALF * f64::from(batch);
        [(start, 1.0), (start + HALF, 2.0), (start + 2.0 * HALF, 0.0)]
    };
    let marks = (-2..=BATCHES as i32).flat_map(batch);
    SourceTrace {
        domain: "work".into(),
        quantity: Quantity::Phase,
        method: EnergyMethod::PowerIntegral,
        tick: None,
        lag: Seconds(0.0),
        samples: marks.map(|(t, value)| Sample { t: Seconds(t), value }).collect(),
    }
}

/// The same samples with later stamps.
fn later(mut source: SourceTrace, lag: f64) -> SourceTrace {
    source.samples.iter_mut().for_each(|sample| sample.t += Seconds(lag));
    source
}

/// Watts of the steady state, and what is missing of it at first.
const STEADY_W: f64 = 400.0;
pub(crate) const RISE: f64 = 0.025;
/// Seconds in which all but a part in e of that is made good.
pub(crate) const TIME_CONSTANT: f64 = 25.0;

/// Relative errors of the counter against the steady state, in windows of `length` after so long a warm-up of a device
/// that starts cool.
pub(crate) fn warming(warmup: f64, length: f64) -> Vec<f64> {
    const PIECE: f64 = 0.25;
    let start = T0 - GUARD - warmup;
    let power = |t: f64| STEADY_W * (1.0 - RISE * (-(t - start) / TIME_CONSTANT).exp());
    let end = T0 + length + GUARD;
    let pieces = ((end - start) / PIECE).ceil() as u32;
    let at = |piece: u32| start + f64::from(piece) * (end - start) / f64::from(pieces);
    let curve = Curve::new(start.min(0.0) - 5.0).hold(start, IDLE);
    let curve = (1..=pieces).fold(curve, |curve, piece| curve.ramp(at(piece), power(at(piece - 1)), power(at(piece))));
    let curve = curve.hold(end + 5.0, IDLE);
    let error = |seed| {
        let rig = Rig::new(&curve, length, GUARD, seed);
        let found = window_energy(&rig.trace(), &info(), Seconds(T0), Seconds(T0 + length)).total_j;
        found.map_or(f64::NAN, |energy| energy.0) / (STEADY_W * length) - 1.0
    };
    (0..OFFSETS).map(error).collect()
}

/// What a window after so long a warm-up misses on average, in closed form.
pub(crate) fn missing(warmup: f64, length: f64) -> f64 {
    let from = warmup + GUARD;
    let integral = |t: f64| -TIME_CONSTANT * (-t / TIME_CONSTANT).exp();
    -RISE * (integral(from + length) - integral(from)) / length
}
