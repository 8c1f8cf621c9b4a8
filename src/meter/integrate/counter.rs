//! Energy from a running total that ticks.

use super::power::{max_gap, overlap, power_energy};
use crate::record::{EnergyMethod, Sample, SourceTrace};
use crate::units::{Joules, Seconds};
use crate::validity::{COVERAGE_NEEDED, CounterFault};

/// Only ticks are used that are known at worst this many times less closely than the best known one: readings at a
/// steady rhythm stay within it, and those of a counter that is seldom read don't.
const CLOSE_ENOUGH: f64 = 4.0;
/// A tick that is known to this share of its length is known closely in any case …
const CLOSE_SHARE: f64 = 0.2;
/// … and one that isn't known to this share never is: with readings 25 ms apart or more, four times the closest gap
/// would be a whole tick, and readings stamped to half a tick would pass for known ones.
const CLOSE_AT_WORST: f64 = 0.5;
/// Gaps between readings at a steady rhythm differ by less than this factor.
const ALIKE: f64 = 1.25;
/// Power samples show the shape of power between two ticks of the counter that are at least this many samples apart.
const SHAPE_TICKS: f64 = 3.0;
/// A hardware counter that stands still for this many of its ticks is stuck …
const STUCK_TICKS: f64 = 10.0;
/// … but not before this long, because readings can come much more slowly than ticks.
const STUCK_AT_LEAST: Seconds = Seconds(0.5);
/// The same from a window's end on, where a ticking counter is read closely …
const STUCK_TICKS_AT_END: f64 = 3.0;
/// … for as long as guard work lasts.
const STUCK_AT_LEAST_AT_END: Seconds = Seconds(0.2);

/// Energy between `t0` and `t1` by a running total, interpolated at both edges.
///
/// A counter that states a tick is a staircase: repeated readings say only that no tick came, so the line goes through
/// the ticks, not through the readings. Between two ticks the counter is taken to have risen as `power`
/// shows, if that is fine enough, and linearly otherwise: at an edge the work often changes (decoding ends, the next
/// prefill begins), and the last tick before the window's end that is known can lie seconds back.
///
/// Only the shape of `power` between two ticks counts, not its height: a power sensor that reads too high by a constant
/// factor changes nothing, so the two sources still check each other.
///
/// # Errors
/// The counter went backwards or stood still inside the window, or its readings don't reach both edges.
pub(crate) fn counter_energy(
    source: &SourceTrace,
    power: Option<&SourceTrace>,
    t0: Seconds,
    t1: Seconds,
) -> Result<Counted, CounterFault> {
    if is_stuck(source, t0, t1) {
        return Err(CounterFault::Stuck);
    }
    let power = power.filter(|_| source.tick.is_some()).map(renewed);
    let power = power.as_ref();
    match between(&ticks(source), source.tick, power, t0, t1) {
        // the closely known ticks may not reach an edge: less closely known ones are better than none
        Err(CounterFault::NotCovered) => between(&seen_ticks(source), source.tick, power, t0, t1),
        found => found,
    }
}

/// The rise between two instants of a line through `points`, straight or with the shape of `power`.
fn between(
    points: &[Tick],
    tick: Option<Seconds>,
    power: Option<&SourceTrace>,
    t0: Seconds,
    t1: Seconds,
) -> Result<Counted, CounterFault> {
    let from = points.partition_point(|point| point.at.t <= t0).saturating_sub(1);
    let to = points.partition_point(|point| point.at.t < t1).min(points.len().saturating_sub(1));
    let inside = points.get(from..=to).ok_or(CounterFault::NotCovered)?;
    if inside.windows(2).any(|pair| pair[1].at.value < pair[0].at.value) {
        return Err(CounterFault::Reset);
    }
    let reach = tick.unwrap_or_default();
    let at = |t| value_at(inside, t, reach, power).ok_or(CounterFault::NotCovered);
    let (start, end) = (at(t0)?, at(t1)?);
    let edges = tick.map(|_| (Seconds(start.uncertain), Seconds(end.uncertain)));
    Ok(Counted { energy: Joules(end.value - start.value), edges })
}

/// Energy by a counter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Counted {
    pub(crate) energy: Joules,
    /// How closely the ticks next to the window's start and end are known: ± so many seconds. `None` for a source that
    /// states no tick.
    pub(crate) edges: Option<(Seconds, Seconds)>,
}

/// When a counter ticked, as well as its readings show, and its value then.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Tick {
    at: Sample,
    /// The tick came in an interval of this many seconds around `at`.
    gap: f64,
}

/// The ticks that are known closely, if some are known much more closely than others (the counter was read closely around
/// the edges of a window). Without a stated tick, the readings themselves.
fn ticks(source: &SourceTrace) -> Vec<Tick> {
    let seen = seen_ticks(source);
    let closest = seen.iter().map(|tick| tick.gap).fold(f64::INFINITY, f64::min);
    let nominal = source.tick.map_or(f64::INFINITY, |tick| tick.0);
    let least = if nominal.is_finite() { nominal * CLOSE_SHARE } else { 0.0 };
    // readings at a steady rhythm know all ticks alike, however far apart they are
    let at_worst = (nominal * CLOSE_AT_WORST).max(closest * ALIKE);
    let enough = (closest * CLOSE_ENOUGH).max(least).min(at_worst);
    seen.into_iter().filter(|tick| tick.gap <= enough).collect()
}

/// All ticks that the readings show. A reading that differs from the one before shows that a tick came between the two, at
/// most one tick ago: it is stamped with the middle of that interval.
fn seen_ticks(source: &SourceTrace) -> Vec<Tick> {
    let Some(tick) = source.tick else {
        return source.samples.iter().map(|sample| Tick { at: *sample, gap: 0.0 }).collect();
    };
    let seen = |reading: &Sample, gap: f64| {
        let at = Sample { t: Seconds(reading.t.0 - gap / 2.0), ..*reading };
        Tick { at, gap }
    };
    let first = source.samples.first().map(|reading| seen(reading, tick.0));
    let later = source
        .samples
        .windows(2)
        .filter(|pair| pair[0].value != pair[1].value)
        .map(|pair| seen(&pair[1], (pair[1].t - pair[0].t).0.min(tick.0)));
    first.into_iter().chain(later).collect()
}

/// Only hardware counters can stick; a simulated or computed one stands still while there is no power.
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

/// A counter's value at an instant, and how closely the ticks that it rests on are known, in seconds either way.
#[derive(Debug, Clone, Copy)]
struct At {
    value: f64,
    uncertain: f64,
}

/// Interpolation with the shape of `power`, or linear; past either end the nearest slope is followed for `reach`.
fn value_at(points: &[Tick], t: Seconds, reach: Seconds, power: Option<&SourceTrace>) -> Option<At> {
    let after = points.partition_point(|point| point.at.t <= t);
    let left = after.saturating_sub(1).min(points.len().checked_sub(2)?);
    let (a, b) = (points[left], points[left + 1]);
    let (from, to) = (a.at, b.at);
    let outside = (from.t - t).0.max((t - to.t).0);
    let straight = (t - from.t).0 / (to.t - from.t).0;
    let share = power.and_then(|power| share_by(power, from.t, to.t, t)).unwrap_or(straight);
    // a tick that is stamped wrongly by dt moves the line next to it by as much, and the far one hardly
    let near = straight.clamp(0.0, 1.0);
    let uncertain = ((1.0 - near) * a.gap + near * b.gap) / 2.0;
    (outside <= reach.0 && share.is_finite())
        .then_some(At { value: from.value + (to.value - from.value) * share, uncertain })
}

/// The samples without those that repeat the one before for a moment: the sensor wasn't updated in time. A line from
/// one new sample to the next follows a jump of power sooner than they do. A value that stays the same for longer is
/// constant power.
pub(super) fn renewed(power: &SourceTrace) -> SourceTrace {
    let longest = max_gap(power);
    let runs = power.samples.chunk_by(|a, b| a.value == b.value);
    let new = runs.flat_map(|run| if run[run.len() - 1].t - run[0].t <= longest { &run[..1] } else { run });
    SourceTrace { samples: new.copied().collect(), ..power.clone() }
}

/// Share of the energy between `a` and `b` that had flowed by `t`, by power samples between them.
///
/// `None` where the samples leave a gap, or are too far apart for an interval so short: a sensor that is renewed every
/// 100 ms says less about 100 ms than a straight line does. An average over the past has no shape at all.
fn share_by(power: &SourceTrace, a: Seconds, b: Seconds, t: Seconds) -> Option<f64> {
    let fine = power.lag == Seconds(0.0) && power.tick.is_some_and(|tick| tick.0 * SHAPE_TICKS <= (b - a).0);
    let whole = power_energy(power, a, b).filter(|whole| fine && whole.coverage >= COVERAGE_NEEDED)?.energy.0;
    let part = match t < a {
        true => -power_energy(power, t, a)?.energy.0,
        false => power_energy(power, a, t).map_or(0.0, |part| part.energy.0),
    };
    (whole > 0.0).then_some(part / whole)
}
