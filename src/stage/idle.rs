//! Idle: the baseline before and after a model's trials, and waiting.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::meter::conditions::conditions;
use crate::meter::integrate::{mean_power, window_energy};
use crate::meter::{self, Edge, Meter};
use crate::record::{IdleBaseline, MeterInfo, Protocol, Trace};
use crate::units::Seconds;

/// An idle baseline is cut into this many parts: their spread shows how well its mean is known.
const SEGMENTS: usize = 5;

/// Power without work, with the model loaded, after a rest for clocks to settle; `None` if the protocol has no baseline
/// or nothing could be measured.
///
/// # Errors
/// The meter fails.
pub fn idle_baseline(
    meter: &mut dyn Meter,
    clock: &Clock,
    protocol: &Protocol,
    stop: &AtomicBool,
) -> Result<Option<IdleBaseline>> {
    let duration = protocol.idle_s;
    if duration.0 <= 0.0 {
        return Ok(None);
    }
    idle(clock, protocol.settle_s, stop)?;
    let ((t0, t1), trace) = meter::recording(meter, |meter| {
        meter.edge(Edge::Soon);
        idle(clock, protocol.guard_s, stop)?;
        let t0 = clock.now();
        meter.edge(Edge::Passed);
        idle(clock, duration, stop)?;
        let t1 = clock.now();
        meter.edge(Edge::Passed);
        idle(clock, protocol.guard_s, stop)?;
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
pub(super) fn idle(clock: &Clock, duration: Seconds, stop: &AtomicBool) -> Result<()> {
    const SLICE: f64 = 0.1;
    let end = clock.now() + duration;
    while (end - clock.now()).0 > 0.0 {
        check_stop(stop)?;
        clock.idle(Seconds((end - clock.now()).0.min(SLICE)));
    }
    Ok(())
}

/// Gives up if the user asked to stop.
pub(super) fn check_stop(stop: &AtomicBool) -> Result<()> {
    if stop.load(Ordering::Relaxed) { Err(Error::interrupted()) } else { Ok(()) }
}
