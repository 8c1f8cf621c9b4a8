//! A meter for tests of code that works on traces.

use crate::record::{Domain, EnergyMethod, MeterInfo};
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
