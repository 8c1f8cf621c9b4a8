//! The table of estimators' errors: what each says of simulated work whose energy is known, against that energy.

use std::fmt::Write as _;

use ept_sweep::meter::integrate::{ept_bench_sum, power_energy, window_energy};
use ept_sweep::record::{SourceTrace, Trace};
use ept_sweep::units::Seconds;
use rayon::prelude::*;

use super::courses::{self, Lags, TIME_CONSTANT};
use super::rhythm::{Looks, Swing, instant_errors, interval_coverage, seen};
use super::sensors::{Rig, STRETCH, T0, Workload, deduplicated, info};

/// Phases of the sensors against the window.
pub(crate) const OFFSETS: u64 = 200;
/// Nominal lengths of windows.
pub(crate) const WINDOWS: [f64; 5] = [1.0, 2.0, 5.0, 10.0, 20.0];
/// The shortest guard work of a meter that has a counter.
pub(crate) const GUARD: f64 = 0.3;
/// The same where power is the average of the last second.
const GUARD_AVERAGED: f64 = 0.8;

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

    pub(crate) fn cell(&self) -> String {
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
renewed every 100 ms. Windows are 1.1 % longer than their column says, so that they hold whole batches. Guard work of
0.3 s runs at both edges (0.8 s for power_usage) unless the row says that the GPU is idle around the window. Sensors
that look in an exact rhythm or lag, and a device that warms up, have sections of their own at the end.

This file is written by a program, and a test compares the two:

```
cargo run --release --example estimator_error > docs/measurement/errors.md
```
";

/// The whole page.
pub(crate) fn page() -> String {
    let mut page = HEAD.to_owned();
    for (workload, title) in [
        (Workload::Constant, "Constant: 400 W"),
        (Workload::Step, "Step: 300 W in the first half, 500 W in the second"),
        (Workload::Ramp, "Ramp: 250 W to 550 W"),
        (Workload::Burst, "Burst: idle, and 900 W for half a second (no guard work in any row)"),
        (Workload::ShortBatches, "Batches of 0.34 s: prefill of 60 ms at 650 W, decoding from 420 W to 360 W"),
        (Workload::LongBatches, "Batches of 1.01 s: prefill of 300 ms at 680 W, decoding from 430 W to 340 W"),
    ] {
        section(&mut page, workload, title);
    }
    rhythm(&mut page);
    instant(&mut page);
    lag(&mut page);
    heat(&mut page);
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

const RHYTHM: &str = "
## A rhythm of 20 ms

On an H100 neither counter nor ring looks part of the time in a rhythm of 100 ms, as was found of other readings
(Yang, Adamek, Armour, *Part-time power measurements*, SC24): square waves near 100 ms show no beat in them. Near 20
ms they do. The ring is one reading each 20 ms, and the counter sums up over its 100 ms what is itself taken about
every 20 ms. Here decode steps swing: 85 % of each at 520 W, the rest, in which the GPU waits for the next step, at
300 W. The sensors' rhythm is exact, which is the worst case; its offset to the work is random each time. Steps of 10
and 20 ms always show them the same part.

If a reading is the power of one instant, nothing averages the swing out but a beat that is short beside the window:
";

const MEASURED: &str = "
The beats of an H100 were smaller than that: 42 W in the counter and 112 W in the ring, of a square wave of 770 W.
They are those of a look of 18.6 ms for the counter and of 16.2 ms for the ring, in each 20 ms:
";

const OFFSETS_OF_STEP: &str = "
In windows of 10 s, at one offset and at a random one for each repeat:

| step of 20.0 ms | counter | driver's ring | 95 % intervals over 5 repeats that hold the truth (counter), % |
|---|---|---|---|
";

const AFTER_OFFSETS: &str = "
Repeats at one offset agree with each other and are wrong together, and both sources nearly agree, so no residual
shows it: only the warning `phase_locked` does. A random offset for each repeat makes their mean right on average, but
few offsets are far off and most a little, so that an interval over five repeats often misses the truth.
";

fn rhythm(page: &mut String) {
    page.push_str(RHYTHM);
    steps(page, Looks::INSTANTS);
    page.push_str(MEASURED);
    steps(page, Looks::MEASURED);
    page.push_str(OFFSETS_OF_STEP);
    for (looks, name) in [(Looks::INSTANTS, "instants"), (Looks::MEASURED, "looks as measured")] {
        for (offset, at) in [
            (Some(0.0185), "one offset, the wait seen"),
            (Some(0.010), "one offset, the work seen"),
            (None, "random offsets"),
        ] {
            let found = seen(looks, Swing::step(0.02), 10.0, offset);
            let covered = format!("{:.0}", interval_coverage(&found.counter) * 100.0);
            let (counter, ring) = (Errors::of(&found.counter).cell(), Errors::of(&found.ring).cell());
            let _ = writeln!(page, "| {name}, {at} | {counter} | {ring} | {covered} |");
        }
    }
    page.push_str(AFTER_OFFSETS);
}

/// Errors for each step time and window at random offsets.
fn steps(page: &mut String, looks: Looks) {
    const NOMINAL: [f64; 3] = [5.0, 10.0, 20.0];
    page.push_str("\n| step | counter, 5 s | 10 s | 20 s | ring, 5 s | 10 s | 20 s |\n|---|---|---|---|---|---|---|\n");
    let row = |step: &f64| {
        let all = NOMINAL.map(|nominal| seen(looks, Swing::step(step / 1e3), nominal, None));
        let counter = all.iter().map(|found| Errors::of(&found.counter).cell());
        let ring = all.iter().map(|found| Errors::of(&found.ring).cell());
        format!("| {step:.1} ms | {} |", counter.chain(ring).collect::<Vec<_>>().join(" | "))
    };
    let rows: Vec<String> = [10.0, 19.9, 20.0, 20.1, 20.2, 20.5, 25.0].par_iter().map(row).collect();
    let _ = writeln!(page, "{}", rows.join("\n"));
}

const INSTANT: &str = "
## A rhythm of 100 ms

POWER_INSTANT looks at one instant each 100 ms. It is the second source where there is no ring, and the only one where
there is no counter either. Batches in step with it, 30 % of each at 650 W and the rest at 350 W, in windows of 10 s:

| work | POWER_INSTANT | 95 % intervals over 5 repeats that hold the truth, % |
|---|---|---|
";

fn instant(page: &mut String) {
    page.push_str(INSTANT);
    for (name, period, offset) in [
        ("batches of 100 ms, prefill seen", 0.1, Some(0.015)),
        ("batches of 100 ms, decode seen", 0.1, Some(0.06)),
        ("batches of 100 ms, random offsets", 0.1, None),
        ("batches of 101 ms, random offsets", 0.101, None),
        ("batches of 337 ms, random offsets", 0.337, None),
    ] {
        let all = instant_errors(Swing::batch(period), 10.0, offset);
        let covered = interval_coverage(&all) * 100.0;
        let _ = writeln!(page, "| {name} | {} | {covered:.0} |", Errors::of(&all).cell());
    }
    let bound = percent(Swing::batch(0.1).bound());
    let _ = writeln!(page, "\nNo offset can be off by more than the range of power allows: here {bound} %.");
}

const LAG: &str = "
## Sensors that lag

The counter shows everything 5 ms later than the host's clock says and the ring 12 ms later. Batches of 0.6 s of
prefill at 680 W and 0.6 s of decode at 370 W run without a pause, in windows of ten whole batches with the same work
around them. Over whole batches a lag cancels out: what is missing at the start is that of the batch before. At each
first token it doesn't: 310 W · 12 ms = 3.7 J of a batch's prefill count as decode. Without a lag some prefill counts
as decode as well, since a straight line between two samples spreads the step of power over 20 ms, and since samples
that repeat the one before come late. The split that is used shifts both edges by the lag that it finds, and takes a
phase's power at its ends from beside the stretch in which samples mix two phases: so an uncertain lag costs little.

| | no lag | counter 5 ms and ring 12 ms later |
|---|---|---|
";

fn lag(page: &mut String) {
    page.push_str(LAG);
    let (none, both) = (courses::lagging(Lags::NONE), courses::lagging(Lags::BOTH));
    let mut row = |name: &str, of: &dyn Fn(&courses::Found) -> &[f64]| {
        let cell = |found| Errors::of(of(found)).cell();
        let _ = writeln!(page, "| {name} | {} | {} |", cell(&none), cell(&both));
    };
    row("whole batches, counter", &|found| &found.counter);
    row("whole batches, ring", &|found| &found.ring);
    row("prefill, by the ring's stamps as they are", &|found| &found.stamped[0]);
    row("decode, by the ring's stamps as they are", &|found| &found.stamped[1]);
    row("**prefill, as it is split** (used)", &|found| &found.split[0]);
    row("**decode, as it is split** (used)", &|found| &found.split[1]);
    let lag = |found: &courses::Found| match found.lag.is_empty() {
        true => "none".to_owned(),
        false => {
            let Errors { bias, spread, .. } = Errors::of(&found.lag);
            format!("{:.1} ± {:.1} ms", bias * 1e3, spread * 1e3)
        }
    };
    let _ = writeln!(page, "| lag of the ring that is found | {} | {} |", lag(&none), lag(&both));
}

const HEAT: &str = "
## A device that warms up

The same work takes more while the device warms up: 400 W in the steady state, 2.5 % less when it starts cool, and a
time constant of 25 s, as the slow part of an H100. Error of the counter against the steady state, after a warm-up of
fixed length:

| warm-up | 5 s | 10 s | 20 s |
|---|---|---|---|
";

fn heat(page: &mut String) {
    page.push_str(HEAT);
    for warmup in [2.5, 7.5, 20.0, 40.0, 60.0] {
        let cells = [5.0, 10.0, 20.0].map(|length| Errors::of(&courses::warming(warmup, length)).cell());
        let _ = writeln!(page, "| {warmup} s | {} |", cells.join(" | "));
    }
    let needed = |share: f64| format!("{:.0}", TIME_CONSTANT * (courses::RISE / share).ln());
    let _ = write!(
        page,
        "\nThe integration is right; the device isn't where it will be. So a warm-up doesn't end after a fixed time,\n\
         but when the energy of the same batches shows that what is still to come is below a share of it. From a cool\n\
         start that is {} s for 1 % (`quick`), {} s for 0.5 % (`standard`) and {} s for 0.25 % (`publication`), and\n\
         somewhat more where noise leaves the course open; from the steady state it is the shortest warm-up\n\
         (`tests/heat.rs`).\n",
        needed(0.01),
        needed(0.005),
        needed(0.0025),
    );
}
