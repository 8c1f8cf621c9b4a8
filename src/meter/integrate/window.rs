//! The energy of a window over all domains, from counters and power samples together.

use super::counter::counter_energy;
use super::ept_bench::ept_bench_sum;
use super::power::{PowerIntegral, power_energy};
use crate::record::{Domain, DomainEnergy, EnergyMethod, MeterInfo, Quantity, SourceTrace, Trace, WindowEnergy};
use crate::units::{Joules, Seconds, Watts};
use crate::validity::{CounterFault, Evidence, PowerEvidence};

/// Gross energy between `t0` and `t1`: by the counter for each domain that has one, by integrated power for the others,
/// with the residual of the two if both are independent.
///
/// If a domain of `info` has no usable source the total is `None`: a sum without that domain would pass for the whole.
pub fn window_energy(trace: &Trace, info: &MeterInfo, t0: Seconds, t1: Seconds) -> WindowEnergy {
    window_evidence(trace, info, t0, t1).0
}

/// The same, and for each charged domain what its sources showed; nothing for an empty window.
pub(crate) fn window_evidence(
    trace: &Trace,
    info: &MeterInfo,
    t0: Seconds,
    t1: Seconds,
) -> (WindowEnergy, Vec<Evidence>) {
    if t1 <= t0 || info.domains.is_empty() {
        return (WindowEnergy::default(), Vec::new());
    }
    let readings: Vec<_> = info.domains.iter().map(|domain| Reading::of(trace, domain, t0, t1)).collect();
    let mut energy = combine(&readings);
    let sum = |domain: &Domain| ept_bench_sum(trace.find(&domain.name, Quantity::PowerUsage)?, t0, t1);
    energy.ept_bench_sum_j = info.domains.iter().map(sum).sum();
    // domains that aren't charged are left out if unknown, and make no window invalid
    energy.host = info.host_domains.iter().filter_map(|domain| Reading::of(trace, domain, t0, t1).energy()).collect();
    (energy, readings.iter().map(Reading::evidence).collect())
}

/// Mean power of all domains between `t0` and `t1`, by the sources that show more of short times: power samples if
/// there are any, else counters.
///
/// `None` if a domain has neither.
pub(crate) fn mean_power(trace: &Trace, info: &MeterInfo, t0: Seconds, t1: Seconds) -> Option<Watts> {
    let energy = |domain: &Domain| {
        let reading = Reading::of(trace, domain, t0, t1);
        reading.power.map(|power| power.integral.energy).or_else(|| Some(reading.energy()?.energy_j))
    };
    let total: Option<Joules> = info.domains.iter().map(energy).sum();
    total.map(|total| total / (t1 - t0))
}

/// The readings of one domain for a window.
struct Reading<'a> {
    domain: &'a str,
    counter: Option<Counted>,
    power: Option<Power>,
}

#[derive(Debug, Clone, Copy)]
struct Counted {
    method: EnergyMethod,
    tick: Option<Seconds>,
    energy: Result<Joules, CounterFault>,
}

#[derive(Debug, Clone, Copy)]
struct Power {
    method: EnergyMethod,
    integral: PowerIntegral,
    tick: Option<Seconds>,
    /// Averages of the last second.
    averaged: bool,
}

impl<'a> Reading<'a> {
    fn of(trace: &Trace, domain: &'a Domain, t0: Seconds, t1: Seconds) -> Self {
        let find = |quantity| trace.find(&domain.name, quantity).filter(|source| is_independent(source));
        let power = find(Quantity::Power).or_else(|| find(Quantity::PowerUsage));
        let counted = |source: &SourceTrace| Counted {
            method: source.method,
            tick: source.tick,
            energy: counter_energy(source, power, t0, t1),
        };
        Self {
            domain: &domain.name,
            counter: find(Quantity::EnergyCounter).map(counted),
            power: power.and_then(|source| Power::of(source, t0, t1)),
        }
    }

    fn energy(&self) -> Option<DomainEnergy> {
        let (method, energy_j) = match (&self.counter, &self.power) {
            (Some(counter), _) => (counter.method, counter.energy.ok()?),
            (None, Some(power)) => (power.method, power.integral.energy),
            (None, None) => return None,
        };
        let integral_j = self.power.map(|power| power.integral.energy);
        let residual = residual(Some(energy_j), integral_j).filter(|_| self.counter.is_some());
        Some(DomainEnergy { domain: self.domain.to_owned(), energy_j, method, integral_j, residual })
    }

    fn evidence(&self) -> Evidence {
        Evidence {
            counter: self.counter.map(|counter| counter.energy.map(drop)),
            power: self.power.map(|power| PowerEvidence {
                coverage: power.integral.coverage,
                tick: power.tick,
                averaged: power.averaged,
            }),
        }
    }
}

impl Power {
    fn of(source: &SourceTrace, t0: Seconds, t1: Seconds) -> Option<Self> {
        let integral = power_energy(source, t0, t1)?;
        Some(Self { method: source.method, integral, tick: source.tick, averaged: source.lag > Seconds(0.0) })
    }
}

/// Power that was computed from a counter carries the counter's method: it can't confirm that counter.
fn is_independent(source: &SourceTrace) -> bool {
    source.quantity == Quantity::EnergyCounter
        || matches!(source.method, EnergyMethod::PowerIntegral | EnergyMethod::Simulated)
}

fn combine(readings: &[Reading]) -> WindowEnergy {
    let domains: Vec<DomainEnergy> = readings.iter().filter_map(Reading::energy).collect();
    let complete = !domains.is_empty() && domains.len() == readings.len();
    let total_j = complete.then(|| domains.iter().map(|domain| domain.energy_j).sum());
    let powers: Vec<PowerIntegral> = readings.iter().filter_map(|reading| Some(reading.power?.integral)).collect();
    let integral_j =
        (!powers.is_empty() && powers.len() == readings.len()).then(|| powers.iter().map(|power| power.energy).sum());
    let has_counters = readings.iter().all(|reading| reading.counter.is_some());
    WindowEnergy {
        total_j,
        method: if complete { domains.iter().map(|domain| domain.method).max() } else { None },
        residual: residual(total_j, integral_j).filter(|_| has_counters),
        integral_j,
        coverage: powers.iter().map(|power| power.coverage).reduce(f64::min),
        max_gap_s: powers.iter().map(|power| power.max_gap).reduce(|a, b| if a < b { b } else { a }),
        tick_s: readings.iter().filter_map(|reading| reading.counter?.tick).reduce(|a, b| if a < b { b } else { a }),
        residual_sd: None,
        edges_s: None,
        memory: None,
        ept_bench_sum_j: None,
        host: Vec::new(),
        domains,
    }
}

/// (counter − integral) / counter.
fn residual(counter: Option<Joules>, integral: Option<Joules>) -> Option<f64> {
    let (counter, integral) = (counter?.0, integral?.0);
    (counter > 0.0).then(|| (counter - integral) / counter)
}
