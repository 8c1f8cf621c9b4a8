//! Energy and temperature of one cycle of work among many, from a recording that may still be going on.

use super::conditions::mean_over;
use super::integrate::window_energy;
use crate::record::{Cycle, MeterInfo, Quantity, SourceTrace, Trace};
use crate::units::Seconds;

/// A tick that comes late comes within so many of its nominal lengths, a reading that shows it included.
const TICKS: f64 = 1.3;

/// Whether the readings of all charged domains go so far past `t` that the energy up to it is known: past the tick of the
/// counter that comes after it.
pub(crate) fn reaches(trace: &Trace, info: &MeterInfo, t: Seconds) -> bool {
    let past = |source: &SourceTrace, t: Seconds| source.samples.last().is_some_and(|sample| sample.t >= t);
    let of_domain = |name: &str| {
        let find = |quantity| trace.find(name, quantity);
        let counter = find(Quantity::EnergyCounter);
        let fine = find(Quantity::Power).or_else(|| find(Quantity::PowerUsage));
        let tick = counter.and_then(|counter| counter.tick).unwrap_or_default() * TICKS;
        let counted = counter.is_none_or(|counter| past(counter, t + tick));
        counted && fine.or(counter).is_some_and(|source| past(source, t + source.lag))
    };
    info.domains.iter().all(|domain| of_domain(&domain.name))
}

/// What a cycle of work between two instants took; `None` if a charged domain has no energy.
pub(crate) fn cycle(trace: &Trace, info: &MeterInfo, began: Seconds, ended: Seconds) -> Option<Cycle> {
    let duration_s = ended - began;
    let hottest = |quantity| {
        let of_domain = |name: &str| mean_over(trace.find(name, quantity)?, began, ended);
        info.domains.iter().filter_map(|domain| of_domain(&domain.name)).reduce(f64::max)
    };
    Some(Cycle {
        t_s: began + duration_s * 0.5,
        duration_s,
        energy_j: window_energy(trace, info, began, ended).total_j?,
        temperature_c: hottest(Quantity::Temperature),
        memory_temperature_c: hottest(Quantity::MemoryTemperature),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::fixtures::{self, source};
    use crate::units::Joules;

    #[test]
    fn a_cycle_is_known_once_the_samples_of_all_gpus_go_past_its_end() {
        let power = |domain: &str, until: u32| {
            let samples: Vec<_> = (0..=until).map(|i| (f64::from(i) * 0.5, 300.0)).collect();
            source(domain, Quantity::Power, &samples)
        };
        let info = fixtures::info(&["gpu0", "gpu1"]);
        let trace = Trace {
            sources: vec![
                power("gpu0", 10),
                power("gpu1", 6),
                source("gpu0", Quantity::Temperature, &[(0.0, 40.0), (1.0, 45.0), (1.5, 47.0), (2.5, 60.0)]),
                source("gpu1", Quantity::Temperature, &[(0.0, 41.0), (1.0, 44.0), (2.0, 46.0)]),
            ],
        };
        assert!(reaches(&trace, &info, Seconds(3.0)) && !reaches(&trace, &info, Seconds(3.1)));
        let found = cycle(&trace, &info, Seconds(1.0), Seconds(2.0)).unwrap();
        assert_eq!((found.energy_j, found.duration_s, found.t_s), (Joules(600.0), Seconds(1.0), Seconds(1.5)));
        assert_eq!((found.temperature_c, found.memory_temperature_c), (Some(46.0), None), "of the hottest, on average");
    }
}
