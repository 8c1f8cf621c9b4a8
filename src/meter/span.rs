//! One long piece of work measured as a single window, such as training a model or labelling data.
//!
//! A sweep repeats short windows and compares them. Here the work runs once, for seconds to hours, and everything that
//! it took is charged to it, warming up included.
//!
//! Memory stays bounded however long the work takes: the [sampler](super::sampler) keeps at most
//! `CAPACITY` readings of a source (1 MiB) and drops every second one when they are full. A
//! counter loses nothing by it. A GPU's power samples, 20 ms apart, cover a window fully up to about 85 minutes; beyond
//! that they are more than 100 ms apart, and the warning `coverage_too_low` says that the second source has gaps.
//! Where such work is split into stages (`stages`), the counter is read closely at each mark as well: with its
//! tick right after the mark, what it moves until then is all that can go to the wrong stage.

use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use super::conditions::conditions;
use super::findings::Findings;
use super::integrate::{mean_power, window_energy};
use super::recording::{Meter, recording};
use super::sampler::Edge;
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::record::{Conditions, IdleBaseline, MeterInfo, Trace, Validity, WindowEnergy};
use crate::units::Seconds;
use crate::validity::{self, Work};

/// An idle baseline is cut into this many parts: their spread shows how well its mean is known.
const SEGMENTS: usize = 5;
/// Clocks of an idle GPU fall within a second or two.
const SETTLE: Seconds = Seconds(3.0);

/// A piece of work as it was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Span {
    /// From start to end of the work, without the meter's rests around it.
    pub duration_s: Seconds,
    /// Gross energy by both sources, with their residual.
    pub energy: WindowEnergy,
    /// Power without the work, if it was measured before it.
    pub(crate) idle: Option<IdleBaseline>,
    /// One entry for each GPU.
    pub(crate) conditions: Vec<Conditions>,
    /// Never warns of `TemperatureDrift`: here warming up is part of the work.
    pub validity: Validity,
}

/// How an idle baseline is taken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rest {
    /// Time for clocks to settle before it.
    pub(crate) settle_s: Seconds,
    /// Time at each edge in which the source ticks.
    pub(crate) guard_s: Seconds,
    /// How long power is averaged; 0 for no baseline.
    pub(crate) duration_s: Seconds,
}

impl Rest {
    /// What a meter needs.
    pub fn of(meter: &MeterInfo) -> Self {
        let settle_s = if meter.gpus.is_empty() { Seconds(0.0) } else { SETTLE };
        Self { settle_s, guard_s: meter.guard_s, duration_s: meter.idle_s }
    }
}

/// A piece of work that ran from `t0` to `t1`, with the meter's readings from before to after it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Recorded {
    pub(crate) t0: Seconds,
    pub(crate) t1: Seconds,
    pub(crate) trace: Trace,
}

/// Runs `work` once and measures all of it; its result, and what it took.
///
/// The meter rests for its guard time before and after the work, so that a counter's ticks next to both edges are
/// known. `idle` is recorded with the span and changes nothing in its gross energy.
///
/// # Errors
/// The work's error, or else the meter's.
pub fn measure<T>(
    meter: &mut dyn Meter,
    clock: &Clock,
    idle: Option<IdleBaseline>,
    work: impl FnOnce() -> Result<T>,
) -> Result<(T, Span)> {
    let (value, recorded) = record(meter, clock, |_| work())?;
    Ok((value, Span::of(&recorded, meter.info(), idle)))
}

/// Runs `work` once while the meter records, with the same rests; `work` announces to the meter each instant at which
/// it is to be split ([`Edge::Passed`]), since only the ticks that are read closely are known well.
///
/// # Errors
/// The work's error, or else the meter's.
pub(crate) fn record<T>(
    meter: &mut dyn Meter,
    clock: &Clock,
    work: impl FnOnce(&mut dyn Meter) -> Result<T>,
) -> Result<(T, Recorded)> {
    let guard = meter.info().guard_s;
    let ((value, t0, t1), trace) = recording(meter, |meter| {
        meter.edge(Edge::Soon);
        clock.idle(guard);
        let t0 = clock.now();
        meter.edge(Edge::Passed);
        let value = work(meter)?;
        let t1 = clock.now();
        meter.edge(Edge::Passed);
        clock.idle(guard);
        Ok((value, t0, t1))
    })?;
    Ok((value, Recorded { t0, t1, trace }))
}

impl Span {
    /// What recorded work took.
    pub(crate) fn of(recorded: &Recorded, info: &MeterInfo, idle: Option<IdleBaseline>) -> Self {
        let Recorded { t0, t1, trace } = recorded;
        let work = Work { t0: *t0, t1: *t1, ..Work::default() };
        let Findings { energy, conditions, validity, .. } = Findings::of(trace, info, &work, idle.as_ref());
        Self { duration_s: *t1 - *t0, energy, idle, conditions, validity: validity::of_single_work(validity) }
    }
}

/// Power without work, after a rest for clocks to settle; `None` if none is asked for or nothing was measured.
///
/// # Errors
/// The meter fails, or `stop` was set.
pub fn idle_baseline(
    meter: &mut dyn Meter,
    clock: &Clock,
    rest: Rest,
    stop: &AtomicBool,
) -> Result<Option<IdleBaseline>> {
    if rest.duration_s.0 <= 0.0 {
        return Ok(None);
    }
    wait(clock, rest.settle_s, stop)?;
    let ((t0, t1), trace) = recording(meter, |meter| {
        meter.edge(Edge::Soon);
        wait(clock, rest.guard_s, stop)?;
        let t0 = clock.now();
        meter.edge(Edge::Passed);
        wait(clock, rest.duration_s, stop)?;
        let t1 = clock.now();
        meter.edge(Edge::Passed);
        wait(clock, rest.guard_s, stop)?;
        Ok((t0, t1))
    })?;
    Ok(baseline(&trace, meter.info(), t0, t1))
}

fn baseline(trace: &Trace, info: &MeterInfo, t0: Seconds, t1: Seconds) -> Option<IdleBaseline> {
    let total = window_energy(trace, info, t0, t1).total_j?;
    let part = (t1 - t0) * (1.0 / SEGMENTS as f64);
    let segment = |index| mean_power(trace, info, t0 + part * f64::from(index), t0 + part * f64::from(index + 1));
    let segments_w: Option<Vec<_>> = (0..SEGMENTS as u32).map(segment).collect();
    let temperatures = conditions(trace, info, t0, t1).into_iter().filter_map(|gpu| gpu.temperature_end_c);
    Some(IdleBaseline {
        power_w: total / (t1 - t0),
        duration_s: t1 - t0,
        segments_w: segments_w.unwrap_or_default(),
        temperature_c: temperatures.reduce(f64::max),
    })
}

/// Waits in slices, so that an interruption is obeyed.
///
/// # Errors
/// `stop` was set.
pub(crate) fn wait(clock: &Clock, duration: Seconds, stop: &AtomicBool) -> Result<()> {
    const SLICE: f64 = 0.1;
    let end = clock.now() + duration;
    while (end - clock.now()).0 > 0.0 {
        if stop.load(Ordering::Relaxed) {
            return Err(Error::interrupted());
        }
        clock.idle(Seconds((end - clock.now()).0.min(SLICE)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SimulatedDevice;
    use crate::meter::{MeterOptions, open};
    use crate::record::{EnergyMethod, MeterChoice};
    use crate::units::{Joules, Watts};

    fn simulated() -> (SimulatedDevice, Clock, Box<dyn Meter>) {
        let device = SimulatedDevice::new(Watts(60.0));
        let clock = Clock::Simulated(device.clone());
        let meter = open(MeterChoice::Auto, &MeterOptions::default(), &clock).unwrap();
        (device, clock, meter)
    }

    #[test]
    fn a_long_piece_of_work_is_charged_exactly_what_it_took() {
        let (device, clock, mut meter) = simulated();
        let rest = Rest { duration_s: Seconds(2.0), ..Rest::of(meter.info()) };
        let idle = idle_baseline(&mut *meter, &clock, rest, &AtomicBool::new(false)).unwrap();
        let (value, span) = measure(&mut *meter, &clock, idle, || {
            for _ in 0..3600 {
                device.spend(Seconds(1.0), Watts(300.0));
            }
            Ok(7)
        })
        .unwrap();
        assert_eq!((value, span.duration_s), (7, Seconds(3600.0)));
        assert_eq!(span.energy.method, Some(EnergyMethod::Simulated));
        assert!((span.energy.total_j.unwrap() - Joules(300.0 * 3600.0)).0.abs() < 1e-6);
        assert!((span.idle.unwrap().power_w - Watts(60.0)).0.abs() < 1e-9);
        assert_eq!(span.validity, Validity::default());
    }

    #[test]
    fn work_that_fails_gives_its_own_error_and_leaves_the_meter_usable() {
        let (device, clock, mut meter) = simulated();
        let failed = measure::<()>(&mut *meter, &clock, None, || Err(Error::new("the loss isn't a number")));
        assert_eq!(failed.unwrap_err().message(), "the loss isn't a number");
        let again = measure(&mut *meter, &clock, None, || {
            device.spend(Seconds(10.0), Watts(100.0));
            Ok(())
        });
        assert!((again.unwrap().1.energy.total_j.unwrap() - Joules(1000.0)).0.abs() < 1e-6);
    }

    #[test]
    fn an_interruption_ends_the_rest_before_an_idle_baseline() {
        let (_, clock, mut meter) = simulated();
        let rest = Rest { settle_s: Seconds(3.0), guard_s: Seconds(0.0), duration_s: Seconds(2.0) };
        let stopped = idle_baseline(&mut *meter, &clock, rest, &AtomicBool::new(true));
        assert_eq!(stopped.unwrap_err().message(), "interrupted");
    }
}
