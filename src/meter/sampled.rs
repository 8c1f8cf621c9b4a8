//! Meters made of energy counters that a sampler reads: RAPL's and the modelled one.

use super::integrate::derived_power;
use super::recording::Meter;
use super::sampler::{Sampler, Source};
use crate::clock::Clock;
use crate::error::Result;
use crate::record::{Domain, MeterInfo, SourceInfo, Trace};
use crate::units::Seconds;

/// Averaging time of the power that figures show: over 10 ms scheduling makes it jump between 0 and full load.
const POWER_SPACING: Seconds = Seconds(0.05);

/// A meter of counters, with power derived from them for figures.
pub struct Sampled {
    info: MeterInfo,
    sampler: Sampler,
}

/// Counters of the processor that are recorded in addition to another meter's sources, and aren't charged.
pub struct HostSources {
    /// One for each counter that moves, such as `package-0`.
    pub domains: Vec<Domain>,
    /// What each can do, as measured now.
    pub infos: Vec<SourceInfo>,
    /// What is sampled: one for each entry of `domains`.
    pub sources: Vec<Source>,
}

impl Sampled {
    pub(super) fn new(info: MeterInfo, sources: Vec<Source>, clock: &Clock) -> Self {
        Self { info, sampler: Sampler::new(sources, clock.clone()) }
    }

    /// With further notes for the reader.
    pub(super) fn noting(mut self, notes: Vec<String>) -> Self {
        self.info.notes.extend(notes);
        self
    }
}

impl Meter for Sampled {
    fn info(&self) -> &MeterInfo {
        &self.info
    }

    fn start(&mut self) -> Result<()> {
        self.sampler.start()
    }

    fn stop(&mut self) -> Result<Trace> {
        let mut trace = self.sampler.stop()?;
        let power: Vec<_> = trace.sources.iter().map(|counter| derived_power(counter, POWER_SPACING)).collect();
        trace.sources.extend(power);
        Ok(trace)
    }
}
