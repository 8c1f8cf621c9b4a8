//! One long piece of work split into stages by marks, from the same readings and by the same estimator as the whole.

use std::collections::HashMap;

use serde::Serialize;

use super::findings::Findings;
use super::span::Recorded;
use crate::record::{
    EnergyMethod, IdleBaseline, MeterInfo, Quantity, Reason, SourceTrace, Trace, Validity, WindowEnergy,
};
use crate::units::{Joules, Seconds};
use crate::validity::{self, Work};

/// Readings this long before and after a stage are looked at, rather than all of them: a counter is read closely every
/// few seconds at least, and work can have thousands of stages.
const AROUND: Seconds = Seconds(60.0);

/// The tick right after a mark is read closely: the nearest reading isn't farther away than so many ticks.
const FAR_TICKS: f64 = 2.0;

/// The moment at which a stage begins.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Mark {
    /// On the clock of the trace.
    pub(crate) t: Seconds,
    /// Of the stage that begins; empty: none does.
    pub(crate) name: String,
}

/// One stage. The names are the keys of the JSON file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Stage {
    pub(crate) name: String,
    /// After the start of the work.
    pub(crate) start_s: Seconds,
    #[serde(rename = "seconds")]
    pub(crate) duration_s: Seconds,
    /// Gross; `None` if the stage is too short for the source, or the source has no energy for it.
    pub(crate) energy_j: Option<Joules>,
    pub(crate) energy_method: Option<EnergyMethod>,
    /// Without the idle power before the work.
    pub(crate) net_energy_j: Option<Joules>,
    /// The gross energy by the second source.
    pub(crate) integral_j: Option<Joules>,
    pub(crate) residual: Option<f64>,
    pub(crate) coverage: Option<f64>,
    /// How closely the counter's ticks next to both ends are known: ± so many seconds.
    pub(crate) edges_s: Option<(Seconds, Seconds)>,
    pub(crate) validity: Validity,
    /// The energy even if the stage is too short by itself: many short ones together can be long enough.
    #[serde(skip)]
    raw: Option<(Joules, EnergyMethod)>,
}

/// All stages of one name together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct StageSum {
    pub(crate) name: String,
    /// How often it occurred.
    pub(crate) times: usize,
    #[serde(rename = "seconds")]
    pub(crate) duration_s: Seconds,
    /// Gross; `None` if the occurrences are too short on average, or the energy of one is unknown.
    pub(crate) energy_j: Option<Joules>,
    pub(crate) energy_method: Option<EnergyMethod>,
    pub(crate) net_energy_j: Option<Joules>,
    #[serde(skip)]
    raw: Option<Joules>,
}

/// What remains of the whole.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Remainder {
    #[serde(rename = "seconds")]
    pub(crate) duration_s: Seconds,
    pub(crate) energy_j: Option<Joules>,
}

/// The whole, split. The energies of `by_stage`, `unresolved` and `outside` add up to that of the whole.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Stages {
    /// Each occurrence, in order of time.
    pub(crate) stages: Vec<Stage>,
    /// In the order in which the names first occurred.
    pub(crate) by_stage: Vec<StageSum>,
    /// The rows of `by_stage` without an energy, together.
    #[serde(rename = "unresolved_stages")]
    pub(crate) unresolved: Remainder,
    /// The time outside any stage.
    #[serde(rename = "outside_stages")]
    pub(crate) outside: Remainder,
}

impl Stages {
    /// Splits recorded work at marks, which are in the order in which they were read. A mark can't be earlier than the
    /// one before it.
    pub(crate) fn of(
        recorded: &Recorded,
        info: &MeterInfo,
        marks: &[Mark],
        whole: &WindowEnergy,
        idle: Option<&IdleBaseline>,
    ) -> Self {
        let spans = spans(recorded, marks);
        let stage = |(name, from, to): &(&str, Seconds, Seconds)| Stage::of(recorded, info, name, (*from, *to), idle);
        let stages: Vec<Stage> = spans.iter().map(stage).collect();
        let by_stage = by_stage(&stages, info.min_window_s, idle);
        let unknown = by_stage.iter().filter(|row| row.energy_j.is_none());
        let unresolved = Remainder {
            duration_s: unknown.clone().map(|row| row.duration_s).sum(),
            energy_j: unknown.map(|row| row.raw).sum(),
        };
        let inside_j: Option<Joules> = by_stage.iter().map(|row| row.raw).sum();
        let inside_s: Seconds = by_stage.iter().map(|row| row.duration_s).sum();
        let outside = Remainder {
            duration_s: Seconds((recorded.t1 - recorded.t0 - inside_s).0.max(0.0)),
            energy_j: whole.total_j.zip(inside_j).map(|(whole, inside)| whole - inside),
        };
        Self { stages, by_stage, unresolved, outside }
    }
}

/// Gross energy less what idling would have taken.
pub(crate) fn net(energy: Option<Joules>, duration: Seconds, idle: Option<&IdleBaseline>) -> Option<Joules> {
    Some(energy? - idle?.power_w * duration)
}

/// From each mark with a name to the next mark.
fn spans<'a>(recorded: &Recorded, marks: &'a [Mark]) -> Vec<(&'a str, Seconds, Seconds)> {
    let mut last = recorded.t0.0;
    let mut times = Vec::with_capacity(marks.len() + 1);
    for mark in marks {
        last = mark.t.0.max(last).min(recorded.t1.0);
        times.push(Seconds(last));
    }
    times.push(recorded.t1);
    let named = marks.iter().zip(times.windows(2)).filter(|(mark, _)| !mark.name.is_empty());
    named.map(|(mark, ends)| (mark.name.as_str(), ends[0], ends[1])).collect()
}

impl Stage {
    fn of(
        recorded: &Recorded,
        info: &MeterInfo,
        name: &str,
        (from, to): (Seconds, Seconds),
        idle: Option<&IdleBaseline>,
    ) -> Self {
        let duration_s = to - from;
        let work = Work { t0: from, t1: to, ..Work::default() };
        let trace = around(&recorded.trace, from, to);
        let Findings { energy, mut validity, .. } = Findings::of(&trace, info, &work, idle);
        let edges_s = energy.edges_s.map(|(start, end)| {
            (farther(start, distance(&trace, info, from)), farther(end, distance(&trace, info, to)))
        });
        if edges_s.is_some_and(|edges| validity::are_uncertain(edges, duration_s)) {
            validity.warnings.push(Reason::EdgesUncertain);
            validity.warnings.sort();
            validity.warnings.dedup();
        }
        let long_enough = duration_s >= info.min_window_s && duration_s > Seconds(0.0);
        // a stage without any length took nothing
        let nothing = (duration_s <= Seconds(0.0)).then_some((Joules(0.0), info.method));
        let raw = energy.total_j.zip(energy.method).or(nothing);
        let energy_j = energy.total_j.filter(|_| long_enough);
        Self {
            name: name.to_owned(),
            start_s: from - recorded.t0,
            duration_s,
            energy_j,
            energy_method: energy.method.filter(|_| energy_j.is_some()),
            net_energy_j: net(energy_j, duration_s, idle),
            integral_j: energy.integral_j.filter(|_| long_enough),
            residual: energy.residual.filter(|_| long_enough),
            coverage: energy.coverage,
            edges_s,
            validity: validity::of_single_work(validity),
            raw,
        }
    }
}

/// How far from an instant the nearest reading of a ticking counter is, if that is farther than readings at a mark are:
/// in recordings of more than a day they may have been dropped, and the energy is interpolated over seconds.
fn distance(trace: &Trace, info: &MeterInfo, t: Seconds) -> Seconds {
    let counters = info.domains.iter().filter_map(|domain| trace.find(&domain.name, Quantity::EnergyCounter));
    let of_counter = |counter: &SourceTrace| {
        let tick = counter.tick?.0;
        let nearest = counter.samples.iter().map(|sample| (sample.t - t).0.abs()).reduce(f64::min)?;
        (nearest > FAR_TICKS * tick).then_some(Seconds(nearest))
    };
    counters.filter_map(of_counter).fold(Seconds(0.0), farther)
}

fn farther(a: Seconds, b: Seconds) -> Seconds {
    if b > a { b } else { a }
}

/// The readings of a while, with the last one before it and the first one after it.
fn around(trace: &Trace, from: Seconds, to: Seconds) -> Trace {
    let cut = |source: &SourceTrace| {
        let first = source.samples.partition_point(|sample| sample.t < from - AROUND).saturating_sub(1);
        let last = source.samples.partition_point(|sample| sample.t <= to + AROUND);
        let samples = source.samples.get(first..(last + 1).min(source.samples.len()));
        SourceTrace {
            domain: source.domain.clone(),
            quantity: source.quantity,
            method: source.method,
            tick: source.tick,
            lag: source.lag,
            samples: samples.unwrap_or_default().to_vec(),
        }
    };
    Trace { sources: trace.sources.iter().map(cut).collect() }
}

fn by_stage(stages: &[Stage], min_window: Seconds, idle: Option<&IdleBaseline>) -> Vec<StageSum> {
    let mut order: Vec<&str> = Vec::new();
    let mut groups: HashMap<&str, Vec<&Stage>> = HashMap::new();
    for stage in stages {
        let group = groups.entry(&stage.name).or_default();
        if group.is_empty() {
            order.push(&stage.name);
        }
        group.push(stage);
    }
    order.into_iter().map(|name| StageSum::of(name, &groups[name], min_window, idle)).collect()
}

impl StageSum {
    fn of(name: &str, occurrences: &[&Stage], min_window: Seconds, idle: Option<&IdleBaseline>) -> Self {
        let duration_s: Seconds = occurrences.iter().map(|stage| stage.duration_s).sum();
        let raw: Option<Joules> = occurrences.iter().map(|stage| stage.raw.map(|(energy, _)| energy)).sum();
        // errors at edges may all have the same sign: on average, an occurrence has to be as long as a lone one
        let long_enough = duration_s >= min_window * occurrences.len() as f64 && duration_s > Seconds(0.0);
        let energy_j = raw.filter(|_| long_enough);
        let methods = occurrences.iter().filter_map(|stage| stage.raw.map(|(_, method)| method));
        Self {
            name: name.to_owned(),
            times: occurrences.len(),
            duration_s,
            energy_j,
            energy_method: methods.max().filter(|_| energy_j.is_some()),
            net_energy_j: net(energy_j, duration_s, idle),
            raw,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::fixtures;
    use crate::meter::span::Span;
    use crate::record::Sample;
    use crate::units::Watts;

    const HOUR: f64 = 3600.0;

    /// Joules at a time: 100 W for the first half hour, 300 W for ten minutes, then 200 W.
    fn joules(t: f64) -> f64 {
        100.0 * t.min(1800.0) + 300.0 * (t - 1800.0).clamp(0.0, 600.0) + 200.0 * (t - 2400.0).max(0.0)
    }

    /// An hour that begins 10 s after the first reading, by a counter that ticks every 0.1 s and is read every
    /// `rest` seconds, and closely around both ends and the marks.
    fn recorded(rest: f64, near: &[f64]) -> Recorded {
        let regular = (0..).map(|i| f64::from(i) * rest).take_while(|t| *t < HOUR + 20.0);
        let close = [0.0, HOUR]
            .iter()
            .chain(near)
            .flat_map(|mark| (0..80).map(move |i| mark + 10.0 - 0.01 + f64::from(i) * 0.002));
        let mut times: Vec<f64> = regular.chain(close).collect();
        times.sort_by(f64::total_cmp);
        let read = |t: f64| Sample { t: Seconds(t), value: joules(((t - 10.0) / 0.1).floor() * 0.1) + 5.0 };
        let counter = SourceTrace {
            domain: "gpu0".into(),
            quantity: Quantity::EnergyCounter,
            method: EnergyMethod::Counter,
            tick: Some(Seconds(0.1)),
            lag: Seconds(0.0),
            samples: times.into_iter().map(read).collect(),
        };
        Recorded { t0: Seconds(10.0), t1: Seconds(10.0 + HOUR), trace: Trace { sources: vec![counter] } }
    }

    fn marks(marks: &[(f64, &str)]) -> Vec<Mark> {
        marks.iter().map(|(t, name)| Mark { t: Seconds(t + 10.0), name: (*name).to_owned() }).collect()
    }

    fn info() -> MeterInfo {
        MeterInfo { min_window_s: Seconds(5.0), tick_s: Some(Seconds(0.1)), ..fixtures::info(&["gpu0"]) }
    }

    fn split(recorded: &Recorded, marks: &[Mark]) -> (Span, Stages) {
        let idle =
            IdleBaseline { power_w: Watts(50.0), duration_s: Seconds(20.0), segments_w: vec![], temperature_c: None };
        let span = Span::of(recorded, &info(), Some(idle));
        let stages = Stages::of(recorded, &info(), marks, &span.energy, span.idle.as_ref());
        (span, stages)
    }

    #[track_caller]
    fn near(found: Option<Joules>, expected: f64, tolerance: f64) {
        let found = found.unwrap().0;
        assert!((found - expected).abs() <= tolerance, "{found} J instead of {expected} J");
    }

    #[test]
    fn stages_have_the_energy_between_their_marks_and_add_up_to_the_whole() {
        let at = [1200.0, 1800.0, 2400.0, 3000.0];
        let marks = marks(&[(1200.0, "a"), (1800.0, "b"), (2400.0, "a"), (3000.0, "")]);
        let (span, found) = split(&recorded(6.0, &at), &marks);
        let names: Vec<&str> = found.stages.iter().map(|stage| stage.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "a"]);
        for (stage, expected) in found.stages.iter().zip([60e3, 180e3, 120e3]) {
            // a tick is known to within a millisecond or two
            near(stage.energy_j, expected, 2.0);
            assert_eq!((stage.duration_s, stage.validity.is_valid()), (Seconds(600.0), true), "{stage:?}");
            near(stage.net_energy_j, expected - 600.0 * 50.0, 2.0);
        }
        assert_eq!(found.by_stage[0].times, 2);
        near(found.by_stage[0].energy_j, 180e3, 4.0);
        near(found.outside.energy_j, 120e3 + 120e3, 4.0);
        assert_eq!(found.outside.duration_s, Seconds(1800.0));
        let parts = found.by_stage.iter().map(|row| row.energy_j.unwrap()).sum::<Joules>();
        near(span.energy.total_j, (parts + found.outside.energy_j.unwrap()).0, 1e-6);
        assert_eq!(found.unresolved, Remainder { duration_s: Seconds(0.0), energy_j: Some(Joules(0.0)) });
    }

    #[test]
    fn a_mark_that_nobody_read_the_counter_at_is_wrong_by_what_it_moved_in_between_at_most() {
        // thinned to a reading every 24 s: power changes at 1800 s from 100 to 300 W, 16 s after a reading
        let marks = marks(&[(1800.0, "b"), (2400.0, "")]);
        let (_, found) = split(&recorded(24.0, &[]), &marks);
        near(found.stages[0].energy_j, 180e3, 2.0 * 24.0 * 200.0);
        let (start, end) = found.stages[0].edges_s.unwrap();
        assert!(start.0 > 2.0 && end.0 > 2.0, "{start:?}, {end:?}: the nearest readings");
        assert_eq!(found.stages[0].validity.warnings, [Reason::EdgesUncertain]);
        let (_, close) = split(&recorded(24.0, &[1800.0, 2400.0]), &marks);
        near(close.stages[0].energy_j, 180e3, 20.0);
        assert_eq!(close.stages[0].validity.warnings, []);
    }

    #[test]
    fn a_stage_that_is_too_short_is_unknown_and_its_energy_is_not_lost() {
        let times = [100.0, 101.0, 200.0, 201.0, 260.0];
        let marks = marks(&[(100.0, "blip"), (101.0, "load"), (200.0, "blip"), (201.0, "work"), (260.0, "")]);
        let (span, found) = split(&recorded(6.0, &times), &marks);
        let blip = &found.stages[0];
        assert_eq!((blip.energy_j, blip.energy_method, blip.net_energy_j), (None, None, None));
        assert_eq!(blip.validity.invalid_reasons, [Reason::WindowTooShort]);
        assert_eq!((found.by_stage[0].times, found.by_stage[0].energy_j), (2, None));
        assert_eq!(found.unresolved.duration_s, Seconds(2.0));
        near(found.unresolved.energy_j, 200.0, 20.0);
        let known: Joules = found.by_stage.iter().filter_map(|row| row.energy_j).sum();
        let all = known + found.unresolved.energy_j.unwrap() + found.outside.energy_j.unwrap();
        near(span.energy.total_j, all.0, 1e-6);
    }

    #[test]
    fn short_stages_that_recur_are_known_together_if_they_are_long_enough_on_average() {
        let marks = marks(&[(100.0, "step"), (103.0, ""), (200.0, "step"), (260.0, "")]);
        let (_, found) = split(&recorded(6.0, &[100.0, 103.0, 200.0, 260.0]), &marks);
        assert_eq!(found.stages[0].energy_j, None, "3 s of 5");
        near(found.by_stage[0].energy_j, 6300.0, 20.0);
    }

    #[test]
    fn marks_outside_of_the_work_or_out_of_order_never_make_a_stage_longer_than_it() {
        let odd = marks(&[(-50.0, "early"), (900.0, "late"), (300.0, "back"), (9e9, "after")]);
        let (span, found) = split(&recorded(6.0, &[900.0]), &odd);
        let spans: Vec<(f64, f64)> = found.stages.iter().map(|stage| (stage.start_s.0, stage.duration_s.0)).collect();
        assert_eq!(spans, [(0.0, 900.0), (900.0, 0.0), (900.0, HOUR - 900.0), (HOUR, 0.0)]);
        assert_eq!(found.stages[1].validity.invalid_reasons, [Reason::WindowTooShort, Reason::NoEnergySource]);
        near(found.outside.energy_j, 0.0, 1.0);
        near(span.energy.total_j, joules(HOUR), 10.0);
    }

    #[test]
    fn without_marks_everything_is_outside_of_stages() {
        let (span, found) = split(&recorded(6.0, &[]), &[]);
        assert_eq!((found.stages.len(), found.by_stage.len()), (0, 0));
        near(span.energy.total_j, joules(HOUR), 2.0);
        assert_eq!(found.outside, Remainder { duration_s: Seconds(HOUR), energy_j: span.energy.total_j });
    }
}
