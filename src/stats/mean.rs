//! Means and differences of means of independent values, with what their t distribution needs.

use statrs::distribution::{Continuous as _, ContinuousCDF as _, StudentsT};

use super::estimate::{Estimate, Interval};

/// Confidence of every two-sided interval.
pub(crate) const CONFIDENCE: f64 = 0.95;

/// Mean of independent values with the Student-t interval x̄ ± t(n − 1)·s/√n (Student 1908).
///
/// `None` without values; no interval at n = 1. Exactly equal values have an interval of zero width.
pub fn mean(values: &[f64]) -> Option<Estimate> {
    Contrast::of_mean(values).map(|contrast| contrast.estimate())
}

/// Mean of `new[i] − base[i]` with the Student-t interval of the differences.
///
/// `None` without pairs, or where the lengths differ.
pub(crate) fn paired_difference(base: &[f64], new: &[f64]) -> Option<Estimate> {
    Contrast::paired(base, new).map(|contrast| contrast.estimate())
}

/// Quantile of Student's t distribution; `freedom` may be fractional.
pub(crate) fn t_quantile(probability: f64, freedom: f64) -> f64 {
    let distribution = t_distribution(freedom);
    let mut t = distribution.inverse_cdf(probability);
    for _ in 0..2 {
        // The library's quantile is good to a few digits in places: two steps of Newton's method polish it.
        t -= (distribution.cdf(t) - probability) / distribution.pdf(t);
    }
    t
}

/// Natural logarithm of a positive, finite number.
pub(crate) fn ln(value: f64) -> Option<f64> {
    (value > 0.0 && value.is_finite()).then(|| value.ln())
}

/// A mean, or a difference of means, with what its t distribution needs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Contrast {
    /// The estimate.
    pub(crate) value: f64,
    /// Its spread; `None` where there is only one unit (on either side).
    pub(crate) spread: Option<Spread>,
    /// Number of independent units; of the smaller side, where two sides aren't paired.
    pub(crate) n: usize,
}

/// Standard error and degrees of freedom of an estimate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    /// Standard error.
    pub(crate) standard_error: f64,
    /// Degrees of freedom.
    pub(crate) freedom: f64,
}

impl Contrast {
    /// Mean of independent values.
    pub(crate) fn of_mean(values: &[f64]) -> Option<Self> {
        let moments = Moments::of(values)?;
        let spread = moments.variance.map(|variance| Spread {
            standard_error: (variance / moments.count()).sqrt(),
            freedom: moments.count() - 1.0,
        });
        Some(Self { value: moments.mean, spread, n: moments.n })
    }

    /// Mean of `new[i] − base[i]`.
    pub(crate) fn paired(base: &[f64], new: &[f64]) -> Option<Self> {
        if base.len() != new.len() {
            return None;
        }
        let differences: Vec<f64> = base.iter().zip(new).map(|(base, new)| new - base).collect();
        Self::of_mean(&differences)
    }

    /// Mean of `new` − mean of `base`, without assuming equal variances (Welch 1947; degrees of freedom after
    /// Satterthwaite 1946).
    pub(crate) fn welch(base: &[f64], new: &[f64]) -> Option<Self> {
        let (base, new) = (Moments::of(base)?, Moments::of(new)?);
        let spread = base.variance.zip(new.variance).map(|(base_variance, new_variance)| {
            let (a, b) = (base_variance / base.count(), new_variance / new.count());
            Spread { standard_error: (a + b).sqrt(), freedom: satterthwaite(a, base.count(), b, new.count()) }
        });
        Some(Self { value: new.mean - base.mean, spread, n: base.n.min(new.n) })
    }

    /// The same in another unit: `factor` of its own.
    #[must_use]
    pub(crate) fn scaled(self, factor: f64) -> Self {
        let scale = |spread: Spread| Spread { standard_error: spread.standard_error * factor.abs(), ..spread };
        Self { value: self.value * factor, spread: self.spread.map(scale), ..self }
    }

    /// The estimate with its two-sided 95 % interval.
    pub(crate) fn estimate(&self) -> Estimate {
        Estimate { value: self.value, interval: self.interval(CONFIDENCE), n: self.n }
    }

    /// The two-sided interval of a given confidence.
    pub(crate) fn interval(&self, confidence: f64) -> Option<Interval> {
        let spread = self.spread?;
        let half = t_quantile(0.5 + confidence / 2.0, spread.freedom) * spread.standard_error;
        Some(Interval { low: self.value - half, high: self.value + half })
    }

    /// One-sided p value of "the truth is below `limit`", against "at or above".
    pub(crate) fn p_below(&self, limit: f64) -> Option<f64> {
        let Spread { standard_error, freedom } = self.spread?;
        if standard_error == 0.0 {
            return Some(if self.value < limit { 0.0 } else { 1.0 });
        }
        Some(t_distribution(freedom).cdf((self.value - limit) / standard_error))
    }

    /// One-sided p value of "the truth is above `limit`", against "at or below".
    pub(crate) fn p_above(&self, limit: f64) -> Option<f64> {
        Self { value: -self.value, ..*self }.p_below(-limit)
    }

    /// Two-sided p value of "the truth is 0".
    pub(crate) fn p_differs(&self) -> Option<f64> {
        Some((2.0 * self.p_below(0.0)?.min(self.p_above(0.0)?)).min(1.0))
    }
}

struct Moments {
    mean: f64,
    /// Unbiased variance; `None` at n = 1.
    variance: Option<f64>,
    n: usize,
}

impl Moments {
    fn of(values: &[f64]) -> Option<Self> {
        let (&first, n) = (values.first()?, values.len());
        // Relative to the first value, so that exactly equal values have a variance of exactly zero.
        let mean = first + values.iter().map(|value| value - first).sum::<f64>() / n as f64;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        Some(Self { mean, variance: (n > 1).then(|| squares / (n - 1) as f64), n })
    }

    fn count(&self) -> f64 {
        self.n as f64
    }
}

fn satterthwaite(a: f64, base_count: f64, b: f64, new_count: f64) -> f64 {
    if a + b == 0.0 {
        return base_count + new_count - 2.0;
    }
    (a + b).powi(2) / (a * a / (base_count - 1.0) + b * b / (new_count - 1.0))
}

fn t_distribution(freedom: f64) -> StudentsT {
    // The library loses digits far above a million degrees of freedom, where t is normal to 1e-6 anyway.
    StudentsT::new(0.0, 1.0, freedom.min(1e6)).expect("degrees of freedom of two or more values are positive")
}

#[cfg(test)]
mod tests {
    use rand::{Rng as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn close(actual: f64, expected: f64, tolerance: f64) {
        assert!((actual - expected).abs() <= tolerance, "{actual} is not {expected} ± {tolerance}");
    }

    fn ends(estimate: Estimate) -> (f64, f64) {
        let interval = estimate.interval.unwrap();
        (interval.low, interval.high)
    }

    /// Standard normal numbers (Box and Muller 1958).
    fn normal(rng: &mut ChaCha8Rng) -> f64 {
        let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    #[test]
    fn t_quantiles_are_those_of_the_printed_tables() {
        // NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2
        let table = [
            (1.0, 12.706, 6.314),
            (2.0, 4.303, 2.920),
            (3.0, 3.182, 2.353),
            (4.0, 2.776, 2.132),
            (5.0, 2.571, 2.015),
            (9.0, 2.262, 1.833),
            (10.0, 2.228, 1.812),
            (30.0, 2.042, 1.697),
            (100.0, 1.984, 1.660),
        ];
        for (freedom, two_sided, one_sided) in table {
            close(t_quantile(0.975, freedom), two_sided, 5e-4);
            close(t_quantile(0.95, freedom), one_sided, 5e-4);
        }
    }

    #[test]
    fn t_quantiles_match_the_closed_forms_of_one_and_two_degrees_of_freedom() {
        for p in [0.6f64, 0.9, 0.95, 0.975, 0.995] {
            let cauchy = (std::f64::consts::PI * (p - 0.5)).tan();
            close(t_quantile(p, 1.0), cauchy, 1e-9 * cauchy);
            let two = (2.0 * p - 1.0) / (2.0 * p * (1.0 - p)).sqrt();
            close(t_quantile(p, 2.0), two, 1e-9 * two);
        }
    }

    #[test]
    fn t_quantiles_invert_the_distribution_at_fractional_and_large_degrees_of_freedom() {
        for freedom in [1.3, 2.7, 5.01, 17.4, 499.0, 1e4, 1e6] {
            close(t_distribution(freedom).cdf(t_quantile(0.975, freedom)), 0.975, 1e-10);
        }
        close(t_quantile(0.975, 1e7), 1.959_963_984_540_054, 1e-5);
    }

    #[test]
    fn the_mean_of_five_windows_has_the_student_interval() {
        let estimate = mean(&[1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
        let half = 2.776_445_105_197_793 * (2.5f64 / 5.0).sqrt();
        assert_eq!((estimate.value, estimate.n), (3.0, 5));
        close(ends(estimate).0, 3.0 - half, 1e-9);
        close(ends(estimate).1, 3.0 + half, 1e-9);
    }

    #[test]
    fn one_value_has_no_interval_and_none_has_no_mean() {
        assert_eq!(mean(&[2.5]), Some(Estimate { value: 2.5, interval: None, n: 1 }));
        assert_eq!(mean(&[]), None);
    }

    #[test]
    fn equal_repeats_have_an_interval_of_exactly_zero_width() {
        for value in [0.1, 1.0 / 3.0, 6.02e23] {
            let estimate = mean(&[value; 7]).unwrap();
            assert_eq!((estimate.value, ends(estimate)), (value, (value, value)));
        }
    }

    #[test]
    fn welch_agrees_with_the_published_example() {
        // https://en.wikipedia.org/wiki/Welch%27s_t-test, example 1; p as in R's t.test
        let a = [27.5, 21.0, 19.0, 23.6, 17.0, 17.9, 16.9, 20.1, 21.9, 22.6, 23.1, 19.6, 19.0, 21.7, 21.4];
        let b = [27.1, 22.0, 20.8, 23.4, 23.4, 23.5, 25.8, 22.0, 24.8, 20.2, 21.9, 22.1, 22.9, 20.5, 24.4];
        let contrast = Contrast::welch(&b, &a).unwrap();
        let spread = contrast.spread.unwrap();
        close(contrast.value / spread.standard_error, -2.46, 5e-3);
        close(spread.freedom, 25.0, 0.05);
        close(contrast.p_differs().unwrap(), 0.021_378_001_462_867, 1e-9);
    }

    #[test]
    fn the_interval_excludes_zero_exactly_where_the_p_value_is_below_five_percent() {
        let spread = Some(Spread { standard_error: 1.0, freedom: 4.0 });
        let edge = t_quantile(0.975, 4.0);
        for (value, differs) in [(edge * 0.999, false), (edge * 1.001, true), (-edge * 1.001, true)] {
            let contrast = Contrast { value, spread, n: 5 };
            assert_eq!(contrast.p_differs().unwrap() < 0.05, differs);
            let interval = contrast.interval(0.95).unwrap();
            assert_eq!(interval.low > 0.0 || interval.high < 0.0, differs);
        }
    }

    #[test]
    fn the_student_interval_of_five_windows_covers_the_truth_in_95_percent_of_studies() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let studies = 20_000;
        let covered = (0..studies)
            .filter(|_| {
                let values: Vec<f64> = (0..5).map(|_| 3.0 + 0.05 * normal(&mut rng)).collect();
                let (low, high) = ends(mean(&values).unwrap());
                low <= 3.0 && 3.0 <= high
            })
            .count();
        close(covered as f64 / studies as f64, 0.95, 0.005);
    }

    #[test]
    fn the_welch_interval_covers_the_truth_where_the_sides_differ_in_size_and_spread() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let studies = 20_000;
        let covered = (0..studies)
            .filter(|_| {
                let base: Vec<f64> = (0..5).map(|_| 1.0 + 0.1 * normal(&mut rng)).collect();
                let new: Vec<f64> = (0..8).map(|_| 3.0 + 0.02 * normal(&mut rng)).collect();
                let (low, high) = ends(Contrast::welch(&base, &new).unwrap().estimate());
                low <= 2.0 && 2.0 <= high
            })
            .count();
        close(covered as f64 / studies as f64, 0.95, 0.01);
    }
}
