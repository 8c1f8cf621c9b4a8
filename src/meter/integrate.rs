//! Pure functions from a [`Trace`] to an energy between two instants. Reads no device and no clock.

use crate::record::{
    Domain, DomainEnergy, EnergyMethod, MeterInfo, Quantity, Reason, Sample, SourceTrace, Trace, Validity, WindowEnergy,
};
use crate::units::{Joules, Seconds, Watts};

/// |residual| above this is a warning.
pub const RESIDUAL_NOTICEABLE: f64 = 0.01;
/// |residual| above this makes a window invalid.
pub const RESIDUAL_TOO_LARGE: f64 = 0.05;
/// The same for a second source that is coarse: sensor readings of every 100 ms, or averages of a second.
pub const RESIDUAL_NOTICEABLE_COARSE: f64 = 0.03;
/// The same for a second source that is coarse.
pub const RESIDUAL_TOO_LARGE_COARSE: f64 = 0.10;
/// Time between updates from which on power samples count as coarse.
const COARSE: Seconds = Seconds(0.05);
/// The interval of EPT-Bench's own estimator.
const EPT_BENCH_INTERVAL: f64 = 0.1;

/// Power samples have to cover this share of a window.
pub const COVERAGE_NEEDED: f64 = 0.95;

/// Longest gap between power samples that still counts as covered, for a source without a stated tick.
const MAX_GAP: Seconds = Seconds(0.1);
/// The same for a source that ticks, in ticks: an update that comes late is not a lost sample.
const MAX_GAP_TICKS: f64 = 2.5;
/// A tick counts where it is known at worst this many times less closely than the best known one: readings of a steady
/// rhythm stay within it, and those of a seldom read counter don't.
const CLOSE_ENOUGH: f64 = 4.0;
/// A tick that is known to this share of its length is known closely in any case.
const CLOSE_SHARE: f64 = 0.2;
/// Power samples tell the course of power between two ticks of the counter that are this many of theirs apart.
const SHAPE_TICKS: f64 = 3.0;
/// A hardware counter that stands still for this many of its ticks is stuck …
const STUCK_TICKS: f64 = 10.0;
/// … but not before this long, because readings can come much more slowly than ticks.
const STUCK_AT_LEAST: Seconds = Seconds(0.5);
/// The same from a window's end on, where a ticking counter is read closely …
const STUCK_TICKS_AT_END: f64 = 3.0;
/// … for as long as guard work lasts.
const STUCK_AT_LEAST_AT_END: Seconds = Seconds(0.2);

/// Why a counter gives no energy for a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CounterFault {
    /// It went backwards inside the window.
    Reset,
    /// It stood still although it should tick.
    Stuck,
    /// Its readings don't reach from one edge to the other.
    NotCovered,
}

impl CounterFault {
    fn reason(self) -> Reason {
        match self {
            CounterFault::Reset => Reason::CounterReset,
            CounterFault::Stuck => Reason::CounterStuck,
            CounterFault::NotCovered => Reason::CoverageTooLow,
        }
    }
}

/// The time integral of sampled power over a window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PowerIntegral {
    /// The energy, gaps bridged linearly and edges without samples held at the nearest one.
    pub energy: Joules,
    /// Share of the window that lies close enough to a sample.
    pub coverage: f64,
    /// Longest time inside the window without a sample.
    pub max_gap: Seconds,
}

/// Energy between `t0` and `t1` by a running total, interpolated linearly at both edges.
///
/// A counter that states a tick is a staircase: repeated readings say only that no tick came, so the line goes
/// through the ticks ([`ticks`]), not through the readings.
///
/// # Errors
/// The counter went backwards or stood still inside the window, or its readings don't reach both edges.
pub fn counter_energy(source: &SourceTrace, t0: Seconds, t1: Seconds) -> Result<Joules, CounterFault> {
    counter_energy_shaped(source, None, t0, t1)
}

/// The same, but between two ticks the counter is taken to have risen as `power` says, where that is fine enough: at an
/// edge the work often changes (decoding ends, the next prefill begins), and the last tick before the window's end that
/// is known can lie seconds back.
///
/// Only the course of `power` between two ticks counts, not its height: a power sensor that reads too much by a factor
/// changes nothing, so that the two sources still check each other.
///
/// # Errors
/// As [`counter_energy`].
pub fn counter_energy_shaped(
    source: &SourceTrace,
    power: Option<&SourceTrace>,
    t0: Seconds,
    t1: Seconds,
) -> Result<Joules, CounterFault> {
    if is_stuck(source, t0, t1) {
        return Err(CounterFault::Stuck);
    }
    let power = power.filter(|_| source.tick.is_some()).map(renewed);
    let power = power.as_ref();
    match between(&ticks(source), source.tick, power, t0, t1) {
        // closely known ticks leave an edge out: those that are known less closely are better than none
        Err(CounterFault::NotCovered) => between(&all_ticks(source), source.tick, power, t0, t1),
        found => found,
    }
}

/// The rise between two instants of a line through `points`, straight or with the course of `power`.
fn between(
    points: &[Sample],
    tick: Option<Seconds>,
    power: Option<&SourceTrace>,
    t0: Seconds,
    t1: Seconds,
) -> Result<Joules, CounterFault> {
    let from = points.partition_point(|point| point.t <= t0).saturating_sub(1);
    let to = points.partition_point(|point| point.t < t1).min(points.len().saturating_sub(1));
    let inside = points.get(from..=to).ok_or(CounterFault::NotCovered)?;
    if inside.windows(2).any(|pair| pair[1].value < pair[0].value) {
        return Err(CounterFault::Reset);
    }
    let reach = tick.unwrap_or_default();
    let at = |t| value_at(inside, t, reach, power).ok_or(CounterFault::NotCovered);
    Ok(Joules(at(t1)? - at(t0)?))
}

/// When a counter ticked, as well as its readings tell, and what it said then.
///
/// A reading that differs from the one before shows that a tick came between the two, at most one tick ago: it is
/// stamped with the middle of that interval. Where some ticks are known much more closely than others (the counter was
/// read closely around the edges of a window) only those are given. Without a stated tick the readings themselves are
/// returned.
pub fn ticks(source: &SourceTrace) -> Vec<Sample> {
    let seen = seen_ticks(source);
    let closest = seen.iter().map(|(gap, _)| *gap).fold(f64::INFINITY, f64::min);
    let enough = (closest * CLOSE_ENOUGH).max(source.tick.map_or(0.0, |tick| tick.0 * CLOSE_SHARE));
    seen.into_iter().filter(|(gap, _)| *gap <= enough).map(|(_, point)| point).collect()
}

fn all_ticks(source: &SourceTrace) -> Vec<Sample> {
    seen_ticks(source).into_iter().map(|(_, point)| point).collect()
}

/// Each tick with the length of the interval in which it came.
fn seen_ticks(source: &SourceTrace) -> Vec<(f64, Sample)> {
    let Some(tick) = source.tick else { return source.samples.iter().map(|sample| (0.0, *sample)).collect() };
    let seen = |reading: &Sample, gap: f64| (gap, Sample { t: Seconds(reading.t.0 - gap / 2.0), ..*reading });
    let first = source.samples.first().map(|reading| seen(reading, tick.0));
    let later = source
        .samples
        .windows(2)
        .filter(|pair| pair[0].value != pair[1].value)
        .map(|pair| seen(&pair[1], (pair[1].t - pair[0].t).0.min(tick.0)));
    first.into_iter().chain(later).collect()
}

/// Only hardware counters can stick; a simulated or computed one stands still where there is no power.
fn is_stuck(source: &SourceTrace, t0: Seconds, t1: Seconds) -> bool {
    if source.method != EnergyMethod::Counter {
        return false;
    }
    let tick = source.tick.unwrap_or_default().0;
    let limit = (STUCK_TICKS * tick).max(STUCK_AT_LEAST.0);
    let limit_at_end = (STUCK_TICKS_AT_END * tick).max(STUCK_AT_LEAST_AT_END.0);
    let whole = (t1 - t0).0;
    source.samples.chunk_by(|a, b| a.value == b.value).any(|run| {
        let (from, to) = (run[0].t, run[run.len() - 1].t);
        let still = overlap((from, to), (t0, t1));
        // a counter that is read only at the edges shows what it did in between by not going on after the end
        let at_end = from >= t0 && from.0 <= t1.0 + tick && (to.0 - from.0.max(t1.0)) > limit_at_end;
        still > limit || (still >= whole && whole > 2.0 * tick) || at_end
    })
}

/// Interpolation with the course of `power`, or linear; past either end the nearest slope is followed for `reach`.
fn value_at(points: &[Sample], t: Seconds, reach: Seconds, power: Option<&SourceTrace>) -> Option<f64> {
    let after = points.partition_point(|point| point.t <= t);
    let left = after.saturating_sub(1).min(points.len().checked_sub(2)?);
    let (a, b) = (points[left], points[left + 1]);
    let outside = (a.t - t).0.max((t - b.t).0);
    let share = power.and_then(|power| share_by(power, a.t, b.t, t)).unwrap_or((t - a.t).0 / (b.t - a.t).0);
    (outside <= reach.0 && share.is_finite()).then_some(a.value + (b.value - a.value) * share)
}

/// The samples without those that say for a moment what the one before said: a sensor that wasn't renewed in time. A
/// line from the one to the next that is new follows a jump of power sooner than they do. What stays the same for
/// longer is constant power.
fn renewed(power: &SourceTrace) -> SourceTrace {
    let longest = max_gap(power);
    let runs = power.samples.chunk_by(|a, b| a.value == b.value);
    let new = runs.flat_map(|run| if run[run.len() - 1].t - run[0].t <= longest { &run[..1] } else { run });
    SourceTrace { samples: new.copied().collect(), ..power.clone() }
}

/// Share of the energy between `a` and `b` that had flowed by `t`, by power samples between them.
///
/// `None` where the samples leave a gap, or are too far apart for an interval so short: a sensor that is renewed every
/// 100 ms says less about 100 ms than a straight line does. An average over the past has no course at all.
fn share_by(power: &SourceTrace, a: Seconds, b: Seconds, t: Seconds) -> Option<f64> {
    let fine = power.lag == Seconds(0.0) && power.tick.is_some_and(|tick| tick.0 * SHAPE_TICKS <= (b - a).0);
    let whole = power_energy(power, a, b).filter(|whole| fine && whole.coverage >= COVERAGE_NEEDED)?.energy.0;
    let part = match t < a {
        true => -power_energy(power, t, a)?.energy.0,
        false => power_energy(power, a, t).map_or(0.0, |part| part.energy.0),
    };
    (whole > 0.0).then_some(part / whole)
}

/// Energy between `t0` and `t1` by the trapezoid rule over every sample, interpolated linearly at both edges.
///
/// `None` without samples or for an empty window.
pub fn power_energy(source: &SourceTrace, t0: Seconds, t1: Seconds) -> Option<PowerIntegral> {
    let (first, last) = (source.samples.first()?, source.samples.last()?);
    // what lags speaks of the window at a later time
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
    Some(PowerIntegral { energy: Joules(energy), coverage: 1.0 - uncovered / whole, max_gap: Seconds(max_gap) })
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
fn overlap(one: (Seconds, Seconds), other: (Seconds, Seconds)) -> f64 {
    (one.1.0.min(other.1.0) - one.0.0.max(other.0.0)).max(0.0)
}

fn max_gap(source: &SourceTrace) -> Seconds {
    match (source.method, source.tick) {
        // two samples at each change of power: nothing is lost between them, however far apart they are
        (EnergyMethod::Simulated, None) => Seconds(f64::INFINITY),
        (_, Some(tick)) => Seconds((tick.0 * MAX_GAP_TICKS).max(MAX_GAP.0)),
        (_, None) => MAX_GAP,
    }
}

/// Power averaged over intervals of at least `spacing` of a counter, stamped at their middles: for figures.
///
/// It keeps the counter's method, which says that it is no second source.
pub fn derived_power(counter: &SourceTrace, spacing: Seconds) -> SourceTrace {
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

/// Gross energy between `t0` and `t1`: counters where there are, integrated power elsewhere, the residual of the two
/// where both are independent, and what speaks against the figure.
///
/// Where a domain of `info` has no usable source the total is `None`: a sum that leaves a domain out would pass for
/// the whole.
pub fn window_energy(trace: &Trace, info: &MeterInfo, t0: Seconds, t1: Seconds) -> (WindowEnergy, Validity) {
    let duration = t1 - t0;
    let mut validity = Validity::default();
    if duration < info.min_window_s || duration <= Seconds(0.0) {
        validity.invalid_reasons.push(Reason::WindowTooShort);
    }
    if duration <= Seconds(0.0) || info.domains.is_empty() {
        validity.invalid_reasons.push(Reason::NoEnergySource);
        return (WindowEnergy::default(), validity);
    }
    let readings: Vec<_> = info.domains.iter().map(|domain| Reading::of(trace, domain, t0, t1)).collect();
    let mut energy = combine(&readings);
    let sum = |domain: &Domain| ept_bench_sum(trace.find(&domain.name, Quantity::PowerUsage)?, t0, t1);
    energy.ept_bench_sum_j = info.domains.iter().map(sum).sum();
    // what is measured beside the charged domains is null where it is unknown, and makes no window invalid
    energy.host = info.host_domains.iter().filter_map(|domain| Reading::of(trace, domain, t0, t1).energy()).collect();
    judge(&energy, &readings, &mut validity);
    (energy, validity)
}

/// Mean power of all domains between `t0` and `t1`, by the sources that tell more of short times: power samples where
/// there are some, else counters.
///
/// `None` where a domain has neither.
pub fn mean_power(trace: &Trace, info: &MeterInfo, t0: Seconds, t1: Seconds) -> Option<Watts> {
    let energy = |domain: &Domain| {
        let reading = Reading::of(trace, domain, t0, t1);
        reading.power.map(|power| power.integral.energy).or_else(|| Some(reading.energy()?.energy_j))
    };
    let total: Option<Joules> = info.domains.iter().map(energy).sum();
    total.map(|total| total / (t1 - t0))
}

/// What the sources of one domain say about a window.
struct Reading<'a> {
    domain: &'a str,
    counter: Option<(EnergyMethod, Option<Seconds>, Result<Joules, CounterFault>)>,
    power: Option<Power>,
}

/// What the power samples of a domain say about a window.
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
        let energy = |source: &SourceTrace| counter_energy_shaped(source, power, t0, t1);
        Self {
            domain: &domain.name,
            counter: find(Quantity::EnergyCounter).map(|source| (source.method, source.tick, energy(source))),
            power: power.and_then(|source| Power::of(source, t0, t1)),
        }
    }

    fn energy(&self) -> Option<DomainEnergy> {
        let (method, energy_j) = match (&self.counter, &self.power) {
            (Some((method, _, energy)), _) => (*method, (*energy).ok()?),
            (None, Some(power)) => (power.method, power.integral.energy),
            (None, None) => return None,
        };
        let integral_j = self.power.map(|power| power.integral.energy);
        let residual = residual(Some(energy_j), integral_j).filter(|_| self.counter.is_some());
        Some(DomainEnergy { domain: self.domain.to_owned(), energy_j, method, integral_j, residual })
    }

    fn invalid_reason(&self) -> Option<Reason> {
        match (&self.counter, &self.power) {
            (Some((_, _, energy)), _) => energy.err().map(CounterFault::reason),
            (None, Some(power)) => (power.integral.coverage < COVERAGE_NEEDED).then_some(Reason::CoverageTooLow),
            (None, None) => Some(Reason::NoEnergySource),
        }
    }

    /// The counter's figure stands, but what should confirm it has holes.
    fn is_thinly_confirmed(&self) -> bool {
        self.counter.is_some() && self.power.is_some_and(|power| power.integral.coverage < COVERAGE_NEEDED)
    }
}

impl Power {
    fn of(source: &SourceTrace, t0: Seconds, t1: Seconds) -> Option<Self> {
        let averaged = source.lag > Seconds(0.0);
        Some(Self {
            method: source.method,
            integral: power_energy(source, t0, t1)?,
            averaged,
            coarse: averaged || source.tick.is_some_and(|tick| tick > COARSE),
        })
    }
}

/// `E_sum_J` of one domain: what EPT-Bench's own loop gives, which sleeps 0.1 s, reads `power_usage` and adds
/// power × 0.1 s, and drops what is left at the end. The reading in force at each of those instants is taken.
///
/// `None` without a reading at or before the first of those instants, or for an empty window.
pub fn ept_bench_sum(usage: &SourceTrace, t0: Seconds, t1: Seconds) -> Option<Joules> {
    let steps = ((t1 - t0).0 / EPT_BENCH_INTERVAL + 1e-9).floor();
    if steps.is_nan() || steps < 0.0 {
        return None;
    }
    let mut sum = 0.0;
    for step in 1..=steps as u64 {
        let t = t0.0 + step as f64 * EPT_BENCH_INTERVAL;
        let after = usage.samples.partition_point(|sample| sample.t.0 <= t);
        sum += usage.samples.get(after.checked_sub(1)?)?.value * EPT_BENCH_INTERVAL;
    }
    Some(Joules(sum))
}

/// Power that was computed from a counter carries the counter's method: it can't confirm that counter.
fn is_independent(source: &SourceTrace) -> bool {
    source.quantity == Quantity::EnergyCounter
        || matches!(source.method, EnergyMethod::PowerIntegral | EnergyMethod::Simulated)
}

fn combine(readings: &[Reading]) -> WindowEnergy {
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
        max_gap_s: powers.iter().map(|power| power.max_gap).reduce(|a, b| if a < b { b } else { a }),
        tick_s: readings
            .iter()
            .filter_map(|reading| reading.counter.as_ref()?.1)
            .reduce(|a, b| if a < b { b } else { a }),
        ept_bench_sum_j: None,
        host: Vec::new(),
        domains,
    }
}

/// (counter − integral) / counter.
fn residual(counter: Option<Joules>, integral: Option<Joules>) -> Option<f64> {
    let (counter, integral) = (counter?.0, integral?.0);
    (counter > 0.0).then(|| (counter - integral) / counter)
}

fn judge(energy: &WindowEnergy, readings: &[Reading], validity: &mut Validity) {
    let Validity { invalid_reasons, warnings } = validity;
    invalid_reasons.extend(readings.iter().filter_map(Reading::invalid_reason));
    let coarse = readings.iter().any(|reading| reading.power.is_some_and(|power| power.coarse));
    let (noticeable, too_large) = match coarse {
        true => (RESIDUAL_NOTICEABLE_COARSE, RESIDUAL_TOO_LARGE_COARSE),
        false => (RESIDUAL_NOTICEABLE, RESIDUAL_TOO_LARGE),
    };
    // a GPU that is off is not made good by another that is off the other way
    let residuals = energy.domains.iter().filter_map(|domain| domain.residual).chain(energy.residual);
    match residuals.map(f64::abs).reduce(f64::max) {
        Some(residual) if residual > too_large => invalid_reasons.push(Reason::ResidualTooLarge),
        Some(residual) if residual > noticeable => warnings.push(Reason::ResidualNoticeable),
        _ => {}
    }
    if readings.iter().any(Reading::is_thinly_confirmed) {
        warnings.push(Reason::CoverageTooLow);
    }
    if readings.iter().any(|reading| reading.power.is_some_and(|power| power.averaged)) {
        warnings.push(Reason::AveragedPower);
    }
    if energy.domains.iter().any(|domain| domain.method == EnergyMethod::Modelled) {
        warnings.push(Reason::Modelled);
    }
    invalid_reasons.sort();
    invalid_reasons.dedup();
}

#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) mod tests_support {
    //! A meter for tests of what works on traces.

    use super::*;

    /// A meter of these domains that needs no shortest window.
    pub fn info(domains: &[&str]) -> MeterInfo {
        let domain = |name: &&str| Domain { name: (*name).into(), description: String::new() };
        MeterInfo {
            name: "test".into(),
            method: EnergyMethod::Counter,
            domains: domains.iter().map(domain).collect(),
            tick_s: None,
            min_window_s: Seconds(0.0),
            guard_s: Seconds(0.0),
            idle_s: Seconds(1.0),
            notes: vec![],
            host_domains: vec![],
            sensing_period_s: None,
            sources: vec![],
            gpus: vec![],
        }
    }
}
