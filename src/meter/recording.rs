//! A meter, and recording while work runs.

use super::sampler::Edge;
use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::record::{MeterInfo, Trace};
use crate::units::Seconds;

/// Something that records energy or power over time.
pub trait Meter {
    /// What it is and what it can do on this machine.
    fn info(&self) -> &MeterInfo;

    /// Starts recording. A recording in progress is dropped.
    ///
    /// Every source has been read once when this returns, so that a clock read after it lies inside the trace.
    ///
    /// # Errors
    /// The source can't be read.
    fn start(&mut self) -> Result<()>;

    /// Stops recording, after the next update of sources that tick, and returns the recording.
    ///
    /// # Errors
    /// The source failed while recording.
    fn stop(&mut self) -> Result<Trace>;

    /// Announces an approaching or passed window edge, for sources that are too costly to be read closely all the time.
    fn edge(&mut self, edge: Edge) {
        let _ = edge;
    }

    /// A copy of what the recording in progress has read since `from`, up to now.
    ///
    /// `None` if the meter's readings can't show whether work has become steady: a computed energy has no heat in it.
    fn so_far(&mut self, from: Seconds) -> Option<Trace> {
        let _ = from;
        None
    }
}

/// Records while `work` runs, so that no recording stays open when it fails; `work` may announce edges to the meter.
///
/// If the source ticks, the work should do guard work of its own at both edges: without it the tick after the window
/// falls into whatever follows.
///
/// # Errors
/// The work's error, or else the meter's.
pub fn recording<T>(meter: &mut dyn Meter, work: impl FnOnce(&mut dyn Meter) -> Result<T>) -> Result<(T, Trace)> {
    let failed = |why: Error| why.with_kind(Kind::Meter);
    meter.start().map_err(failed)?;
    let result = work(meter);
    let trace = meter.stop().map_err(failed);
    Ok((result?, trace?))
}

/// Records while `work` runs: the work's result, the instants right before and after it, and readings from before the
/// one to after the other.
///
/// # Errors
/// The work's error, or else the meter's.
pub fn during<T>(
    meter: &mut dyn Meter,
    clock: &Clock,
    work: impl FnOnce() -> Result<T>,
) -> Result<(T, Seconds, Seconds, Trace)> {
    let ((value, t0, t1), trace) = recording(meter, |meter| {
        meter.edge(Edge::Soon);
        let t0 = clock.now();
        let value = work()?;
        let t1 = clock.now();
        meter.edge(Edge::Passed);
        Ok((value, t0, t1))
    })?;
    Ok((value, t0, t1, trace))
}
