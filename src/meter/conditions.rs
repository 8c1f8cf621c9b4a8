//! The state of the GPUs during a window, and its energy split into prefill and decode: pure functions of a [`Trace`].

use std::collections::BTreeMap;

use super::integrate::power_energy;
use crate::record::{
    ClockEvent, Conditions, DECODE, MeterInfo, PREFILL, PhaseSplit, Quantity, Sample, SourceTrace, Trace, WORK,
};
use crate::units::{Joules, Seconds};

/// Prefill has to last this long, on average, for samples of 20 ms to show its energy.
pub(crate) const SHORTEST_PREFILL: Seconds = Seconds(0.5);
/// Power samples have to be this close together for the same purpose.
const FINE: Seconds = Seconds(0.025);

/// The state of each GPU of `info` between `t0` and `t1`.
pub fn conditions(trace: &Trace, info: &MeterInfo, t0: Seconds, t1: Seconds) -> Vec<Conditions> {
    info.gpus.iter().map(|gpu| conditions_of(trace, &gpu.domain, t0, t1)).collect()
}

fn conditions_of(trace: &Trace, domain: &str, t0: Seconds, t1: Seconds) -> Conditions {
    let values = |quantity| trace.find(domain, quantity).map_or_else(Vec::new, |source| inside(source, t0, t1));
    let (temperatures, clocks) = (values(Quantity::Temperature), values(Quantity::SmClock));
    let memory = values(Quantity::MemoryTemperature);
    let highest = |values: &[f64]| values.iter().copied().reduce(f64::max);
    Conditions {
        domain: domain.to_owned(),
        temperature_start_c: temperatures.first().copied(),
        temperature_end_c: temperatures.last().copied(),
        memory_temperature_start_c: memory.first().copied(),
        memory_temperature_end_c: memory.last().copied(),
        sm_clock_mhz: mean(&clocks),
        sm_clock_min_mhz: clocks.iter().copied().reduce(f64::min),
        memory_clock_mhz: mean(&values(Quantity::MemoryClock)),
        performance_state: highest(&values(Quantity::PerformanceState)).map(|state| state as u32),
        clock_events: residency(&values(Quantity::ClockEvents)),
        foreign_processes: highest(&values(Quantity::ForeignProcesses)).map(|count| count as u32),
    }
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

/// Prefill and decode of the batches between `t0` and `t1`, from power samples; `decode_steps` counts the steps after
/// each batch's first tokens.
///
/// `None` if the samples are too coarse, a domain has none, or prefill is too short for them.
pub(crate) fn phase_split(
    trace: &Trace,
    info: &MeterInfo,
    t0: Seconds,
    t1: Seconds,
    decode_steps: u64,
) -> Option<PhaseSplit> {
    let marks = &trace.find(WORK, Quantity::Phase)?.samples;
    let spans = |phase: f64| {
        let starts = |pair: &&[Sample]| pair[0].value == phase && pair[0].t >= t0 && pair[1].t <= t1;
        marks.windows(2).filter(starts).map(|pair| (pair[0].t, pair[1].t)).collect::<Vec<_>>()
    };
    let (prefill, decode) = (spans(PREFILL), spans(DECODE));
    let time = |spans: &[(Seconds, Seconds)]| Seconds(spans.iter().map(|(from, to)| (*to - *from).0).sum());
    if prefill.is_empty() || time(&prefill).0 / (prefill.len() as f64) < SHORTEST_PREFILL.0 {
        return None;
    }
    Some(PhaseSplit {
        prefill_j: energy_of(trace, info, &prefill)?,
        decode_j: energy_of(trace, info, &decode)?,
        prefill_s: time(&prefill),
        decode_s: time(&decode),
        decode_steps,
        lag_s: None,
    })
}

/// Energy of all domains over some spans, from power samples.
fn energy_of(trace: &Trace, info: &MeterInfo, spans: &[(Seconds, Seconds)]) -> Option<Joules> {
    let of_domain = |name: &str| -> Option<Joules> {
        let source = trace.find(name, Quantity::Power)?;
        let fine = source.tick.is_none_or(|tick| tick <= FINE);
        let of_span = |(from, to): &(Seconds, Seconds)| Some(power_energy(source, *from, *to)?.energy);
        if fine { spans.iter().map(of_span).sum() } else { None }
    };
    info.domains.iter().map(|domain| of_domain(&domain.name)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::EnergyMethod;

    fn source(domain: &str, quantity: Quantity, samples: &[(f64, f64)]) -> SourceTrace {
        SourceTrace {
            domain: domain.into(),
            quantity,
            method: EnergyMethod::PowerIntegral,
            tick: None,
            lag: Seconds(0.0),
            samples: samples.iter().map(|&(t, value)| Sample { t: Seconds(t), value }).collect(),
        }
    }

    #[test]
    fn conditions_are_those_of_the_window_and_what_was_in_force_when_it_began() {
        let temperature = source("gpu0", Quantity::Temperature, &[(0.0, 40.0), (1.0, 50.0), (2.0, 52.0), (9.0, 70.0)]);
        let events =
            source("gpu0", Quantity::ClockEvents, &[(0.0, 1.0), (1.0, 4.0), (1.5, 4.0), (2.0, 36.0), (2.5, 0.0)]);
        let trace = Trace { sources: vec![temperature, events] };
        let seen = conditions_of(&trace, "gpu0", Seconds(1.2), Seconds(3.0));
        assert_eq!((seen.temperature_start_c, seen.temperature_end_c), (Some(50.0), Some(52.0)));
        let expected = [(ClockEvent::SoftwarePowerCap, 0.75), (ClockEvent::SoftwareThermal, 0.25)];
        assert_eq!(seen.clock_events, expected.into_iter().collect());
        assert_eq!(seen.foreign_processes, None, "what can't be read is unknown, not none");
    }

    #[test]
    fn prefill_and_decode_are_split_at_the_first_token() {
        // two batches of 1 s prefill at 600 W and 2 s decode at 300 W, 100 W between them
        let marks = [(1.0, 1.0), (2.0, 2.0), (4.0, 0.0), (5.0, 1.0), (6.0, 2.0), (8.0, 0.0), (9.0, 0.0)];
        let watts = [(0.0, 100.0), (1.0, 100.0), (1.0, 600.0), (2.0, 600.0), (2.0, 300.0), (4.0, 300.0), (4.0, 100.0)];
        let again = watts.iter().skip(1).map(|(t, value)| (t + 4.0, *value));
        let power: Vec<_> = watts.iter().copied().chain(again).chain([(9.0, 100.0)]).collect();
        let trace =
            Trace { sources: vec![source(WORK, Quantity::Phase, &marks), source("gpu0", Quantity::Power, &power)] };
        let info = crate::meter::fixtures::info(&["gpu0"]);
        let split = phase_split(&trace, &info, Seconds(0.5), Seconds(9.0), 20).unwrap();
        assert_eq!((split.prefill_j, split.decode_j), (Joules(1200.0), Joules(1200.0)));
        assert_eq!((split.prefill_s, split.decode_s), (Seconds(2.0), Seconds(4.0)));
        let first = phase_split(&trace, &info, Seconds(0.5), Seconds(4.5), 10).unwrap();
        assert_eq!(first.prefill_j, Joules(600.0), "only batches inside the window");
    }
}
