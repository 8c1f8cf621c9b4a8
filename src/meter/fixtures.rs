//! A meter and its sources for tests of code that works on traces.

use crate::record::{Domain, EnergyMethod, MeterInfo, Quantity, Sample, SourceTrace};
use crate::units::Seconds;

/// A meter of these domains that needs no shortest window.
pub(crate) fn info(domains: &[&str]) -> MeterInfo {
    let domain = |name: &&str| Domain { name: (*name).into(), description: String::new() };
    MeterInfo {
        name: "test".into(),
        method: EnergyMethod::Counter,
        domains: domains.iter().map(domain).collect(),
        tick_s: None,
        min_window_s: Seconds(0.0),
        guard_s: Seconds(0.0),
        idle_s: Seconds(1.0),
        notes: vec![],
        host_domains: vec![],
        sensing_period_s: None,
        sources: vec![],
        gpus: vec![],
    }
}

/// Readings (second, value) of a source that states no tick.
pub(crate) fn source(domain: &str, quantity: Quantity, samples: &[(f64, f64)]) -> SourceTrace {
    SourceTrace {
        domain: domain.into(),
        quantity,
        method: EnergyMethod::PowerIntegral,
        tick: None,
        lag: Seconds(0.0),
        samples: samples.iter().map(|&(t, value)| Sample { t: Seconds(t), value }).collect(),
    }
}
