//! How much more energy the same work takes for each degree: from the warm-ups, in which it runs again and again while
//! the device gets warmer.
//!
//! In one trial ln E = c + β·T, with a c of its own. Sensors give whole degrees, and errors in T would pull a plain
//! regression on T towards 0. So T itself is fitted first, as a + b·exp(−t/τ) over time, and ln E is regressed on that
//! (two-stage least squares: the course over time is an instrument, which the rounding has nothing to do with). With one
//! instrument z, β = Σz·ln E / Σz·T with z about its mean, also if temperature doesn't quite follow the exponential.
//!
//! The trials' slopes are averaged with their information as weights, (Σz·T)² / Σz², which is 1 / variance if the
//! cycles of all trials have about the same relative noise, with Student's t over trials.

use crate::frame::Course;
use crate::record::{Cycle, usual};
use crate::stats::{Contrast, Estimate, Interval, WeightedPoint, ln, weighted_polynomial};
use crate::vocabulary::vocabulary;

/// What a degree adds to the energy of the same work. Core and memory are fitted each on its own: they warm up together,
/// so that each slope contains most of what the other one does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeatEffects {
    /// By the temperature of the core.
    pub core: HeatEffect,
    /// By the temperature of the memory.
    pub memory: HeatEffect,
}

/// What a degree adds to the energy of the same work.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum HeatEffect {
    /// It was fitted.
    Known(PerDegree),
    /// The warm-ups don't show it.
    Unknown(HeatUnknown),
}

/// A fitted effect.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PerDegree {
    /// Change of ln E for each °C: 0.004 is 0.4 % per °C. `n` counts trials; one alone gives no interval.
    pub share: Estimate,
    /// The lowest and the highest temperature in °C that it rests on.
    pub range_c: Interval,
}

vocabulary! {
    /// Why it isn't known what a degree adds.
    pub enum HeatUnknown {
        /// No valid trial has a record of the cycles of its warm-up.
        NoCourse = "no_course", "no warm-up was recorded cycle by cycle";
        /// No cycle has a temperature.
        NoTemperature = "no_temperature", "no temperature was recorded";
        /// No warm-up has enough cycles on one course over enough degrees.
        NarrowRange = "narrow_range", "no warm-up runs through 3 °C";
    }
}

impl Default for HeatEffects {
    fn default() -> Self {
        let unknown = HeatEffect::Unknown(HeatUnknown::NoCourse);
        Self { core: unknown, memory: unknown }
    }
}

impl HeatEffect {
    /// Change of ln E for each °C, if its interval excludes 0: what a run doesn't show explains no difference.
    pub(crate) fn shown(&self) -> Option<f64> {
        match self {
            Self::Known(known) if known.share.interval.is_some_and(|ends| ends.low > 0.0 || ends.high < 0.0) => {
                Some(known.share.value)
            }
            _ => None,
        }
    }

    /// Change of ln E for each °C, if it is known.
    #[cfg(test)]
    fn share(&self) -> Option<f64> {
        match self {
            Self::Known(known) => Some(known.share.value),
            Self::Unknown(_) => None,
        }
    }
}

/// A warm-up that spans less shows more of the sensor's rounding than of the effect.
const LEAST_RANGE_C: f64 = 3.0;
/// A slope of fewer cycles is noise.
const LEAST_CYCLES: usize = 5;
/// Share of the variance of the temperature that its course over time must explain: less isn't an approach, such as a
/// rise and a fall.
const LEAST_EXPLAINED: f64 = 0.5;
/// Time constants in seconds that are tried, each √2 of the one before: from chip to heat sink and board.
const TIME_CONSTANTS: (f64, usize) = (2.0, 17);

type Reading = fn(&Cycle) -> Option<f64>;

/// Fits the effects from the warm-ups of a run.
pub(super) fn effects(courses: &[Course]) -> HeatEffects {
    HeatEffects {
        core: effect(courses, |cycle| cycle.temperature_c),
        memory: effect(courses, |cycle| cycle.memory_temperature_c),
    }
}

fn effect(courses: &[Course], temperature: Reading) -> HeatEffect {
    if courses.is_empty() {
        return HeatEffect::Unknown(HeatUnknown::NoCourse);
    }
    let points: Vec<Vec<Point>> = courses.iter().map(|course| points(&course.0, temperature)).collect();
    if points.iter().all(Vec::is_empty) {
        return HeatEffect::Unknown(HeatUnknown::NoTemperature);
    }
    let slopes: Vec<Slope> = points.iter().filter_map(|points| Slope::of(points)).collect();
    pooled(&slopes).map_or(HeatEffect::Unknown(HeatUnknown::NarrowRange), HeatEffect::Known)
}

/// A cycle of work at a temperature.
#[derive(Debug, Clone, Copy)]
struct Point {
    t: f64,
    temperature_c: f64,
    log_energy: f64,
}

/// The cycles that did the same work as most, and have a temperature.
fn points(cycles: &[Cycle], temperature: Reading) -> Vec<Point> {
    let point = |cycle: &Cycle| {
        let (temperature_c, log_energy) = (temperature(cycle)?, ln(cycle.energy_j.get())?);
        Some(Point { t: cycle.t_s.get(), temperature_c, log_energy })
    };
    usual(cycles).into_iter().filter_map(point).collect()
}

/// What one warm-up says.
#[derive(Debug, Clone, Copy)]
struct Slope {
    share: f64,
    /// 1 / variance, up to a factor that all trials share.
    information: f64,
    range_c: Interval,
}

impl Slope {
    /// `None` if temperature doesn't change enough, or doesn't approach anything.
    fn of(points: &[Point]) -> Option<Self> {
        let temperatures = points.iter().map(|point| point.temperature_c);
        let ends = (f64::INFINITY, f64::NEG_INFINITY);
        let (low, high) = temperatures.fold(ends, |(low, high), t| (low.min(t), high.max(t)));
        if points.len() < LEAST_CYCLES || high - low < LEAST_RANGE_C {
            return None;
        }
        let (first, times) = TIME_CONSTANTS;
        let time_constants = (0..times).map(|power| first * 2.0f64.powf(power as f64 / 2.0));
        let courses = time_constants.filter_map(|tau| Instrument::of(points, tau));
        let best = courses.max_by(|a, b| a.explained.total_cmp(&b.explained))?;
        (best.explained >= LEAST_EXPLAINED).then(|| Self {
            share: best.with_energy / best.with_temperature,
            information: best.with_temperature.powi(2) / best.squares,
            range_c: Interval { low, high },
        })
    }
}

/// The course z = exp(−t/τ) about its mean, and what it has in common with temperature and energy.
struct Instrument {
    /// Σz².
    squares: f64,
    /// Σz·T.
    with_temperature: f64,
    /// Σz·ln E.
    with_energy: f64,
    /// Share of the variance of the temperature.
    explained: f64,
}

impl Instrument {
    /// `None` if z is flat.
    fn of(points: &[Point], time_constant: f64) -> Option<Self> {
        let began = points.first()?.t;
        let shape = |point: &Point| (-(point.t - began) / time_constant).exp();
        let mean = |get: &dyn Fn(&Point) -> f64| points.iter().map(get).sum::<f64>() / points.len() as f64;
        let (mean_z, mean_c) = (mean(&shape), mean(&|point| point.temperature_c));
        let sum = |get: &dyn Fn(&Point) -> f64| points.iter().map(|point| (shape(point) - mean_z) * get(point)).sum();
        let squares: f64 = sum(&|point| shape(point) - mean_z);
        let with_temperature: f64 = sum(&|point| point.temperature_c - mean_c);
        let all: f64 = points.iter().map(|point| (point.temperature_c - mean_c).powi(2)).sum();
        (squares > 0.0 && all > 0.0).then(|| Self {
            squares,
            with_temperature,
            with_energy: sum(&|point| point.log_energy),
            explained: with_temperature.powi(2) / squares / all,
        })
    }
}

fn pooled(slopes: &[Slope]) -> Option<PerDegree> {
    let range = slopes
        .iter()
        .map(|slope| slope.range_c)
        .reduce(|a, b| Interval { low: a.low.min(b.low), high: a.high.max(b.high) })?;
    let point = |slope: &Slope| WeightedPoint { x: 1.0, y: slope.share, weight: slope.information };
    let mean = weighted_polynomial(&slopes.iter().map(point).collect::<Vec<_>>(), 0)?;
    Some(PerDegree { share: mean.first().map(Contrast::estimate)?, range_c: range })
}

#[cfg(test)]
mod tests {
    use rand::{Rng as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::units::{Joules, Seconds};

    /// From `from` °C towards 57 °C with a time constant of 25 s, in whole degrees; a cycle a second for 40 s, with
    /// 0.4 % per °C and 0.3 % of noise. Memory is as much warmer as changes nothing.
    fn warm_up(random: &mut ChaCha8Rng, from: f64) -> Course {
        let mut normal = || {
            let (u, v): (f64, f64) = (1.0 - random.random::<f64>(), random.random());
            (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
        };
        let cycle = |second: u32| {
            let t = f64::from(second) + 0.5;
            let temperature = 57.0 - (57.0 - from) * (-t / 25.0).exp();
            Cycle {
                t_s: Seconds(100.0 + t),
                duration_s: Seconds(1.0),
                energy_j: Joules(700.0 * (1.0 + 0.004 * (temperature - 50.0)) * (1.0 + 0.003 * normal())),
                temperature_c: Some(temperature.round()),
                memory_temperature_c: Some((temperature + 14.0).round()),
            }
        };
        Course((0..40).map(cycle).collect())
    }

    fn known(effect: HeatEffect) -> PerDegree {
        match effect {
            HeatEffect::Known(known) => known,
            HeatEffect::Unknown(why) => panic!("{why:?}"),
        }
    }

    /// The mean of the fitted shares of 400 warm-ups, each alone, that start within half a degree of `from`.
    fn mean_share(from: f64) -> f64 {
        let mut random = ChaCha8Rng::seed_from_u64(9);
        let mut share = || {
            let from = from + random.random::<f64>() - 0.5;
            effects(&[warm_up(&mut random, from)]).core.share()
        };
        let shares: Vec<f64> = (0..400).filter_map(|_| share()).collect();
        assert!(shares.len() > 200, "{}", shares.len());
        shares.iter().sum::<f64>() / shares.len() as f64
    }

    #[test]
    fn what_a_degree_adds_is_found_although_the_sensor_gives_whole_degrees() {
        for from in [45.0, 51.0] {
            let percent = 100.0 * mean_share(from);
            assert!((percent - 0.40).abs() < 0.03, "{percent} % per °C from {from} °C");
        }
    }

    #[test]
    fn the_interval_over_trials_holds_the_truth_and_the_range_is_told() {
        let mut random = ChaCha8Rng::seed_from_u64(10);
        let mut hits = 0;
        for _ in 0..1000 {
            let courses = [45.0, 47.0, 49.0, 45.0, 50.0].map(|from| warm_up(&mut random, from));
            let found = known(effects(&courses).core);
            let Interval { low, high } = found.share.interval.unwrap();
            // of ln E, at about 52 °C
            hits += usize::from((low..=high).contains(&(0.004 / 1.008)));
            assert_eq!(found.share.n, 5);
            assert!((45.0..=46.0).contains(&found.range_c.low) && found.range_c.high > 53.0, "{:?}", found.range_c);
        }
        assert!((930..=975).contains(&hits), "{hits} of 1000");
    }

    #[test]
    fn memory_is_fitted_by_its_own_temperature() {
        let mut random = ChaCha8Rng::seed_from_u64(11);
        let mut course = warm_up(&mut random, 45.0);
        let found = effects(&[course.clone()]);
        assert!((found.memory.share().unwrap() - found.core.share().unwrap()).abs() < 2e-4);
        assert_eq!(known(found.memory).share.interval, None, "one trial has no spread");
        course.0.iter_mut().for_each(|cycle| cycle.memory_temperature_c = None);
        assert_eq!(effects(&[course]).memory, HeatEffect::Unknown(HeatUnknown::NoTemperature));
    }

    #[test]
    fn a_first_cycle_that_loads_kernels_as_well_does_not_decide() {
        let mut random = ChaCha8Rng::seed_from_u64(12);
        let mut course = warm_up(&mut random, 45.0);
        let before = effects(&[Course(course.0[1..].to_vec())]);
        course.0[0].duration_s = Seconds(1.06);
        course.0[0].energy_j = Joules(3000.0);
        assert_eq!(effects(&[course]).core, before.core);
    }

    #[test]
    fn a_warm_up_that_spans_too_little_or_has_too_few_cycles_says_nothing() {
        let mut random = ChaCha8Rng::seed_from_u64(13);
        let narrow = HeatEffect::Unknown(HeatUnknown::NarrowRange);
        assert_eq!(effects(&[warm_up(&mut random, 55.0)]).core, narrow);
        let course = warm_up(&mut random, 45.0);
        let few = Course(course.0.iter().step_by(10).copied().collect());
        assert_eq!(effects(std::slice::from_ref(&few)).core, narrow);
        assert!(effects(&[few, course]).core.share().is_some(), "another one does");
        assert_eq!(effects(&[]), HeatEffects::default());
    }

    #[test]
    fn a_rise_and_a_fall_are_no_approach() {
        let mut random = ChaCha8Rng::seed_from_u64(14);
        let mut course = warm_up(&mut random, 45.0);
        for (cycle, second) in course.0.iter_mut().zip(0..) {
            cycle.temperature_c = Some(50.0 - (f64::from(second) - 19.5).abs() / 4.0);
        }
        assert_eq!(effects(&[course]).core, HeatEffect::Unknown(HeatUnknown::NarrowRange));
    }
}
