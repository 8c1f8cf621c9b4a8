//! The energy of a window over all domains, from counters and power samples together.

use super::counter::{self, counter_energy};
use super::ept_bench::ept_bench_sum;
use super::power::{PowerIntegral, power_energy};
use crate::record::{
    Domain, DomainEnergy, EnergyMethod, MemoryEnergy, MeterInfo, Quantity, SourceTrace, Trace, WindowEnergy,
};
use crate::units::{Joules, Seconds, Watts};
use crate::validity::{CounterFault, Evidence, PowerEvidence};

/// Length in seconds of the average that is shifted by half of it: where in it an edge lies isn't known.
const AVERAGED: f64 = 1.0;
/// Counter and ring rest on the same sensor: they agreed to 0.05 % over 7.5 s of steady load, and to 0.3 % over seconds
/// with edges (H100, driver 580). A residual of this size says nothing.
const FINE_AGREES: f64 = 0.001;
/// The same of a value that is polled ten times a second: 0.5 % over 7.5 s of steady load.
const COARSE_AGREES: f64 = 0.005;
/// Power samples are coarse if they are further apart than this.
const COARSE: Seconds = Seconds(0.05);

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
    let mut energy = combine(&readings, t1 - t0);
    energy.memory = memory_energy(trace, info, t0, t1);
    let sum = |domain: &Domain| ept_bench_sum(trace.find(&domain.name, Quantity::PowerUsage)?, t0, t1);
    energy.ept_bench_sum_j = info.domains.iter().map(sum).sum();
    // domains that aren't charged are left out if unknown, and make no window invalid
    energy.host = info.host_domains.iter().filter_map(|domain| Reading::of(trace, domain, t0, t1).energy()).collect();
    (energy, readings.iter().map(|reading| reading.evidence(t1 - t0)).collect())
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
    energy: Result<counter::Counted, CounterFault>,
}

#[derive(Debug, Clone, Copy)]
struct Power {
    method: EnergyMethod,
    integral: PowerIntegral,
    /// Averages of the last second.
    averaged: bool,
    coarse: bool,
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
            (Some(counter), _) => (counter.method, counter.energy.ok()?.energy),
            (None, Some(power)) => (power.method, power.integral.energy),
            (None, None) => return None,
        };
        let integral_j = self.power.map(|power| power.integral.energy);
        let residual = residual(Some(energy_j), integral_j).filter(|_| self.counter.is_some());
        Some(DomainEnergy { domain: self.domain.to_owned(), energy_j, method, integral_j, residual })
    }

    /// How closely the edges of the window are known by the counter's ticks.
    fn edges(&self) -> Option<(Seconds, Seconds)> {
        self.counter?.energy.ok()?.edges
    }

    /// What the resolution of both sources explains of their residual: one standard deviation, as a share.
    fn residual_sd(&self, duration: Seconds) -> Option<f64> {
        let power = self.power.filter(|_| self.counter.is_some())?;
        let (start, end) = self.edges().unwrap_or_default();
        // a tick is equally likely anywhere within ± h: its standard deviation is h/√3
        let counter = start.0.hypot(end.0) / 3.0f64.sqrt() / duration.0;
        // a window's edge can lie anywhere between two samples, in each of which power may be another
        let averaged = if power.averaged { AVERAGED } else { 0.0 };
        let edges = averaged * (2.0f64 / 12.0).sqrt() / duration.0;
        let agree = if power.coarse { COARSE_AGREES } else { FINE_AGREES };
        Some(counter.hypot(power.integral.resolution).hypot(edges).hypot(agree))
    }

    fn evidence(&self, duration: Seconds) -> Evidence {
        Evidence {
            edges: self.edges(),
            residual: self.energy().and_then(|energy| energy.residual),
            residual_sd: self.residual_sd(duration),
            counter: self.counter.map(|counter| counter.energy.map(drop)),
            power: self
                .power
                .map(|power| PowerEvidence { coverage: power.integral.coverage, averaged: power.averaged }),
        }
    }
}

impl Power {
    fn of(source: &SourceTrace, t0: Seconds, t1: Seconds) -> Option<Self> {
        let integral = power_energy(source, t0, t1)?;
        let coarse = source.tick.is_some_and(|tick| tick > COARSE);
        Some(Self { method: source.method, integral, averaged: source.lag > Seconds(0.0), coarse })
    }
}

/// Power that was computed from a counter carries the counter's method: it can't confirm that counter.
fn is_independent(source: &SourceTrace) -> bool {
    source.quantity == Quantity::EnergyCounter
        || matches!(source.method, EnergyMethod::PowerIntegral | EnergyMethod::Simulated)
}

fn combine(readings: &[Reading], duration: Seconds) -> WindowEnergy {
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
        max_gap_s: powers.iter().map(|power| power.max_gap).reduce(worse),
        tick_s: readings.iter().filter_map(|reading| reading.counter?.tick).reduce(worse),
        residual_sd: total_j.and_then(|total| total_sd(readings, total, duration)),
        edges_s: readings.iter().filter_map(Reading::edges).reduce(|a, b| (worse(a.0, b.0), worse(a.1, b.1))),
        memory: None,
        ept_bench_sum_j: None,
        host: Vec::new(),
        domains,
    }
}

/// The standard deviation of the residual of the sum: those of the domains are independent.
fn total_sd(readings: &[Reading], total: Joules, duration: Seconds) -> Option<f64> {
    let of_domain = |reading: &Reading| Some(reading.residual_sd(duration)? * reading.energy()?.energy_j.0);
    let squares: Option<f64> = readings.iter().map(|reading| of_domain(reading).map(|joules| joules * joules)).sum();
    squares.filter(|_| total.0 > 0.0).map(|squares| squares.sqrt() / total.0)
}

fn worse(a: Seconds, b: Seconds) -> Seconds {
    if a < b { b } else { a }
}

/// Energy of the memory of all GPUs, where each gives its power; the samples cover as much as those of the worst.
fn memory_energy(trace: &Trace, info: &MeterInfo, t0: Seconds, t1: Seconds) -> Option<MemoryEnergy> {
    let of_domain = |domain: &Domain| power_energy(trace.find(&domain.name, Quantity::MemoryPower)?, t0, t1);
    let all: Vec<PowerIntegral> = info.domains.iter().map(of_domain).collect::<Option<_>>()?;
    Some(MemoryEnergy {
        energy_j: all.iter().map(|memory| memory.energy).sum(),
        coverage: all.iter().map(|memory| memory.coverage).reduce(f64::min)?,
    })
}

/// (counter − integral) / counter.
fn residual(counter: Option<Joules>, integral: Option<Joules>) -> Option<f64> {
    let (counter, integral) = (counter?.0, integral?.0);
    (counter > 0.0).then(|| (counter - integral) / counter)
}
