//! Energy from power samples, and power from a counter.

use crate::record::{EnergyMethod, Quantity, Sample, SourceTrace};
use crate::units::{Joules, Seconds};

/// Longest gap between power samples that still counts as covered, for a source without a stated tick.
const MAX_GAP: Seconds = Seconds(0.1);
/// The same in ticks, for a source that ticks: an update that comes late is not a lost sample.
const MAX_GAP_TICKS: f64 = 2.5;

/// The time integral of sampled power over a window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PowerIntegral {
    /// The energy, gaps bridged linearly and edges without samples held at the nearest one.
    pub energy: Joules,
    /// Share of the window that lies close enough to a sample.
    pub(crate) coverage: f64,
    /// Longest time inside the window without a sample.
    pub(crate) max_gap: Seconds,
    /// What the distance of the samples leaves open of the energy, as a share of it: one standard deviation.
    pub(crate) resolution: f64,
}

/// Energy between `t0` and `t1` by the trapezoid rule over every sample, interpolated linearly at both edges.
///
/// Trapezoids, since a sample is the power at an instant and not over an interval: a step function that starts at each
/// sample would shift every change of power by half an interval. Repeated samples keep their weight.
///
/// `None` without samples or for an empty window.
pub fn power_energy(source: &SourceTrace, t0: Seconds, t1: Seconds) -> Option<PowerIntegral> {
    let (first, last) = (source.samples.first()?, source.samples.last()?);
    // samples that lag show the window later than it was
    let (t0, t1) = (t0 + source.lag, t1 + source.lag);
    let whole = (t1 - t0).0;
    if whole.is_nan() || whole <= 0.0 {
        return None;
    }
    let reach = max_gap(source).0 / 2.0;
    let mut energy = first.value * overlap((t0, first.t), (t0, t1)) + last.value * overlap((last.t, t1), (t0, t1));
    let mut uncovered =
        overlap((t0, Seconds(first.t.0 - reach)), (t0, t1)) + overlap((Seconds(last.t.0 + reach), t1), (t0, t1));
    let mut max_gap = overlap((t0, first.t), (t0, t1)).max(overlap((last.t, t1), (t0, t1)));
    for pair in source.samples.windows(2) {
        let (a, b) = (pair[0], pair[1]);
        energy += trapezoid(a, b, t0, t1);
        uncovered += overlap((Seconds(a.t.0 + reach), Seconds(b.t.0 - reach)), (t0, t1));
        max_gap = max_gap.max(overlap((a.t, b.t), (t0, t1)));
    }
    Some(PowerIntegral {
        energy: Joules(energy),
        coverage: 1.0 - uncovered / whole,
        max_gap: Seconds(max_gap),
        resolution: resolution(source, t0, t1),
    })
}

/// What the distance of the samples leaves open of their mean between two instants, as a share of it.
///
/// Samples are looks at a power that swings between them. Their standard error is estimated from the differences of
/// successive samples (von Neumann et al. 1941), σ² = Σ(Pᵢ₊₁ − Pᵢ)² / 2(n − 1): a slow course, which the trapezoids
/// follow, isn't counted, and work that repeats faster than the samples come is counted as if they met it at random. The
/// two edges, where a look may be missing, add as much as one sample each.
fn resolution(source: &SourceTrace, t0: Seconds, t1: Seconds) -> f64 {
    if is_exact(source) {
        return 0.0;
    }
    let first = source.samples.partition_point(|sample| sample.t < t0);
    let last = source.samples.partition_point(|sample| sample.t <= t1);
    let inside = source.samples.get(first..last).unwrap_or_default();
    let n = inside.len() as f64;
    let mean = inside.iter().map(|sample| sample.value).sum::<f64>() / n;
    let squares: f64 = inside.windows(2).map(|pair| (pair[1].value - pair[0].value).powi(2)).sum();
    // with one sample or none, everything is open
    if inside.len() < 2 || mean <= 0.0 {
        return 1.0;
    }
    let of_one = (squares / (2.0 * (n - 1.0))).sqrt() / mean;
    of_one * (n + 2.0).sqrt() / n
}

/// Area under the line from `a` to `b`, as far as it lies between `t0` and `t1`.
fn trapezoid(a: Sample, b: Sample, t0: Seconds, t1: Seconds) -> f64 {
    let (from, to) = (a.t.0.max(t0.0), b.t.0.min(t1.0));
    if from >= to {
        return 0.0;
    }
    let slope = (b.value - a.value) / (b.t.0 - a.t.0);
    let middle = a.value + slope * ((from + to) / 2.0 - a.t.0);
    middle * (to - from)
}

/// Seconds that two intervals share.
pub(super) fn overlap(one: (Seconds, Seconds), other: (Seconds, Seconds)) -> f64 {
    (one.1.0.min(other.1.0) - one.0.0.max(other.0.0)).max(0.0)
}

/// Two samples at each change of power: nothing is lost between them, however far apart they are.
fn is_exact(source: &SourceTrace) -> bool {
    source.method == EnergyMethod::Simulated && source.tick.is_none()
}

pub(super) fn max_gap(source: &SourceTrace) -> Seconds {
    match source.tick {
        _ if is_exact(source) => Seconds(f64::INFINITY),
        Some(tick) => Seconds((tick.0 * MAX_GAP_TICKS).max(MAX_GAP.0)),
        None => MAX_GAP,
    }
}

/// Power averaged over intervals of at least `spacing` of a counter, stamped at their middles: for figures.
///
/// It keeps the counter's method, which says that it is no second source.
pub(crate) fn derived_power(counter: &SourceTrace, spacing: Seconds) -> SourceTrace {
    let mut samples = Vec::new();
    let mut readings = counter.samples.iter();
    if let Some(mut from) = readings.next() {
        for to in readings.filter(|to| to.t.0 > from.t.0) {
            if (to.t - from.t).0 >= spacing.0 {
                let value = (to.value - from.value) / (to.t - from.t).0;
                samples.push(Sample { t: Seconds((from.t.0 + to.t.0) / 2.0), value });
                from = to;
            }
        }
    }
    SourceTrace { quantity: Quantity::Power, samples, ..counter.clone() }
}
