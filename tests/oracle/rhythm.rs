//! Sensors that look in a rhythm, and work whose power swings in nearly the same one.

use ept_sweep::meter::integrate::{power_energy, window_energy};
use ept_sweep::record::Trace;
use ept_sweep::units::Seconds;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::sensors::{Curve, IDLE, RING, Rig, T0, TICK, WARM, info};
use super::table::{Errors, GUARD, OFFSETS};

/// How much of each 20 ms goes into a reading, in seconds; 0 for the power of one instant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Looks {
    pub counter: f64,
    pub ring: f64,
}

impl Looks {
    /// The worst that a rhythm of 20 ms can do.
    pub(crate) const INSTANTS: Looks = Looks { counter: 0.0, ring: 0.0 };
    /// What the beats of an H100 allow: a square wave of 770 W and 20.2 ms, whose fundamental has an amplitude of 490 W,
    /// showed as 42 W in the counter and as 112 W in the ring. A look of `w` lets through sin(πw/20.2 ms)/(πw/20.2 ms).
    pub(crate) const MEASURED: Looks = Looks { counter: 0.0186, ring: 0.0162 };
}

/// Work that repeats: a part at one power and the rest at another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Swing {
    pub period: f64,
    /// Share of the period at `high_w`, from its start.
    pub share: f64,
    pub high_w: f64,
    pub low_w: f64,
}

impl Swing {
    /// A decode step of which the last 15 % wait for the next one.
    pub(crate) fn step(period: f64) -> Self {
        Self { period, share: 0.85, high_w: 520.0, low_w: 300.0 }
    }

    /// Short batches: prefill and decode.
    pub(crate) fn batch(period: f64) -> Self {
        Self { period, share: 0.3, high_w: 650.0, low_w: 350.0 }
    }

    fn mean(self) -> f64 {
        self.share * self.high_w + (1.0 - self.share) * self.low_w
    }

    /// The greatest error that looking at instants can make: all of them show the power that lasts shorter.
    pub(crate) fn bound(self) -> f64 {
        (self.high_w - self.mean()).max(self.mean() - self.low_w) / self.mean()
    }

    /// The shortest window of whole periods that lasts as long as `nominal`.
    pub(crate) fn length(self, nominal: f64) -> f64 {
        (nominal / self.period - 1e-9).ceil() * self.period
    }

    /// Whole periods, one of which starts at [`T0`], with warm-up and guard work around the window.
    pub(crate) fn curve(self, length: f64) -> Curve {
        let first = (-WARM / self.period).floor() as i64;
        let last = ((length + GUARD) / self.period).ceil() as i64;
        let at = |n: i64| T0 + n as f64 * self.period;
        let curve = Curve::new(0.0).hold(at(first), IDLE);
        let repeated = (first..last).fold(curve, |curve, n| {
            curve.hold(at(n) + self.share * self.period, self.high_w).hold(at(n + 1), self.low_w)
        });
        repeated.hold(T0 + length + 5.0, IDLE)
    }
}

/// What the sensors say of a window: relative errors, one for each seed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    pub counter: Vec<f64>,
    pub ring: Vec<f64>,
}

/// How far sensors of a 20 ms rhythm are off about a window of a swing, at one offset of the rhythm to the work or at a
/// random one each time.
pub(crate) fn seen(looks: Looks, swing: Swing, nominal: f64, offset: Option<f64>) -> Seen {
    let length = swing.length(nominal);
    let curve = swing.curve(length);
    let truth = curve.energy(T0, T0 + length);
    let errors = |seed| {
        let offset = offset.unwrap_or_else(|| random(seed) * RING);
        let trace = trace(&curve, looks, length, offset, seed);
        let (t0, t1) = (Seconds(T0), Seconds(T0 + length));
        let counted = window_energy(&trace, &info(), t0, t1).total_j.map_or(f64::NAN, |energy| energy.0);
        let integral = power_energy(&trace.sources[1], t0, t1).map_or(f64::NAN, |found| found.energy.0);
        (counted / truth - 1.0, integral / truth - 1.0)
    };
    let (counter, ring) = (0..OFFSETS).map(errors).unzip();
    Seen { counter, ring }
}

/// Counter and ring of a 20 ms rhythm.
pub(crate) fn trace(curve: &Curve, looks: Looks, length: f64, offset: f64, seed: u64) -> Trace {
    let (counted, sampled) = (curve.looked_at(RING, looks.counter, offset), curve.looked_at(RING, looks.ring, offset));
    let rig = Rig::new(&counted, length, GUARD, seed);
    let counter = rig.followed(&rig.counter());
    let ring = Rig::new(&sampled, length, GUARD, seed).ring_in_rhythm(looks.ring + offset);
    Trace { sources: vec![counter, ring] }
}

/// Relative errors of POWER_INSTANT, which looks at one instant each 100 ms, at one offset or at a random one each time.
pub(crate) fn instant_errors(swing: Swing, nominal: f64, offset: Option<f64>) -> Vec<f64> {
    let length = swing.length(nominal);
    let curve = swing.curve(length);
    let truth = curve.energy(T0, T0 + length);
    let error = |seed| {
        let offset = offset.unwrap_or_else(|| random(seed) * TICK);
        let source = Rig::new(&curve, length, GUARD, seed).instant_in_rhythm(offset);
        let found = power_energy(&source, Seconds(T0), Seconds(T0 + length));
        found.map_or(f64::NAN, |found| found.energy.0) / truth - 1.0
    };
    (0..OFFSETS).map(error).collect()
}

fn random(seed: u64) -> f64 {
    ChaCha8Rng::seed_from_u64(1_000_000 + seed).random()
}

/// Share of the 95 % intervals over five consecutive errors that contain 0.
pub(crate) fn interval_coverage(errors: &[f64]) -> f64 {
    /// Student's t for a 95 % interval over five repeats.
    const T4: f64 = 2.776;
    let covers = |five: &&[f64]| {
        let Errors { bias, spread, .. } = Errors::of(five);
        // what a true zero rounds to
        bias.abs() <= T4 * spread / 5f64.sqrt() + 1e-12
    };
    errors.chunks_exact(5).filter(covers).count() as f64 / (errors.len() / 5) as f64
}
