//! Power over time in and around one window of a model.

use std::cmp::Reverse;
use std::ops::RangeInclusive;

use crate::record::{
    CellSpec, EnergyMethod, Measurement, ModelMeta, Outcome, PREFILL, Quantity, Role, Sample, SourceTrace, Trace,
    Trial, WORK,
};
use crate::units::Seconds;

/// The power readings of one window, prepared from the stored samples.
#[derive(Debug, Clone, PartialEq)]
pub struct PowerTrace {
    /// Label of the model.
    pub label: String,
    /// What the model is.
    pub role: Role,
    /// Start of the window in seconds, on the clock of the points.
    pub t0: f64,
    /// End of the window in seconds.
    pub t1: f64,
    /// Time in seconds and power in watts, in order of time, from before the window to after it.
    pub points: Vec<(f64, f64)>,
    /// When prompts were read inside the window: start and end of each span in seconds. Empty where that isn't known.
    pub prefill: Vec<(f64, f64)>,
    /// The power is computed from a model, not measured.
    pub modelled: bool,
}

/// Share of a window's length that is shown before and after it, in addition to the guard work.
const AROUND: f64 = 0.1;

/// The trial of a model that is shown: the first valid one in its cell of the largest batch and the longest output.
pub(crate) fn shown_trial<'a>(trials: impl Iterator<Item = &'a Trial>) -> Option<(&'a Trial, &'a Measurement)> {
    let size = |cell: &CellSpec| (cell.batch_size, cell.max_new_tokens);
    let measured = trials.filter(|trial| !trial.cell.probe).filter_map(|trial| match &trial.outcome {
        Outcome::Measured(measurement) if measurement.validity.is_valid() => Some((trial, &**measurement)),
        _ => None,
    });
    measured.max_by_key(|(trial, _)| (size(&trial.cell), Reverse(trial.block)))
}

/// What the trace of a trial shows of its window, with the load around it but without the whole warm-up; `None` below
/// two readings of power.
pub(crate) fn power_trace(
    model: &ModelMeta,
    trace: &Trace,
    measurement: &Measurement,
    guard: Seconds,
) -> Option<PowerTrace> {
    let window = measurement.window;
    let around = guard.0 + window.duration().0 * AROUND;
    let shown = (window.t0_s.0 - around)..=(window.t1_s.0 + around);
    let points = power_points(trace, measurement, &shown);
    (points.len() > 1).then(|| PowerTrace {
        label: model.label.clone(),
        role: model.role,
        t0: window.t0_s.0,
        t1: window.t1_s.0,
        prefill: prefill_spans(trace, measurement),
        points,
        modelled: measurement.energy.method == Some(EnergyMethod::Modelled),
    })
}

/// Power over time, summed over the domains whose energy counts: by the finest source that each of them has.
fn power_points(trace: &Trace, measurement: &Measurement, shown: &RangeInclusive<f64>) -> Vec<(f64, f64)> {
    let finest = |domain: &str| {
        let find = |quantity| trace.find(domain, quantity).filter(|source| !source.samples.is_empty());
        find(Quantity::Power).or_else(|| find(Quantity::PowerUsage))
    };
    let domains = measurement.energy.domains.iter().map(|domain| domain.domain.as_str());
    let sources: Option<Vec<&SourceTrace>> = domains.map(finest).collect();
    let sources = sources.unwrap_or_default();
    let Some((first, others)) = sources.split_first() else { return Vec::new() };
    let sum = |sample: &Sample| {
        let t = sample.t.0 - first.lag.0;
        let rest: f64 = others.iter().map(|source| nearest(source, t)).sum();
        (t, sample.value + rest)
    };
    first.samples.iter().map(sum).filter(|(t, _)| shown.contains(t)).collect()
}

/// The reading of a source that speaks of the time closest to `t`.
fn nearest(source: &SourceTrace, t: f64) -> f64 {
    let t = t + source.lag.0;
    let after = source.samples.partition_point(|sample| sample.t.0 < t);
    let around = source.samples[after.saturating_sub(1)..].iter().take(2);
    around.min_by(|a, b| (a.t.0 - t).abs().total_cmp(&(b.t.0 - t).abs())).map_or(0.0, |sample| sample.value)
}

/// When the engine read prompts inside the window.
fn prefill_spans(trace: &Trace, measurement: &Measurement) -> Vec<(f64, f64)> {
    let Some(marks) = trace.find(WORK, Quantity::Phase) else { return Vec::new() };
    let window = measurement.window;
    let is_prefill =
        |pair: &&[Sample]| pair[0].value == PREFILL && pair[0].t.0 >= window.t0_s.0 && pair[1].t.0 <= window.t1_s.0;
    marks.samples.windows(2).filter(is_prefill).map(|pair| (pair[0].t.0, pair[1].t.0)).collect()
}
