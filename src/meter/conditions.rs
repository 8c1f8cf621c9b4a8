//! The state of the GPUs during a window: a pure function of a [`Trace`].

use std::collections::BTreeMap;

use crate::record::{ClockEvent, Conditions, MeterInfo, Quantity, SourceTrace, Trace};
use crate::units::Seconds;

/// Temperatures at a window's start and end are averaged over so many seconds: a die's follows its power within a fraction of
/// a second, by 8 °C from prefill to decode on an H100, so that a single reading says which of them it met.
const EDGE: Seconds = Seconds(2.0);

/// The state of each GPU of `info` between `t0` and `t1`.
pub fn conditions(trace: &Trace, info: &MeterInfo, t0: Seconds, t1: Seconds) -> Vec<Conditions> {
    info.gpus.iter().map(|gpu| conditions_of(trace, &gpu.domain, t0, t1)).collect()
}

fn conditions_of(trace: &Trace, domain: &str, t0: Seconds, t1: Seconds) -> Conditions {
    let values = |quantity| trace.find(domain, quantity).map_or_else(Vec::new, |source| inside(source, t0, t1));
    let clocks = values(Quantity::SmClock);
    let end = EDGE.0.min((t1 - t0).0 / 2.0);
    let at_start = |quantity| mean_over(trace.find(domain, quantity)?, t0, t0 + Seconds(end));
    let at_end = |quantity| mean_over(trace.find(domain, quantity)?, t1 - Seconds(end), t1);
    let highest = |values: &[f64]| values.iter().copied().reduce(f64::max);
    Conditions {
        domain: domain.to_owned(),
        temperature_start_c: at_start(Quantity::Temperature),
        temperature_end_c: at_end(Quantity::Temperature),
        memory_temperature_start_c: at_start(Quantity::MemoryTemperature),
        memory_temperature_end_c: at_end(Quantity::MemoryTemperature),
        sm_clock_mhz: mean(&clocks),
        sm_clock_min_mhz: clocks.iter().copied().reduce(f64::min),
        memory_clock_mhz: mean(&values(Quantity::MemoryClock)),
        performance_state: highest(&values(Quantity::PerformanceState)).map(|state| state as u32),
        clock_events: residency(&values(Quantity::ClockEvents)),
        foreign_processes: highest(&values(Quantity::ForeignProcesses)).map(|count| count as u32),
        busy: mean(&values(Quantity::Utilisation)),
    }
}

/// Mean of the readings between two instants, with the one in force at the first; `None` without a reading by then.
pub(super) fn mean_over(source: &SourceTrace, from: Seconds, to: Seconds) -> Option<f64> {
    mean(&inside(source, from, to))
}

/// The readings inside the window, with the last one before it: that one was in force when it began.
fn inside(source: &SourceTrace, t0: Seconds, t1: Seconds) -> Vec<f64> {
    let from = source.samples.partition_point(|sample| sample.t <= t0).saturating_sub(1);
    let to = source.samples.partition_point(|sample| sample.t <= t1);
    source.samples.get(from..to).unwrap_or_default().iter().map(|sample| sample.value).collect()
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Share of the readings in which each event was active.
fn residency(readings: &[f64]) -> BTreeMap<ClockEvent, f64> {
    let share = |bit: u64| {
        let active = readings.iter().filter(|value| **value as u64 & bit != 0).count();
        active as f64 / readings.len() as f64
    };
    let shares = ClockEvent::BITS.into_iter().map(|(bit, event)| (event, share(bit)));
    shares.filter(|(_, share)| *share > 0.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::fixtures::source;

    #[test]
    fn conditions_are_those_of_the_window_and_what_was_in_force_when_it_began() {
        let temperature = source("gpu0", Quantity::Temperature, &[(0.0, 40.0), (1.0, 50.0), (2.0, 52.0), (9.0, 70.0)]);
        let events =
            source("gpu0", Quantity::ClockEvents, &[(0.0, 1.0), (1.0, 4.0), (1.5, 4.0), (2.0, 36.0), (2.5, 0.0)]);
        let trace = Trace { sources: vec![temperature, events] };
        let seen = conditions_of(&trace, "gpu0", Seconds(1.2), Seconds(3.0));
        assert_eq!((seen.temperature_start_c, seen.temperature_end_c), (Some(51.0), Some(52.0)), "over its two halves");
        let expected = [(ClockEvent::SoftwarePowerCap, 0.75), (ClockEvent::SoftwareThermal, 0.25)];
        assert_eq!(seen.clock_events, expected.into_iter().collect());
        assert_eq!(seen.foreign_processes, None, "what can't be read is unknown, not none");
    }
}
