//! The table of estimators' errors: what each says of simulated work whose energy is known, against that energy.

use std::fmt::Write as _;

use ept_sweep::meter::integrate::{ept_bench_sum, power_energy, window_energy};
use ept_sweep::record::{SourceTrace, Trace};
use ept_sweep::units::Seconds;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::sensors::{Curve, IDLE, Rig, SENSING, SHARE, STRETCH, T0, Workload, deduplicated, info};

/// Phases of the sensors against the window.
pub(crate) const OFFSETS: u64 = 200;
/// Nominal lengths of windows.
pub(crate) const WINDOWS: [f64; 5] = [1.0, 2.0, 5.0, 10.0, 20.0];
/// The shortest guard work of a meter that has a counter.
pub(crate) const GUARD: f64 = 0.3;
/// The same where power is the average of the last second.
const GUARD_AVERAGED: f64 = 0.8;
/// Student's t for a 95 % interval over five repeats.
const T4: f64 = 2.776;

/// A way from readings to an energy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Estimator {
    /// The one in use: counter, edges between its ticks with the course of the ring's power.
    Counter,
    /// The same readings of the counter without power samples: straight lines between ticks.
    Straight,
    /// A counter that is read every 50 ms, and no power samples.
    Polled,
    /// Counter at the window's start and after its next tick past the end.
    NextTick,
    /// The driver's ring, trapezoid.
    Ring,
    /// POWER_INSTANT, trapezoid.
    Instant,
    /// power_usage, trapezoid, shifted by half a second.
    UsageShifted,
    /// power_usage as if it were the power now.
    Usage,
    /// EPT-Bench: Σ P·Δt every 0.1 s.
    EptBenchSum,
    /// Trapezoid over those readings that differ from the one before.
    Deduplicated,
}

impl Estimator {
    /// In the order of the table.
    pub(crate) const ALL: [Estimator; 10] = [
        Estimator::Counter,
        Estimator::Straight,
        Estimator::Polled,
        Estimator::Ring,
        Estimator::Instant,
        Estimator::UsageShifted,
        Estimator::NextTick,
        Estimator::Usage,
        Estimator::EptBenchSum,
        Estimator::Deduplicated,
    ];

    fn name(self) -> &'static str {
        match self {
            Estimator::Counter => "**counter, edges by the ring's course** (used)",
            Estimator::Straight => "the same readings, linear edges",
            Estimator::Polled => "counter read every 50 ms, linear edges",
            Estimator::Ring => "driver's ring, trapezoid (second source)",
            Estimator::Instant => "POWER_INSTANT, trapezoid",
            Estimator::UsageShifted => "power_usage, trapezoid, shifted 0.5 s",
            Estimator::NextTick => "counter through the next tick, idle around",
            Estimator::Usage => "power_usage, trapezoid, unshifted, idle around",
            Estimator::EptBenchSum => "Σ P·Δt on power_usage, idle around",
            Estimator::Deduplicated => "trapezoid without repeated readings, idle around",
        }
    }

    /// Guard work at both edges; without it the GPU is idle around the window, as with most tools.
    pub(crate) fn guard(self) -> Option<f64> {
        match self {
            Estimator::Counter | Estimator::Straight | Estimator::Polled => Some(GUARD),
            Estimator::Ring | Estimator::Instant => Some(GUARD),
            Estimator::UsageShifted => Some(GUARD_AVERAGED),
            Estimator::NextTick | Estimator::Usage | Estimator::EptBenchSum | Estimator::Deduplicated => None,
        }
    }

    /// Its energy of a window in joules; not a number where it gives none.
    pub(crate) fn energy(self, rig: &Rig) -> f64 {
        let (t0, t1) = (Seconds(rig.t0), Seconds(rig.t1));
        let integral = |source: SourceTrace| power_energy(&source, t0, t1).map(|found| found.energy);
        let total = |sources: Vec<SourceTrace>| window_energy(&Trace { sources }, &info(), t0, t1).total_j;
        let found = match self {
            Estimator::Counter => total(rig.trace().sources),
            Estimator::Straight => total(vec![rig.followed(&rig.counter())]),
            Estimator::Polled => total(vec![rig.polled(&rig.counter())]),
            Estimator::NextTick => {
                let counter = rig.counter();
                return counter.after_next_tick(rig.t1) - counter.at(rig.t0);
            }
            Estimator::Ring => integral(rig.ring()),
            Estimator::Instant => integral(rig.instant()),
            Estimator::UsageShifted => integral(rig.usage()),
            Estimator::Usage => integral(SourceTrace { lag: Seconds(0.0), ..rig.usage() }),
            Estimator::EptBenchSum => ept_bench_sum(&rig.usage(), t0, t1),
            Estimator::Deduplicated => integral(deduplicated(rig.instant())),
        };
        found.map_or(f64::NAN, |energy| energy.0)
    }
}

/// Relative errors over many offsets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Errors {
    /// Their mean.
    pub bias: f64,
    /// Their standard deviation.
    pub spread: f64,
    /// The greatest of their absolute values.
    pub worst: f64,
}

impl Errors {
    /// Of these errors.
    pub(crate) fn of(errors: &[f64]) -> Self {
        let count = errors.len() as f64;
        let bias = errors.iter().sum::<f64>() / count;
        let squares: f64 = errors.iter().map(|error| (error - bias) * (error - bias)).sum();
        let worst = errors.iter().fold(0.0, |worst: f64, error| worst.max(error.abs()));
        Self { bias, spread: (squares / (count - 1.0)).sqrt(), worst }
    }

    fn cell(&self) -> String {
        format!("{} ± {} ({})", signed(self.bias), percent(self.spread), percent(self.worst))
    }
}

fn percent(share: f64) -> String {
    format!("{:.2}", share * 100.0)
}

/// With its sign, and without one where it rounds to zero.
fn signed(share: f64) -> String {
    match (share * 1e4).round() as i64 {
        0 => "0.00".into(),
        _ => format!("{:+.2}", share * 100.0),
    }
}

/// Relative errors of an estimator, one for each offset.
pub(crate) fn errors(estimator: Estimator, workload: Workload, window: f64) -> Vec<f64> {
    let length = window * STRETCH;
    let curve = workload.curve(length, estimator.guard());
    let truth = curve.energy(T0, T0 + length);
    let guard = estimator.guard().unwrap_or(GUARD);
    (0..OFFSETS).map(|seed| estimator.energy(&Rig::new(&curve, length, guard, seed)) / truth - 1.0).collect()
}

/// Relative errors of an estimator behind a sensor that looks part of the time, with work in step with it: at one
/// offset, or at a random one each time.
pub(crate) fn part_time_errors(estimator: Estimator, workload: Workload, length: f64, offset: Option<f64>) -> Vec<f64> {
    let curve = workload.curve(length, Some(GUARD));
    let truth = curve.energy(T0, T0 + length);
    let error = |seed| {
        let random = || ChaCha8Rng::seed_from_u64(1_000_000 + seed).random::<f64>() * SENSING;
        let seen: Curve = curve.seen_part_time(offset.unwrap_or_else(random));
        estimator.energy(&Rig::new(&seen, length, GUARD, seed)) / truth - 1.0
    };
    (0..OFFSETS).map(error).collect()
}

/// The greatest error that looking part of the time can make, relative to the true mean power: the unseen part can
/// differ from the seen one by the whole range of power.
pub(crate) fn part_time_bound(lowest_w: f64, highest_w: f64, mean_w: f64) -> f64 {
    (1.0 - SHARE) * (highest_w - lowest_w) / mean_w
}

/// Share of the 95 % intervals over five consecutive errors that contain 0.
pub(crate) fn interval_coverage(errors: &[f64]) -> f64 {
    let covers = |five: &&[f64]| {
        let Errors { bias, spread, .. } = Errors::of(five);
        // what a true zero rounds to
        bias.abs() <= T4 * spread / 5f64.sqrt() + 1e-12
    };
    errors.chunks_exact(5).filter(covers).count() as f64 / (errors.len() / 5) as f64
}

const HEAD: &str = "\
# What the estimators get wrong

Simulated power sources with exactly known energy, read as the meter reads real ones and run through the same functions
(`meter::integrate`). All numbers are errors in % of the true energy: **mean ± standard deviation (greatest absolute
error)** over 200 seeded offsets of the sensors against the window. They say what an estimator adds to the sensor's own
error, which no processing can see.

The sensors (`tests/oracle/sensors.rs`): a counter that ticks every 70 to 108 ms, takes 3 to 5.5 ms to read, and is read
closely at the edges and once in 6 s otherwise; the driver's ring of instantaneous samples, 7.8 to 43 ms apart, with
± 2 W of noise, of which 11 % repeat the one before whatever the power does (what real ones repeat may well be constant
power: this is the worse case); POWER_INSTANT, renewed every 100 ms; power_usage, the average of the last second,
renewed every 100 ms. Windows are 1.1 % longer than their
column says, so that they hold whole batches. Guard work of 0.3 s runs at both edges (0.8 s for power_usage) unless the
row says that the GPU is idle around the window.

This file is written by a program, and a test compares the two:

```
cargo run --release --example estimator_error > docs/measurement/errors.md
```
";

const PART_TIME: &str = "
## A sensor that looks part of the time

Some boards sense power for 25 of every 100 ms (Yang, Adamek, Armour, *Part-time power measurements*, SC24). Work in
step with it always shows it the same part of the cycle: batches of 100 ms, 30 ms of them at 650 W and 70 ms at 350 W,
in a window of 10 s. Repeats at one offset agree with each other and are wrong together; nothing in the readings shows it,
only the warning `phase_locked`. A random offset for each repeat turns the bias into a spread that an interval knows.
";

/// The whole page.
pub(crate) fn page() -> String {
    let mut page = HEAD.to_owned();
    for (workload, title) in [
        (Workload::Constant, "Constant: 400 W"),
        (Workload::Step, "Step: 300 W in the first half, 500 W in the second"),
        (Workload::Ramp, "Ramp: 250 W to 550 W"),
        (Workload::Drift, "Drift: 390 W to 410 W from warm-up to end"),
        (Workload::Burst, "Burst: idle, and 900 W for half a second (no guard work in any row)"),
        (Workload::ShortBatches, "Batches of 0.34 s: prefill of 60 ms at 650 W, decoding from 420 W to 360 W"),
        (Workload::LongBatches, "Batches of 1.01 s: prefill of 300 ms at 680 W, decoding from 430 W to 340 W"),
    ] {
        section(&mut page, workload, title);
    }
    page.push_str(PART_TIME);
    part_time(&mut page);
    page
}

fn section(page: &mut String, workload: Workload, title: &str) {
    let rows: Vec<String> = Estimator::ALL
        .par_iter()
        .map(|estimator| {
            let cell = |window: &f64| Errors::of(&errors(*estimator, workload, *window)).cell();
            let cells: Vec<String> = WINDOWS.iter().map(cell).collect();
            format!("| {} | {} |", estimator.name(), cells.join(" | "))
        })
        .collect();
    let _ = write!(page, "\n## {title}\n\n| estimator | 1 s | 2 s | 5 s | 10 s | 20 s |\n|---|---|---|---|---|---|\n");
    let _ = writeln!(page, "{}", rows.join("\n"));
}

fn part_time(page: &mut String) {
    let offsets = [
        ("in step, prefill seen", Workload::InStep, Some(0.0)),
        ("in step, 25 ms later", Workload::InStep, Some(0.025)),
        ("in step, 50 ms later", Workload::InStep, Some(0.05)),
        ("in step, 75 ms later", Workload::InStep, Some(0.075)),
        ("in step, a random offset each time", Workload::InStep, None),
        ("batches of 0.337 s, one offset", Workload::ShortBatches, Some(0.0)),
    ];
    let rows: Vec<String> = offsets
        .par_iter()
        .map(|&(name, workload, offset)| {
            let length = if workload == Workload::InStep { 10.0 } else { 10.0 * STRETCH };
            let of = |estimator| part_time_errors(estimator, workload, length, offset);
            let (counter, ring) = (of(Estimator::Counter), of(Estimator::Ring));
            let covered = format!("{:.0}", interval_coverage(&counter) * 100.0);
            format!("| {name} | {} | {} | {covered} |", Errors::of(&counter).cell(), Errors::of(&ring).cell())
        })
        .collect();
    let _ =
        write!(page, "\n| work | counter | driver's ring | 95 % intervals over 5 repeats that hold the truth, % |\n");
    let _ = writeln!(page, "|---|---|---|---|\n{}", rows.join("\n"));
    let _ = write!(
        page,
        "\nNo offset can be off by more than the unseen share times the range of power over its mean: here\n\
         0.75 · (650 − 350) / 440 = {} %, in general with idle power ({IDLE:.0} W here) and the power limit.\n",
        percent(part_time_bound(350.0, 650.0, 440.0))
    );
}
