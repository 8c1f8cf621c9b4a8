//! How far a quantity still is from the steady value that it approaches.

use super::mean::t_quantile;

/// Where a course that approaches a steady value has come to, relative to its value at the last point.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Approach {
    /// Steady value less the present one, by the time constant that fits best.
    pub(crate) remainder: f64,
    /// The largest |remainder| that the data allow: over all time constants that fit about as well, with the one-sided
    /// 95 % bound of each.
    pub(crate) at_most: f64,
    /// Present change for each unit of time.
    pub(crate) slope: f64,
}

/// With fewer points the bound would say nothing.
const POINTS_NEEDED: usize = 6;
/// What rounding leaves of the squares of an exact course, as a share of all squares.
const ROUNDING: f64 = 1e-18;

/// Fits y = a + b·exp(−(t − T)/τ) to points (t, y), where T is the last t, by least squares for each of
/// `time_constants`; −b is the remainder.
///
/// The time constant is profiled, not estimated: those count whose sum of squares exceeds the least by no more than the
/// F test at 5 % for one parameter allows (Bates and Watts, *Nonlinear Regression Analysis*, 1988, §6.1.2). A short or
/// noisy course allows a long time constant and with it a large remainder, so that it can't pass for a steady one.
///
/// `None` below six points, or where they don't differ in time or have the mean 0.
pub(crate) fn approach(points: &[(f64, f64)], time_constants: &[f64]) -> Option<Approach> {
    let n = points.len();
    if n < POINTS_NEEDED {
        return None;
    }
    let fits: Vec<Fit> = time_constants.iter().filter_map(|tau| Fit::of(points, *tau)).collect();
    let best = *fits.iter().min_by(|a, b| a.squares.total_cmp(&b.squares))?;
    let all: f64 = points.iter().map(|(_, y)| y * y).sum();
    let allowed = best.squares * (1.0 + t_quantile(0.975, (n - 3) as f64).powi(2) / (n - 3) as f64) + ROUNDING * all;
    let bound = |fit: &Fit| fit.remainder.abs() + t_quantile(0.95, (n - 2) as f64) * fit.standard_error;
    let at_most = fits.iter().filter(|fit| fit.squares <= allowed).map(bound).fold(0.0, f64::max);
    let now = best.now.abs();
    (now > 0.0).then(|| Approach {
        remainder: best.remainder / now,
        at_most: at_most / now,
        slope: best.remainder / best.time_constant / now,
    })
}

/// The course with one time constant.
#[derive(Debug, Clone, Copy)]
struct Fit {
    time_constant: f64,
    squares: f64,
    /// a − y(T).
    remainder: f64,
    standard_error: f64,
    /// y(T).
    now: f64,
}

impl Fit {
    fn of(points: &[(f64, f64)], time_constant: f64) -> Option<Self> {
        let (first, last) = (points.first()?.0, points.last()?.0);
        let shape = |t: f64| (-(t - first) / time_constant).exp();
        let n = points.len() as f64;
        let mean_x = points.iter().map(|(t, _)| shape(*t)).sum::<f64>() / n;
        let mean_y = points.iter().map(|(_, y)| y).sum::<f64>() / n;
        let (mut xx, mut xy) = (0.0, 0.0);
        for (t, y) in points {
            let x = shape(*t) - mean_x;
            xx += x * x;
            xy += x * (y - mean_y);
        }
        if xx.is_nan() || xx <= 0.0 {
            return None;
        }
        let rise = xy / xx;
        let squares: f64 = points.iter().map(|(t, y)| (y - mean_y - rise * (shape(*t) - mean_x)).powi(2)).sum();
        let end = shape(last);
        Some(Self {
            time_constant,
            squares,
            remainder: -rise * end,
            standard_error: (squares / (n - 2.0) / xx).sqrt() * end,
            now: mean_y + rise * (end - mean_x),
        })
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    const CONSTANTS: [f64; 8] = [2.0, 4.0, 8.0, 12.0, 18.0, 25.0, 35.0, 45.0];

    /// One point a second that rises by `rise` towards 1 with τ = 25 s, with noise of this standard deviation.
    fn course(seconds: u32, rise: f64, noise: f64, seed: u64) -> Vec<(f64, f64)> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut normal = || (0..12).map(|_| random.random::<f64>()).sum::<f64>() - 6.0;
        let at = |t: f64| 1.0 - rise * (-t / 25.0).exp();
        (1..=seconds).map(|t| (f64::from(t), at(f64::from(t)) + noise * normal())).collect()
    }

    #[test]
    fn an_exact_course_shows_exactly_what_is_still_to_come() {
        let found = approach(&course(40, 0.03, 0.0, 0), &CONSTANTS).unwrap();
        let left = 0.03 * (-40.0f64 / 25.0).exp();
        assert!((found.remainder - left / (1.0 - left)).abs() < 1e-9, "{found:?}");
        assert!((found.slope - found.remainder / 25.0).abs() < 1e-9);
        assert!((found.at_most - found.remainder).abs() < 1e-6, "no other time constant fits");
        let constant: Vec<(f64, f64)> = (0..10).map(|t| (f64::from(t), 7.0)).collect();
        let steady = approach(&constant, &CONSTANTS).unwrap();
        assert_eq!((steady.remainder, steady.at_most), (0.0, 0.0));
    }

    #[test]
    fn a_short_look_at_a_rising_course_is_not_taken_for_a_steady_one() {
        // 0.1 °C a second under a sensor of whole degrees passed for steady: here 1 % is still to come after 27 s
        for seed in 0..50 {
            let found = approach(&course(10, 0.03, 0.002, seed), &CONSTANTS).unwrap();
            assert!(found.at_most > 0.01, "{found:?}");
        }
    }

    #[test]
    fn the_bound_holds_what_is_still_to_come_in_95_of_100_courses_and_long_steady_ones_pass() {
        let bound = |seconds, rise, seed| approach(&course(seconds, rise, 0.002, seed), &CONSTANTS).unwrap().at_most;
        for seconds in [12, 25, 50] {
            let left = 0.03 * (-f64::from(seconds) / 25.0).exp();
            let held = (0..400).filter(|seed| bound(seconds, 0.03, *seed) >= left).count();
            assert!(held >= 380, "{held} of 400 after {seconds} s");
        }
        let passed = (0..100).filter(|seed| bound(40, 0.0, *seed) < 0.005).count();
        assert!(passed > 90, "{passed} of 100 steady courses");
    }

    #[test]
    fn few_points_say_nothing() {
        assert_eq!(approach(&course(5, 0.0, 0.0, 0), &CONSTANTS), None);
    }
}
