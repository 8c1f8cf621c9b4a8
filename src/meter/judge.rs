//! A window whole: its energy, the conditions under which it was taken, and what speaks against it. Pure: the same from
//! readings of a moment ago and from stored ones.

use super::conditions::{conditions, phase_split};
use super::integrate::window_energy;
use crate::record::{Conditions, IdleBaseline, MeterInfo, PhaseSplit, Reason, Trace, Validity, WindowEnergy};
use crate::units::{Seconds, Tokens};

/// A GPU that warms by more over a window leaks noticeably more at its end than at its start.
const TEMPERATURE_DRIFT: f64 = 3.0;
/// Fewer batches than this can't lock on to anything.
const LOCK_AT_LEAST: u32 = 10;
/// The sensor looks for a quarter of its period: work that repeats faster is averaged by it.
const SENSING_SHARE: f64 = 0.25;
/// Batches longer than this many sensing periods are covered by many senses each.
const LONGEST_LOCKED: f64 = 10.0;
/// Weights that may stay in a GPU's cache from one step to the next, in bytes: more than any has.
const CACHE: f64 = 128e6;

/// What is to be known of the work in a window to judge it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Work {
    /// Start.
    pub t0: Seconds,
    /// End.
    pub t1: Seconds,
    /// Batches in the window.
    pub batches: u32,
    /// Decoding steps after the first token of each batch, over all batches.
    pub decode_steps: u64,
    /// Tokens that were generated.
    pub tokens_out: Tokens,
    /// Sequences decoded together, at most.
    pub batch_size: usize,
    /// Bytes of the weights that a decoding step reads.
    pub weight_bytes: Option<u64>,
}

/// What is known of a window.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Findings {
    /// Its energy.
    pub energy: WindowEnergy,
    /// What the GPUs were doing.
    pub conditions: Vec<Conditions>,
    /// Prefill and decode apart.
    pub phases: Option<PhaseSplit>,
    /// What speaks against it.
    pub validity: Validity,
}

/// Energy, conditions and validity of a window.
pub fn judge(trace: &Trace, info: &MeterInfo, work: &Work, idle: Option<&IdleBaseline>) -> Findings {
    let (energy, mut validity) = window_energy(trace, info, work.t0, work.t1);
    let conditions = conditions(trace, info, work.t0, work.t1);
    let Validity { invalid_reasons, warnings } = &mut validity;
    if conditions.iter().any(|gpu| gpu.foreign_processes.is_some_and(|others| others > 0)) {
        invalid_reasons.push(Reason::ForeignProcess);
    }
    if conditions.iter().any(|gpu| gpu.clock_events.keys().any(|event| event.invalidates())) {
        invalid_reasons.push(Reason::Throttled);
    }
    if is_impossible(&energy, info, work, idle) {
        invalid_reasons.push(Reason::PhysicallyImpossible);
    }
    if conditions.iter().any(warmed) {
        warnings.push(Reason::TemperatureDrift);
    }
    if is_phase_locked(info.sensing_period_s, work) {
        warnings.push(Reason::PhaseLocked);
    }
    if info.gpus.iter().any(|gpu| gpu.mig) {
        warnings.push(Reason::MigShared);
    }
    let phases = phase_split(trace, info, work.t0, work.t1, work.decode_steps);
    Findings { energy, conditions, phases, validity }
}

fn warmed(gpu: &Conditions) -> bool {
    let change = gpu.temperature_start_c.zip(gpu.temperature_end_c).map(|(start, end)| (end - start).abs());
    change.is_some_and(|change| change > TEMPERATURE_DRIFT)
}

/// Whether batches repeat so nearly in step with the sensor (or with a small multiple or part of its rhythm) that over the
/// whole window their phase shifts by less than half a period.
fn is_phase_locked(sensing: Option<Seconds>, work: &Work) -> bool {
    let Some(sensing) = sensing.filter(|period| period.0 > 0.0 && work.batches >= LOCK_AT_LEAST) else { return false };
    let period = (work.t1 - work.t0).0 / f64::from(work.batches) / sensing.0;
    let averaged = !(SENSING_SHARE..=LONGEST_LOCKED).contains(&period);
    let shifts_little = |multiple: u32| {
        let beats = period * f64::from(multiple);
        (beats - beats.round()).abs() * f64::from(work.batches / multiple) < 0.5 && beats.round() >= 1.0
    };
    !averaged && (1..=4).any(shifts_little)
}

/// Less energy for a token than what reading the weights once takes even at idle power: one step reads every weight and
/// makes at most one token for each sequence of the batch.
fn is_impossible(energy: &WindowEnergy, info: &MeterInfo, work: &Work, idle: Option<&IdleBaseline>) -> bool {
    let bandwidth: Option<f64> = info.gpus.iter().map(|gpu| gpu.bandwidth).sum();
    let bound = bandwidth.filter(|bytes| *bytes > 0.0).zip(work.weight_bytes).zip(idle);
    let (Some(((bandwidth, weights), idle)), Some(total)) = (bound, energy.total_j) else { return false };
    let step_s = (weights as f64 - CACHE).max(0.0) / bandwidth;
    let steps = work.tokens_out.get() as f64 / work.batch_size.max(1) as f64;
    total < idle.power_w * Seconds(step_s * steps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::integrate::tests_support;
    use crate::record::{EnergyMethod, GpuInfo, Quantity, Sample, SourceTrace};
    use crate::units::Watts;

    fn source(quantity: Quantity, samples: &[(f64, f64)]) -> SourceTrace {
        SourceTrace {
            domain: "gpu0".into(),
            quantity,
            method: EnergyMethod::Counter,
            tick: None,
            lag: Seconds(0.0),
            samples: samples.iter().map(|&(t, value)| Sample { t: Seconds(t), value }).collect(),
        }
    }

    /// Ten seconds at 300 W on a GPU of 3.35 TB/s, with something else to be seen.
    fn judged(further: Vec<SourceTrace>, change: impl FnOnce(&mut MeterInfo, &mut Work)) -> Validity {
        let counter: Vec<_> = (0..=120).map(|i| (f64::from(i) * 0.1, f64::from(i) * 30.0)).collect();
        let sources = std::iter::once(source(Quantity::EnergyCounter, &counter)).chain(further).collect();
        let mut info = tests_support::info(&["gpu0"]);
        info.gpus = vec![GpuInfo { domain: "gpu0".into(), bandwidth: Some(3.35e12), ..GpuInfo::default() }];
        let mut work = Work {
            t0: Seconds(1.0),
            t1: Seconds(11.0),
            batches: 7,
            tokens_out: Tokens(1000),
            batch_size: 1,
            weight_bytes: Some(16_000_000_000),
            ..Work::default()
        };
        change(&mut info, &mut work);
        let idle =
            IdleBaseline { power_w: Watts(100.0), duration_s: Seconds(20.0), segments_w: vec![], temperature_c: None };
        judge(&Trace { sources }, &info, &work, Some(&idle)).validity
    }

    #[test]
    fn a_quiet_window_is_valid_without_a_warning() {
        assert_eq!(judged(vec![], |_, _| ()), Validity::default());
    }

    #[test]
    fn another_process_on_the_gpu_makes_a_window_invalid() {
        let others = source(Quantity::ForeignProcesses, &[(0.5, 0.0), (5.0, 1.0)]);
        assert_eq!(judged(vec![others], |_, _| ()).invalid_reasons, [Reason::ForeignProcess]);
    }

    #[test]
    fn slowdowns_by_heat_or_hardware_make_a_window_invalid_and_the_power_cap_does_not() {
        for (bits, invalid) in [(0x8, true), (0x20, true), (0x40, true), (0x80, true), (0x4, false), (0x17, false)] {
            let events = source(Quantity::ClockEvents, &[(0.5, 0.0), (5.0, f64::from(bits)), (6.0, 0.0)]);
            let expected: &[Reason] = if invalid { &[Reason::Throttled] } else { &[] };
            assert_eq!(judged(vec![events], |_, _| ()).invalid_reasons, expected, "{bits:#x}");
        }
    }

    #[test]
    fn a_gpu_that_warms_by_more_than_three_degrees_is_a_warning() {
        let warming = |end| source(Quantity::Temperature, &[(0.5, 50.0), (9.0, end)]);
        assert_eq!(judged(vec![warming(54.0)], |_, _| ()).warnings, [Reason::TemperatureDrift]);
        assert_eq!(judged(vec![warming(53.0)], |_, _| ()), Validity::default());
    }

    #[test]
    fn batches_in_step_with_the_sensor_are_a_warning() {
        let locked = |batches| {
            let validity = judged(vec![], |info, work| {
                info.sensing_period_s = Some(Seconds(0.1));
                work.batches = batches;
            });
            validity.warnings == [Reason::PhaseLocked]
        };
        assert!(locked(100), "100 ms, as the sensor");
        assert!(locked(50), "200 ms");
        assert!(locked(200), "50 ms");
        assert!(!locked(93), "107.5 ms: seven periods of shift over the window");
        assert!(!locked(5), "2 s: every batch is seen twenty times");
        assert!(!locked(1000), "10 ms: shorter than the sensor looks");
    }

    #[test]
    fn a_gpu_split_by_mig_is_marked() {
        assert_eq!(judged(vec![], |info, _| info.gpus[0].mig = true).warnings, [Reason::MigShared]);
    }

    #[test]
    fn less_energy_than_reading_the_weights_takes_is_impossible() {
        // 16 GB at 3.35 TB/s take 4.7 ms, at 100 W 0.47 J a token; 3000 J are enough for 1000 tokens, not for 10 000
        assert!(judged(vec![], |_, work| work.tokens_out = Tokens(6000)).is_valid());
        let wrong = judged(vec![], |_, work| work.tokens_out = Tokens(10_000));
        assert_eq!(wrong.invalid_reasons, [Reason::PhysicallyImpossible]);
        let batched = judged(vec![], |_, work| (work.tokens_out, work.batch_size) = (Tokens(10_000), 8));
        assert!(batched.is_valid(), "a step makes a token for each sequence");
    }
}
