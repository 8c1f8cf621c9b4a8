//! How far a quantity still is from the steady value that it approaches.

use super::mean::t_quantile;
use super::polynomial::{Solution, least_squares};

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
    /// Standard error of `remainder` with the time constant that fits best.
    pub(crate) standard_error: f64,
    /// The present value, of which the others are shares.
    pub(crate) now: f64,
}

/// With fewer points the bound would say nothing.
const POINTS_NEEDED: usize = 6;
/// What rounding leaves of the squares of an exact course, as a share of all squares.
const ROUNDING: f64 = 1e-18;
/// So few points don't show what kind of noise they have.
const POINTS_TO_DISTINGUISH: usize = 15;
/// Noise is taken to lie between the points only if that makes them more likely by this much (of the logarithm): wrongly
/// taken so, the bound would be too small.
const CLEARLY: f64 = 5.0;

/// Fits y = a + b·exp(−(t − T)/τ) to points (t, y), where T is the last t, by least squares for each of
/// `time_constants`; −b is the remainder.
///
/// The time constant is profiled, not estimated: those count whose sum of squares exceeds the least by no more than the
/// F test at 5 % for one parameter allows (Bates and Watts, *Nonlinear Regression Analysis*, 1988, §6.1.2). A short or
/// noisy course allows a long time constant and with it a large remainder, so that it can't pass for a steady one.
///
/// Two kinds of noise are tried: that of each point by itself, and that of where one point ends and the next begins, as of
/// consecutive energies cut out of one running total, where what one is too large the next is too small. The latter is
/// least squares on the running sums of y. The kind that makes the points clearly more likely is taken.
///
/// `resolution` is the standard deviation that each y has at least, 0 if the points show their noise by themselves: readings
/// in whole degrees that are all the same aren't exact.
///
/// `None` below six points, or where they don't differ in time or have the mean 0.
pub(crate) fn approach(points: &[(f64, f64)], time_constants: &[f64], resolution: f64) -> Option<Approach> {
    let n = points.len();
    if n < POINTS_NEEDED {
        return None;
    }
    let (single, between) = (Fits::of(points, time_constants, rows)?, Fits::of(points, time_constants, running_sums)?);
    let single = single.no_finer_than(resolution, n);
    // the running sums of n points are n + 1 values with one more constant: the matrix of their differences has the
    // determinant n + 1
    let gain = single.log_squares(n) - between.log_squares(n) - 0.5 * (n as f64 + 1.0).ln();
    if resolution == 0.0 && n >= POINTS_TO_DISTINGUISH && gain > CLEARLY {
        between.approach(n)
    } else {
        single.approach(n)
    }
}

/// The fits with all time constants under one kind of noise.
struct Fits {
    all: Vec<Fit>,
    best: Fit,
    /// Σ of the squares of what is fitted.
    size: f64,
}

/// The course with one time constant.
#[derive(Debug, Clone, Copy)]
struct Fit {
    time_constant: f64,
    squares: f64,
    /// a − y(T).
    remainder: f64,
    /// Standard error of `remainder` for a residual variance of 1.
    standard_error: f64,
    /// y(T).
    now: f64,
}

/// A line of the regression: what multiplies each coefficient, of which the last two are the shape's and the constant's,
/// and what is fitted.
type Line = (Vec<f64>, f64);

/// The lines of one kind of noise: of points, for a shape of the course over time.
type Lines = fn(&[(f64, f64)], &dyn Fn(f64) -> f64) -> Vec<Line>;

/// y itself, on a constant and the shape.
fn rows(points: &[(f64, f64)], shape: &dyn Fn(f64) -> f64) -> Vec<Line> {
    points.iter().map(|(t, y)| (vec![shape(*t), 1.0], *y)).collect()
}

/// The running sums of y, on those of a constant and the shape, and on where they begin.
fn running_sums(points: &[(f64, f64)], shape: &dyn Fn(f64) -> f64) -> Vec<Line> {
    let (mut x_sum, mut y_sum, mut lines) = (0.0, 0.0, vec![(vec![1.0, 0.0, 0.0], 0.0)]);
    for (count, (t, y)) in (1..).zip(points) {
        x_sum += shape(*t);
        y_sum += y;
        lines.push((vec![1.0, x_sum, f64::from(count)], y_sum));
    }
    lines
}

impl Fits {
    fn of(points: &[(f64, f64)], time_constants: &[f64], lines: Lines) -> Option<Self> {
        let last = points.last()?.0;
        let of = |tau: &f64| Fit::of(&lines(points, &|t| (-(t - last) / tau).exp()), *tau);
        let all: Vec<Fit> = time_constants.iter().filter_map(of).collect();
        let best = *all.iter().min_by(|a, b| a.squares.total_cmp(&b.squares))?;
        let size = lines(points, &|_| 1.0).iter().map(|(_, y)| y * y).sum();
        Some(Self { all, best, size })
    }

    /// The same with this variance for each point in addition.
    fn no_finer_than(mut self, resolution: f64, n: usize) -> Self {
        let least = n as f64 * resolution * resolution;
        self.all.iter_mut().for_each(|fit| fit.squares += least);
        self.best.squares += least;
        self
    }

    /// n/2 · ln(Σ of squares): all that the likelihood of n points depends on.
    fn log_squares(&self, n: usize) -> f64 {
        n as f64 / 2.0 * self.best.squares.max(ROUNDING * self.size).ln()
    }

    fn approach(&self, n: usize) -> Option<Approach> {
        let freedom = (n - 2) as f64;
        let excess = t_quantile(0.975, (n - 3) as f64).powi(2) / (n - 3) as f64;
        let allowed = self.best.squares * (1.0 + excess) + ROUNDING * self.size;
        let bound = |fit: &Fit| {
            fit.remainder.abs() + t_quantile(0.95, freedom) * (fit.squares / freedom).sqrt() * fit.standard_error
        };
        let at_most = self.all.iter().filter(|fit| fit.squares <= allowed).map(bound).fold(0.0, f64::max);
        let now = self.best.now.abs();
        (now > 0.0).then(|| Approach {
            remainder: self.best.remainder / now,
            at_most: at_most / now,
            slope: self.best.remainder / self.best.time_constant / now,
            standard_error: (self.best.squares / freedom).sqrt() * self.best.standard_error / now,
            now,
        })
    }
}

impl Fit {
    fn of(lines: &[Line], time_constant: f64) -> Option<Self> {
        let Solution { coefficients, squares, variances } = least_squares(lines)?;
        let [.., shape, constant] = coefficients[..] else { return None };
        let [.., of_shape, _] = variances[..] else { return None };
        Some(Self {
            time_constant,
            squares,
            remainder: -shape,
            standard_error: of_shape.max(0.0).sqrt(),
            now: constant + shape,
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
        let found = approach(&course(40, 0.03, 0.0, 0), &CONSTANTS, 0.0).unwrap();
        let left = 0.03 * (-40.0f64 / 25.0).exp();
        assert!((found.remainder - left / (1.0 - left)).abs() < 1e-9, "{found:?}");
        assert!((found.slope - found.remainder / 25.0).abs() < 1e-9);
        assert!((found.at_most - found.remainder).abs() < 1e-6, "no other time constant fits");
        let constant: Vec<(f64, f64)> = (0..10).map(|t| (f64::from(t), 7.0)).collect();
        let steady = approach(&constant, &CONSTANTS, 0.0).unwrap();
        assert!(steady.remainder.abs() < 1e-9 && steady.at_most < 1e-9, "{steady:?}");
    }

    #[test]
    fn a_short_look_at_a_rising_course_is_not_taken_for_a_steady_one() {
        // 2 % are still to come after 10 s
        let passes = |seed| approach(&course(10, 0.03, 0.002, seed), &CONSTANTS, 0.0).unwrap().at_most < 0.01;
        let passed = (0..400).filter(|seed| passes(*seed)).count();
        assert!(passed <= 20, "{passed} of 400");
    }

    #[test]
    fn the_bound_holds_what_is_still_to_come_in_95_of_100_courses_and_long_steady_ones_pass() {
        let bound =
            |seconds, rise, seed| approach(&course(seconds, rise, 0.002, seed), &CONSTANTS, 0.0).unwrap().at_most;
        for seconds in [12, 25, 50] {
            let left = 0.03 * (-f64::from(seconds) / 25.0).exp();
            let held = (0..400).filter(|seed| bound(seconds, 0.03, *seed) >= left).count();
            assert!(held >= 380, "{held} of 400 after {seconds} s");
        }
        let passed = (0..100).filter(|seed| bound(40, 0.0, *seed) < 0.005).count();
        assert!(passed > 90, "{passed} of 100 steady courses");
    }

    #[test]
    fn energies_cut_out_of_one_total_are_known_much_better_than_the_scatter_of_each() {
        // what one cycle has too much, because of where it was cut, the next has too little
        let cut = |seed: u64| {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            let mut edge = || ((0..12).map(|_| random.random::<f64>()).sum::<f64>() - 6.0) * 0.004;
            let edges: Vec<f64> = (0..=30).map(|_| edge()).collect();
            let point = |(t, ends): (u32, &[f64])| (f64::from(t), 1.0 + ends[1] - ends[0]);
            approach(&(0..).zip(edges.windows(2)).map(point).collect::<Vec<_>>(), &CONSTANTS, 0.0).unwrap().at_most
        };
        let scattered = |seed| approach(&course(30, 0.0, 0.0057, seed), &CONSTANTS, 0.0).unwrap().at_most;
        let median = |of: &dyn Fn(u64) -> f64| {
            let mut all: Vec<f64> = (0..101).map(of).collect();
            all.sort_by(f64::total_cmp);
            all[50]
        };
        let (cut, scattered) = (median(&cut), median(&scattered));
        assert!(cut < 0.006 && scattered > 2.0 * cut, "{cut} {scattered}");
    }

    #[test]
    fn readings_in_whole_degrees_that_do_not_change_are_not_taken_for_exact() {
        let same = |seconds: u32| (0..seconds).map(|t| (f64::from(t), 47.0)).collect::<Vec<_>>();
        let left = |seconds| approach(&same(seconds), &CONSTANTS, 0.3).unwrap();
        assert!(left(7).at_most * left(7).now > 2.0, "a rise of a degree may hide in seven seconds");
        assert!(left(60).at_most * left(60).now < 0.4, "and hardly any in a minute");
    }

    #[test]
    fn few_points_say_nothing() {
        assert_eq!(approach(&course(5, 0.0, 0.0, 0), &CONSTANTS, 0.0), None);
    }
}
