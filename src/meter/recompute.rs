//! Recomputes a stored window from its raw samples and its own numbers, by any of the methods, over the whole window or
//! a part of it. Pure: needs no device and no model.

use serde_json::Value;

use super::findings::Findings;
use crate::error::{Error, Result};
use crate::record::{Measurement, MeterInfo, Trace, WindowEnergy};
use crate::units::{Joules, Seconds, Tokens};
use crate::validity::{self, Work};
use crate::vocabulary::vocabulary;

vocabulary! {
    /// Which estimate of a window's energy is asked for.
    pub(crate) enum Method {
        /// The primary source: the energy counter; integrated power only if there is no counter.
        Counter = "counter", "primary source";
        /// The second source: the time integral of power by the trapezoid rule.
        Power = "power", "second source";
        /// `E_sum_J` of EPT-Bench: Σ Pᵢ·Δtᵢ over `power_usage` every 0.1 s, the last partial interval dropped.
        EptBench = "ept-bench" | "ept_bench", "EPT-Bench's sum";
    }
}

impl Method {
    /// The energy of a window by this method; `None` if its source has no readings for it.
    pub(crate) fn energy(self, window: &WindowEnergy) -> Option<Joules> {
        match self {
            Method::Counter => window.total_j,
            Method::Power => window.integral_j,
            Method::EptBench => window.ept_bench_sum_j,
        }
    }
}

/// Which part of a window is asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Cut {
    /// All of it.
    Whole,
    /// Without this long at both edges.
    Trim(Seconds),
    /// From and to these times after its start; `None`: from its start, to its end.
    Between(Option<Seconds>, Option<Seconds>),
}

impl Cut {
    /// The part of a window.
    ///
    /// # Errors
    /// Nothing is left, or the part would reach beyond the window: work of another kind may lie there.
    pub(crate) fn of(self, t0: Seconds, t1: Seconds) -> Result<(Seconds, Seconds)> {
        let (from, to) = match self {
            Cut::Whole => return Ok((t0, t1)),
            Cut::Trim(edge) => (t0 + edge, t1 - edge),
            Cut::Between(from, to) => (from.map_or(t0, |from| t0 + from), to.map_or(t1, |to| t0 + to)),
        };
        let length = (t1 - t0).get();
        if to > t1 {
            let message = format!("the window ends {length} s after its start, before the end that was asked for");
            return Err(Error::input(message).with_hint("choose an earlier `--to`, or leave it out"));
        }
        if from >= to {
            let message = format!("nothing is left of the window of {length} s");
            return Err(Error::input(message).with_hint("cut less off"));
        }
        Ok((from, to))
    }
}

/// A window as recomputed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Recomputed {
    /// Start.
    pub(crate) t0: Seconds,
    /// End.
    pub(crate) t1: Seconds,
    pub(crate) findings: Findings,
}

/// What is known of the work in a window from its record alone.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Known<'a> {
    pub(crate) measurement: &'a Measurement,
    /// Sequences decoded together.
    pub(crate) batch_size: usize,
    /// Bytes of the weights that a decode step reads.
    pub(crate) weight_bytes: Option<u64>,
}

/// Energy, conditions and validity of a stored window, or of a part of it, from the readings.
///
/// Reasons that the readings can't show are taken over from the record. Decode steps are passed through from the stored
/// phases: if no phases are stored, nothing needs them.
///
/// # Errors
/// The part that is asked for doesn't lie in the window.
pub(crate) fn recompute(trace: &Trace, info: &MeterInfo, known: &Known<'_>, cut: Cut) -> Result<Recomputed> {
    let Known { measurement, batch_size, weight_bytes } = *known;
    let window = &measurement.window;
    let (t0, t1) = cut.of(window.t0_s, window.t1_s)?;
    let whole = cut == Cut::Whole;
    let work = Work {
        t0,
        t1,
        batches: if whole { window.batches } else { 0 },
        // records that don't say have them with the phases, if at all
        decode_steps: window.decode_steps.or(measurement.phases.map(|phases| phases.decode_steps)).unwrap_or(0),
        tokens_out: if whole { measurement.tokens_out } else { Tokens(0) },
        batch_size,
        weight_bytes,
        ..Work::default()
    };
    let mut findings = Findings::of(trace, info, &work, measurement.idle.as_ref());
    if !whole {
        // its decode steps aren't known
        findings.phases = None;
    }
    findings.validity = validity::with_record(findings.validity, &measurement.validity, whole);
    Ok(Recomputed { t0, t1, findings })
}

/// Everything in which a recomputed whole window isn't what the record says, by field: `energy.total_j`,
/// `validity.warnings` …; empty if nothing differs, to the last bit.
pub(crate) fn differences(stored: &Measurement, again: &Findings) -> Vec<String> {
    let mut found = Vec::new();
    // what has been stored can be written: this can't fail
    let mut compare = |name: &str, stored: serde_json::Result<Value>, again: serde_json::Result<Value>| {
        compare_values(name, &stored.unwrap_or_default(), &again.unwrap_or_default(), &mut found);
    };
    compare("energy", serde_json::to_value(&stored.energy), serde_json::to_value(&again.energy));
    // earlier programs judged a window by other thresholds, and took single readings for its temperatures
    if stored.energy.residual_sd.is_none() && again.energy.residual_sd.is_some() {
        return found;
    }
    compare("conditions", serde_json::to_value(&stored.conditions), serde_json::to_value(&again.conditions));
    compare("phases", serde_json::to_value(stored.phases), serde_json::to_value(again.phases));
    compare("validity", serde_json::to_value(&stored.validity), serde_json::to_value(&again.validity));
    found
}

/// What earlier programs didn't record: nothing to differ from.
const ADDED: [&str; 6] = [
    "energy.residual_sd",
    "energy.edges_s",
    "energy.memory",
    "memory_temperature_start_c",
    "memory_temperature_end_c",
    "phases.lag_s",
];

fn compare_values(path: &str, stored: &Value, again: &Value, found: &mut Vec<String>) {
    match (stored, again) {
        (Value::Object(left), Value::Object(right)) => {
            for (key, value) in left {
                compare_values(&format!("{path}.{key}"), value, right.get(key).unwrap_or(&Value::Null), found);
            }
            let added = right.keys().filter(|key| !left.contains_key(*key));
            found.extend(added.map(|key| format!("{path}.{key}")));
        }
        (Value::Array(left), Value::Array(right)) if left.len() == right.len() && left.iter().all(Value::is_object) => {
            for (index, (left, right)) in left.iter().zip(right).enumerate() {
                compare_values(&format!("{path}[{index}]"), left, right, found);
            }
        }
        _ if stored == again => {}
        (Value::Null, _) if ADDED.iter().any(|name| path.ends_with(name)) => {}
        _ => found.push(path.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::fixtures;
    use crate::record::{Cost, EnergyMethod, PhaseSplit, Quantity, Reason, Sample, SourceTrace, Validity, Window};

    fn source(quantity: Quantity, method: EnergyMethod, samples: Vec<(f64, f64)>) -> SourceTrace {
        SourceTrace {
            domain: "gpu0".into(),
            quantity,
            method,
            tick: None,
            lag: Seconds(0.0),
            samples: samples.into_iter().map(|(t, value)| Sample { t: Seconds(t), value }).collect(),
        }
    }

    /// 12 s: 100 W until 6 s and 300 W from then on, by a counter, power samples and `power_usage`.
    fn trace() -> Trace {
        let watts = |t: f64| if t < 6.0 { 100.0 } else { 300.0 };
        let joules = |t: f64| if t < 6.0 { 100.0 * t } else { 600.0 + 300.0 * (t - 6.0) };
        let times = || (0..=240).map(|i| f64::from(i) * 0.05);
        Trace {
            sources: vec![
                source(Quantity::EnergyCounter, EnergyMethod::Counter, times().map(|t| (t, joules(t))).collect()),
                source(Quantity::Power, EnergyMethod::PowerIntegral, times().map(|t| (t, watts(t))).collect()),
                source(Quantity::PowerUsage, EnergyMethod::PowerIntegral, times().map(|t| (t, watts(t))).collect()),
            ],
        }
    }

    /// The record of the window from 1 to 11 s.
    fn record() -> Measurement {
        let mut record = Measurement {
            window: Window {
                t0_s: Seconds(1.0),
                t1_s: Seconds(11.0),
                passes: 1,
                batches: 4,
                prompts: 4,
                decode_steps: None,
                decode_s: None,
                offset_s: Seconds(0.0),
            },
            tokens_in: Tokens(10),
            tokens_out: Tokens(100),
            tokens_pad: Tokens(0),
            output_bytes: None,
            energy: WindowEnergy::default(),
            idle: None,
            load: Cost::default(),
            warmup: Cost::default(),
            validity: Validity::default(),
            conditions: vec![],
            phases: None,
            heat: None,
        };
        let found = again(&record, Cut::Whole).findings;
        (record.energy, record.validity) = (found.energy, found.validity);
        record
    }

    fn again(record: &Measurement, cut: Cut) -> Recomputed {
        let known = Known { measurement: record, batch_size: 1, weight_bytes: None };
        recompute(&trace(), &fixtures::info(&["gpu0"]), &known, cut).unwrap()
    }

    fn joules(method: Method, cut: Cut) -> f64 {
        method.energy(&again(&record(), cut).findings.energy).unwrap().0
    }

    #[test]
    fn a_whole_window_by_its_own_method_differs_in_nothing() {
        let record = record();
        assert_eq!(record.energy.total_j, Some(Joules(2000.0)), "5 s at 100 W and 5 s at 300 W");
        assert_eq!(differences(&record, &again(&record, Cut::Whole).findings), [""; 0]);
    }

    #[test]
    fn a_changed_record_is_named_by_its_field() {
        let mut changed = record();
        changed.energy.total_j = Some(Joules(2000.1));
        changed.energy.domains[0].integral_j = None;
        changed.validity.warnings.push(Reason::MigShared);
        let found = differences(&changed, &again(&record(), Cut::Whole).findings);
        assert_eq!(found, ["energy.total_j", "energy.domains[0].integral_j", "validity.warnings"]);
    }

    #[test]
    fn the_last_bit_of_an_energy_is_a_difference() {
        let mut changed = record();
        let total = changed.energy.total_j.unwrap().0;
        changed.energy.total_j = Some(Joules(total * (1.0 + f64::EPSILON)));
        assert_eq!(differences(&changed, &again(&record(), Cut::Whole).findings), ["energy.total_j"]);
    }

    #[test]
    fn a_record_comes_back_from_its_text_to_the_last_bit() {
        for value in [0.1 + 0.2, 9.869_604_401_089_358e-7, 1_795_519_321.193_666_5, f64::MIN_POSITIVE] {
            let mut written = record();
            written.window.t1_s = Seconds(value);
            let text = serde_json::to_string(&written).unwrap();
            assert_eq!(serde_json::from_str::<Measurement>(&text).unwrap(), written);
        }
    }

    #[test]
    fn a_trimmed_window_has_the_energy_of_its_middle() {
        // 3 to 9 s: 3 s at 100 W and 3 s at 300 W
        assert_eq!(joules(Method::Counter, Cut::Trim(Seconds(2.0))), 1200.0);
        assert!(
            (joules(Method::Power, Cut::Trim(Seconds(2.0))) - 1200.0).abs() <= 5.0 + 1e-9,
            "the step is 50 ms wide"
        );
    }

    #[test]
    fn a_part_is_counted_from_the_windows_start() {
        // 6 to 11 s, and 1 to 4 s
        assert!((joules(Method::Counter, Cut::Between(Some(Seconds(5.0)), None)) - 1500.0).abs() < 1e-9);
        assert!((joules(Method::Counter, Cut::Between(None, Some(Seconds(3.0)))) - 300.0).abs() < 1e-9);
    }

    #[test]
    fn the_other_methods_are_those_that_the_record_keeps() {
        let energy = record().energy;
        assert_eq!(joules(Method::Power, Cut::Whole), energy.integral_j.unwrap().0);
        assert_eq!(joules(Method::EptBench, Cut::Whole), energy.ept_bench_sum_j.unwrap().0);
        // readings at 1.1, 1.2 … 11.0 s: 49 of them before 6 s, 51 from then on
        assert!((joules(Method::EptBench, Cut::Whole) - (49.0 * 10.0 + 51.0 * 30.0)).abs() < 20.0 + 1e-9);
    }

    #[test]
    fn a_part_that_does_not_lie_in_the_window_is_refused() {
        for cut in [
            Cut::Trim(Seconds(5.0)),
            Cut::Between(Some(Seconds(4.0)), Some(Seconds(4.0))),
            Cut::Between(None, Some(Seconds(10.5))),
            Cut::Between(Some(Seconds(10.0)), None),
        ] {
            assert!(cut.of(Seconds(1.0), Seconds(11.0)).is_err(), "{cut:?}");
        }
    }

    #[test]
    fn reasons_that_no_reading_shows_are_kept_from_the_record() {
        let mut record = record();
        record.validity.warnings = vec![Reason::NotSteady, Reason::ResidualNoticeable, Reason::PhaseLocked];
        record.validity.invalid_reasons = vec![Reason::WindowTooShort, Reason::PhysicallyImpossible];
        let whole = again(&record, Cut::Whole).findings.validity;
        assert_eq!((whole.warnings, whole.invalid_reasons), (vec![Reason::NotSteady], vec![]));
        let part = again(&record, Cut::Trim(Seconds(1.0))).findings.validity;
        assert_eq!(part.warnings, [Reason::NotSteady, Reason::PhaseLocked]);
        assert_eq!(part.invalid_reasons, [Reason::PhysicallyImpossible]);
    }

    #[test]
    fn decode_steps_come_through_from_the_stored_phases() {
        let mut trace = trace();
        let marks = vec![(2.0, 1.0), (4.0, 2.0), (10.0, 0.0)];
        trace
            .sources
            .push(SourceTrace { domain: "work".into(), ..source(Quantity::Phase, EnergyMethod::PowerIntegral, marks) });
        let mut record = record();
        let (j, s) = (Joules(200.0), Seconds(2.0));
        record.phases =
            Some(PhaseSplit { prefill_j: j, decode_j: j, prefill_s: s, decode_s: s, decode_steps: 77, lag_s: None });
        let known = Known { measurement: &record, batch_size: 1, weight_bytes: None };
        let info = fixtures::info(&["gpu0"]);
        let found = recompute(&trace, &info, &known, Cut::Whole).unwrap().findings;
        let split = found.phases.unwrap();
        assert_eq!(split.decode_steps, 77);
        assert!((split.prefill_j.0 - 200.0).abs() < 1e-9, "2 s at 100 W");
        assert!((split.decode_j.0 - 1400.0).abs() < 20.0, "2 s at 100 W, then 4 s at 300 W");
        record.phases = Some(split);
        assert_eq!(differences(&record, &found), [""; 0]);
    }
}
