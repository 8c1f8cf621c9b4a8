//! Everything that is known of a window: its energy, the conditions under which it was measured, and its validity.
//! Pure: the same from readings of a moment ago and from stored ones.

use super::conditions::conditions;
use super::integrate::window_evidence;
use super::phases::{decode_step, phase_split};
use crate::record::{Conditions, IdleBaseline, MeterInfo, PhaseSplit, Trace, Validity, WindowEnergy};
use crate::validity::{self, Facts, Work};

/// What is known of a window.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Findings {
    /// Gross energy between `t0` and `t1` of the work, the idle baseline not subtracted.
    pub energy: WindowEnergy,
    /// One entry for each GPU.
    pub conditions: Vec<Conditions>,
    /// Prefill and decode apart, if prefill lasts long enough for the power samples.
    pub phases: Option<PhaseSplit>,
    /// All reasons but `IdleDrift`, which needs the baseline after the window.
    pub validity: Validity,
}

impl Findings {
    /// The findings of the window in which `work` was done.
    pub fn of(trace: &Trace, info: &MeterInfo, work: &Work, idle: Option<&IdleBaseline>) -> Self {
        let (energy, evidence) = window_evidence(trace, info, work.t0, work.t1);
        let conditions = conditions(trace, info, work.t0, work.t1);
        let step = decode_step(trace, work.t0, work.t1, work.decode_steps).or(work.step);
        let work = &Work { step, ..*work };
        let facts = Facts { energy: &energy, evidence: &evidence, conditions: &conditions, meter: info, idle, work };
        let validity = validity::of_window(&facts);
        let phases = phase_split(trace, info, work.t0, work.t1, work.decode_steps);
        Self { energy, conditions, phases, validity }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::fixtures;
    use crate::record::{EnergyMethod, GpuInfo, Quantity, Reason, Sample, SourceTrace};
    use crate::units::{Seconds, Tokens, Watts};

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
        let mut info = fixtures::info(&["gpu0"]);
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
        Findings::of(&Trace { sources }, &info, &work, Some(&idle)).validity
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
                info.sensing_period_s = Some(Seconds(0.02));
                work.batches = batches;
            });
            validity.warnings == [Reason::PhaseLocked]
        };
        assert!(locked(500), "20 ms, as the sensor");
        assert!(locked(499), "20.04 ms: its phase goes around once in the window");
        assert!(locked(250) && locked(1000), "40 ms and 10 ms");
        assert!(!locked(496), "20.16 ms: it goes around four times");
        assert!(locked(100), "100 ms: it is always seen at the same five phases");
        assert!(!locked(40), "250 ms: twelve looks at each batch");
        assert!(!locked(5), "2 s");
    }

    #[test]
    fn decode_steps_in_step_with_the_sensor_are_a_warning_and_those_beside_its_rhythm_are_not() {
        // batches of 1 s: 100 ms of prefill, then 45 steps of 20 ms, or a little more or less
        let locked = |step: f64| {
            let marks = (0..12).map(f64::from).flat_map(|t| [(t, 1.0), (t + 1.0 - 45.0 * step, 2.0), (t + 1.0, 0.0)]);
            let marks: Vec<_> = marks.collect();
            let phases = SourceTrace { domain: "work".into(), ..source(Quantity::Phase, &marks) };
            let validity = judged(vec![phases], |info, work| {
                info.sensing_period_s = Some(Seconds(0.02));
                (work.batches, work.decode_steps) = (10, 450);
            });
            validity.warnings.contains(&Reason::PhaseLocked)
        };
        assert!(locked(0.02) && locked(0.01), "the sensor's rhythm and half of it");
        assert!(!locked(0.0195) && !locked(0.0172) && !locked(0.0094));
    }

    #[test]
    fn work_that_is_not_steady_or_does_not_repeat_is_a_warning() {
        assert_eq!(judged(vec![], |_, work| work.unsteady = true).warnings, [Reason::NotSteady]);
        let differs = judged(vec![], |_, work| work.outputs_differ = true);
        assert_eq!((differs.is_valid(), differs.warnings), (true, vec![Reason::NondeterministicOutput]));
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
