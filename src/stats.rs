//! Estimates with intervals from independent values: means, proportions, differences. Knows nothing of energy.

use statrs::distribution::{Continuous as _, ContinuousCDF as _, StudentsT};

/// A point estimate with its interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The estimate.
    pub value: f64,
    /// The 95 % interval; `None` at n = 1.
    pub interval: Option<Interval>,
    /// Number of independent units (windows, or prompts for accuracy).
    pub n: usize,
}

impl Estimate {
    /// Half the width of the interval relative to the estimate: ± 2 % is 0.02.
    pub fn relative_half_width(&self) -> Option<f64> {
        let Interval { low, high } = self.interval?;
        let width = (high - low) / 2.0 / self.value.abs();
        width.is_finite().then_some(width)
    }
}

/// Whether a mean is known well enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// Half of the interval is at most the share of the mean that was asked for.
    Narrow,
    /// It is more than that.
    Wide,
    /// There is no interval: fewer than two values.
    Unknown,
}

/// Whether half of the 95 % interval of the mean of `values` is at most `half_width` as a share of the mean: ± 2 % is
/// 0.02.
pub fn precision(values: &[f64], half_width: f64) -> Precision {
    match mean(values).and_then(|estimate| estimate.relative_half_width()) {
        Some(width) if width > half_width => Precision::Wide,
        Some(_) => Precision::Narrow,
        None => Precision::Unknown,
    }
}

/// A two-sided interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// Confidence of every two-sided interval.
pub const CONFIDENCE: f64 = 0.95;

/// The 97.5 % quantile of the standard normal distribution.
const Z: f64 = 1.959_963_984_540_054;

/// Mean of independent values with the Student-t interval x̄ ± t(n − 1)·s/√n (Student 1908).
///
/// `None` without values; no interval at n = 1. Exactly equal values have an interval of zero width.
pub fn mean(values: &[f64]) -> Option<Estimate> {
    Contrast::of_mean(values).map(|contrast| contrast.estimate())
}

/// Geometric mean of positive values with the Student-t interval of the mean logarithm.
///
/// `None` without values, or where one isn't positive.
pub fn geometric_mean(values: &[f64]) -> Option<Estimate> {
    let logs: Option<Vec<f64>> = values.iter().map(|&value| ln(value)).collect();
    mean(&logs?).map(|estimate| estimate.map_increasing(f64::exp))
}

/// Mean of `new[i] − base[i]` with the Student-t interval of the differences.
///
/// `None` without pairs, or where the lengths differ.
pub fn paired_difference(base: &[f64], new: &[f64]) -> Option<Estimate> {
    Contrast::paired(base, new).map(|contrast| contrast.estimate())
}

/// A proportion with Wilson's score interval (Wilson 1927), which stays inside [0, 1] and never has zero width.
///
/// `None` at n = 0.
pub fn proportion(successes: usize, n: usize) -> Option<Estimate> {
    if n == 0 {
        return None;
    }
    let (p, count) = (successes as f64 / n as f64, n as f64);
    let scale = 1.0 + Z * Z / count;
    let centre = (p + Z * Z / (2.0 * count)) / scale;
    let half = Z / scale * (p * (1.0 - p) / count + Z * Z / (4.0 * count * count)).sqrt();
    let low = if successes == 0 { 0.0 } else { centre - half };
    let high = if successes == n { 1.0 } else { centre + half };
    Some(Estimate { value: p, interval: Some(Interval { low, high }), n })
}

/// Standard error √(p(1 − p)/n) of a proportion. Zero at p = 0 and p = 1, where only the interval tells how little
/// is known.
pub fn proportion_stderr(successes: usize, n: usize) -> f64 {
    let p = successes as f64 / n as f64;
    (p * (1.0 - p) / n as f64).sqrt()
}

/// Difference of two proportions on the same items, new − base, with the interval of Agresti and Min (2005): Wald's,
/// after adding ½ to each cell of the 2 × 2 table. It keeps a width where no item differs.
///
/// `gained` items succeed only in new, `lost` only in base. `None` at n = 0.
pub fn paired_proportions(gained: usize, lost: usize, n: usize) -> Option<Estimate> {
    if n == 0 {
        return None;
    }
    let (up, down, count) = (gained as f64 + 0.5, lost as f64 + 0.5, n as f64 + 2.0);
    let centre = (up - down) / count;
    let half = Z * ((up + down) - (up - down).powi(2) / count).sqrt() / count;
    let value = (gained as f64 - lost as f64) / n as f64;
    let interval = Interval { low: (centre - half).max(-1.0).min(value), high: (centre + half).min(1.0).max(value) };
    Some(Estimate { value, interval: Some(interval), n })
}

/// Quantile of Student's t distribution; `freedom` may be fractional.
pub fn t_quantile(probability: f64, freedom: f64) -> f64 {
    let distribution = t_distribution(freedom);
    let mut t = distribution.inverse_cdf(probability);
    for _ in 0..2 {
        // The library's quantile is good to a few digits in places: two steps of Newton's method polish it.
        t -= (distribution.cdf(t) - probability) / distribution.pdf(t);
    }
    t
}

/// Adjusts p values of one family so that the chance of any false rejection stays below the level (Holm 1979). In
/// the order given.
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|&a, &b| p_values[a].total_cmp(&p_values[b]));
    let mut adjusted = vec![0.0; p_values.len()];
    let mut largest: f64 = 0.0;
    for (rank, &index) in order.iter().enumerate() {
        largest = largest.max((p_values.len() - rank) as f64 * p_values[index]).min(1.0);
        adjusted[index] = largest;
    }
    adjusted
}

/// [`holm`] over the values that are known; unknown ones stay unknown and don't count.
pub fn holm_known(p_values: &[Option<f64>]) -> Vec<Option<f64>> {
    let known: Vec<f64> = p_values.iter().flatten().copied().collect();
    let mut adjusted = holm(&known).into_iter();
    p_values.iter().map(|p| p.and_then(|_| adjusted.next())).collect()
}

/// A measured point of a curve.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WeightedPoint {
    /// Where.
    pub x: f64,
    /// What was measured there.
    pub y: f64,
    /// 1 / variance of `y`, up to a factor that all points share.
    pub weight: f64,
}

/// Coefficients β₀, β₁ … of the polynomial y = β₀ + β₁x + … of `degree`, by weighted least squares (Draper and Smith,
/// *Applied Regression Analysis*, 3rd ed., §9.2): β = (XᵀWX)⁻¹XᵀWy with variances σ²(XᵀWX)⁻¹, where σ² = Σwr²/(N − p)
/// of the residuals r, and N − p degrees of freedom. So the weights need not be known but for a common factor.
///
/// `None` where the points lie at fewer places than there are coefficients.
pub fn weighted_polynomial(points: &[WeightedPoint], degree: usize) -> Option<Vec<Contrast>> {
    let p = degree + 1;
    // in units of the largest x and y all sums are of a size
    let largest = |get: fn(&WeightedPoint) -> f64| points.iter().map(|point| get(point).abs()).fold(0.0, f64::max);
    let (of_x, of_y, of_w) = (largest(|at| at.x), largest(|at| at.y), largest(|at| at.weight));
    if points.len() < p || !(of_x > 0.0 && of_y > 0.0 && of_w > 0.0) {
        return None;
    }
    let powers = |at: &WeightedPoint| (0..p).map(|k| (at.x / of_x).powi(k as i32)).collect::<Vec<f64>>();
    let mut normal = vec![vec![0.0; p]; p];
    let mut right = vec![0.0; p];
    for at in points {
        let row = powers(at);
        for i in 0..p {
            right[i] += at.weight / of_w * row[i] * at.y / of_y;
            for j in 0..p {
                normal[i][j] += at.weight / of_w * row[i] * row[j];
            }
        }
    }
    let inverse = inverted(normal)?;
    let beta: Vec<f64> = inverse.iter().map(|row| row.iter().zip(&right).map(|(a, b)| a * b).sum()).collect();
    let fitted = |at: &WeightedPoint| powers(at).iter().zip(&beta).map(|(x, b)| x * b).sum::<f64>();
    let squares: f64 = points.iter().map(|at| at.weight / of_w * (at.y / of_y - fitted(at)).powi(2)).sum();
    let freedom = (points.len() - p) as f64;
    let coefficient = |k: usize| Contrast {
        value: beta[k],
        spread: (freedom > 0.0)
            .then(|| Spread { standard_error: (squares / freedom * inverse[k][k]).max(0.0).sqrt(), freedom }),
        n: points.len(),
    };
    Some((0..p).map(|k| coefficient(k).scaled(of_y / of_x.powi(k as i32))).collect())
}

/// Inverse of a small matrix by Gauss and Jordan with pivots; `None` where it has none.
fn inverted(mut matrix: Vec<Vec<f64>>) -> Option<Vec<Vec<f64>>> {
    const SINGULAR: f64 = 1e-12;
    let p = matrix.len();
    let size = matrix.iter().flatten().fold(0.0f64, |size, value| size.max(value.abs()));
    for (i, row) in matrix.iter_mut().enumerate() {
        row.extend((0..p).map(|j| f64::from(u8::from(i == j))));
    }
    for k in 0..p {
        let pivot = (k..p).max_by(|a, b| matrix[*a][k].abs().total_cmp(&matrix[*b][k].abs()))?;
        matrix.swap(k, pivot);
        let lead = matrix[k][k];
        if lead.is_nan() || lead.abs() <= SINGULAR * size {
            return None;
        }
        let row: Vec<f64> = matrix[k].iter().map(|value| value / lead).collect();
        for (_, other) in matrix.iter_mut().enumerate().filter(|(i, _)| *i != k) {
            let times = other[k];
            other.iter_mut().zip(&row).for_each(|(value, base)| *value -= times * base);
        }
        matrix[k] = row;
    }
    Some(matrix.into_iter().map(|mut row| row.split_off(p)).collect())
}

/// Natural logarithm of a positive, finite number.
pub fn ln(value: f64) -> Option<f64> {
    (value > 0.0 && value.is_finite()).then(|| value.ln())
}

/// A mean, or a difference of means, with what its t distribution needs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Contrast {
    /// The estimate.
    pub value: f64,
    /// Its spread; `None` where there is only one unit (on either side).
    pub spread: Option<Spread>,
    /// Number of independent units; of the smaller side, where two sides aren't paired.
    pub n: usize,
}

/// Standard error and degrees of freedom of an estimate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// Standard error.
    pub standard_error: f64,
    /// Degrees of freedom.
    pub freedom: f64,
}

impl Contrast {
    /// Mean of independent values.
    pub fn of_mean(values: &[f64]) -> Option<Self> {
        let moments = Moments::of(values)?;
        let spread = moments.variance.map(|variance| Spread {
            standard_error: (variance / moments.count()).sqrt(),
            freedom: moments.count() - 1.0,
        });
        Some(Self { value: moments.mean, spread, n: moments.n })
    }

    /// Mean of `new[i] − base[i]`.
    pub fn paired(base: &[f64], new: &[f64]) -> Option<Self> {
        if base.len() != new.len() {
            return None;
        }
        let differences: Vec<f64> = base.iter().zip(new).map(|(base, new)| new - base).collect();
        Self::of_mean(&differences)
    }

    /// Mean of `new` − mean of `base`, without assuming equal variances (Welch 1947; degrees of freedom after
    /// Satterthwaite 1946).
    pub fn welch(base: &[f64], new: &[f64]) -> Option<Self> {
        let (base, new) = (Moments::of(base)?, Moments::of(new)?);
        let spread = base.variance.zip(new.variance).map(|(base_variance, new_variance)| {
            let (a, b) = (base_variance / base.count(), new_variance / new.count());
            Spread { standard_error: (a + b).sqrt(), freedom: satterthwaite(a, base.count(), b, new.count()) }
        });
        Some(Self { value: new.mean - base.mean, spread, n: base.n.min(new.n) })
    }

    /// The same in another unit: `factor` of its own.
    #[must_use]
    pub fn scaled(self, factor: f64) -> Self {
        let scale = |spread: Spread| Spread { standard_error: spread.standard_error * factor.abs(), ..spread };
        Self { value: self.value * factor, spread: self.spread.map(scale), ..self }
    }

    /// The estimate with its two-sided 95 % interval.
    pub fn estimate(&self) -> Estimate {
        Estimate { value: self.value, interval: self.interval(CONFIDENCE), n: self.n }
    }

    /// The two-sided interval of a given confidence.
    pub fn interval(&self, confidence: f64) -> Option<Interval> {
        let spread = self.spread?;
        let half = t_quantile(0.5 + confidence / 2.0, spread.freedom) * spread.standard_error;
        Some(Interval { low: self.value - half, high: self.value + half })
    }

    /// One-sided p value of "the truth is below `limit`", against "at or above".
    pub fn p_below(&self, limit: f64) -> Option<f64> {
        let Spread { standard_error, freedom } = self.spread?;
        if standard_error == 0.0 {
            return Some(if self.value < limit { 0.0 } else { 1.0 });
        }
        Some(t_distribution(freedom).cdf((self.value - limit) / standard_error))
    }

    /// One-sided p value of "the truth is above `limit`", against "at or below".
    pub fn p_above(&self, limit: f64) -> Option<f64> {
        Self { value: -self.value, ..*self }.p_below(-limit)
    }

    /// Two-sided p value of "the truth is 0".
    pub fn p_differs(&self) -> Option<f64> {
        Some((2.0 * self.p_below(0.0)?.min(self.p_above(0.0)?)).min(1.0))
    }
}

impl Estimate {
    /// The estimate of an increasing function of the same quantity.
    #[must_use]
    pub fn map_increasing(self, f: impl Fn(f64) -> f64) -> Self {
        let interval = self.interval.map(|ends| Interval { low: f(ends.low), high: f(ends.high) });
        Self { value: f(self.value), interval, n: self.n }
    }

    /// The estimate of a decreasing function of the same quantity: the ends swap.
    #[must_use]
    pub fn map_decreasing(self, f: impl Fn(f64) -> f64) -> Self {
        let interval = self.interval.map(|ends| Interval { low: f(ends.high), high: f(ends.low) });
        Self { value: f(self.value), interval, n: self.n }
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
        close(t_quantile(0.975, 1e7), Z, 1e-5);
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
    fn the_geometric_mean_is_that_of_the_logarithms_and_needs_positive_values() {
        let estimate = geometric_mean(&[1.0, 4.0, 16.0]).unwrap();
        close(estimate.value, 4.0, 1e-12);
        close(ends(estimate).0 * ends(estimate).1, 16.0, 1e-9);
        assert_eq!(geometric_mean(&[1.0, 0.0]), None);
        assert_eq!(geometric_mean(&[1.0, f64::INFINITY]), None);
    }

    #[test]
    fn wilsons_interval_is_that_of_newcombe_1998() {
        // Newcombe, Statistics in Medicine 17 (1998) 857, table I, method 3
        for (successes, n, low, high) in
            [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0000, 0.1611), (1, 29, 0.0061, 0.1718)]
        {
            let estimate = proportion(successes, n).unwrap();
            close(ends(estimate).0, low, 5e-5);
            close(ends(estimate).1, high, 5e-5);
        }
        assert_eq!(ends(proportion(20, 20).unwrap()).1, 1.0);
        assert_eq!(proportion(0, 0), None);
    }

    #[test]
    fn the_standard_error_of_a_proportion_is_the_binomial_one() {
        close(proportion_stderr(20, 100), 0.04, 1e-15);
        assert_eq!(proportion_stderr(0, 100), 0.0);
    }

    #[test]
    fn paired_proportions_have_the_interval_of_agresti_and_min_2005() {
        // Agresti, Categorical Data Analysis, table 10.1: of 1600 voters 150 and 86 changed their mind; Wald's
        // interval is 0.04 ± 1.96 · 0.0095, and theirs is next to it in so large a sample.
        let estimate = paired_proportions(150, 86, 1600).unwrap();
        close(estimate.value, 0.04, 1e-12);
        close(ends(estimate).0, 0.021_22, 1e-5);
        close(ends(estimate).1, 0.058_68, 1e-5);
    }

    #[test]
    fn paired_proportions_that_never_differ_are_still_uncertain() {
        let (low, high) = ends(paired_proportions(0, 0, 100).unwrap());
        assert!(low < -0.01 && high > 0.01);
        let all = paired_proportions(10, 0, 10).unwrap();
        assert_eq!((all.value, ends(all).1), (1.0, 1.0));
    }

    #[test]
    fn holm_adjusts_like_r() {
        // p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")
        let adjusted = holm(&[0.01, 0.04, 0.03, 0.005]);
        for (actual, expected) in adjusted.into_iter().zip([0.03, 0.06, 0.06, 0.02]) {
            close(actual, expected, 1e-15);
        }
        assert_eq!(holm(&[0.6, 0.9]), vec![1.0, 1.0]);
        assert_eq!(holm_known(&[None, Some(0.01), None, Some(0.04)]), vec![None, Some(0.02), None, Some(0.04)]);
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

    fn points(of: &[(f64, f64, f64)]) -> Vec<WeightedPoint> {
        of.iter().map(|&(x, y, weight)| WeightedPoint { x, y, weight }).collect()
    }

    #[test]
    fn a_line_through_exact_points_is_that_line_whatever_their_weights() {
        let exact = points(&[(0.0, 5.0, 4.0), (7.0, 26.0, 1.0), (31.0, 98.0, 0.25), (127.0, 386.0, 0.01)]);
        let line = weighted_polynomial(&exact, 1).unwrap();
        close(line[0].value, 5.0, 1e-9);
        close(line[1].value, 3.0, 1e-10);
        close(line[1].spread.unwrap().standard_error, 0.0, 1e-10);
        assert_eq!(line[1].spread.unwrap().freedom, 2.0);
        let parabola = weighted_polynomial(&exact, 2).unwrap();
        close(parabola[2].value, 0.0, 1e-12);
    }

    #[test]
    fn a_fit_has_the_interval_of_the_textbook() {
        // R: summary(lm(c(1, 3, 4, 8) ~ c(0, 1, 2, 3))), slope 2.2 ± 0.42426, intercept 0.7 ± 0.79373
        let line =
            weighted_polynomial(&points(&[(0.0, 1.0, 1.0), (1.0, 3.0, 1.0), (2.0, 4.0, 1.0), (3.0, 8.0, 1.0)]), 1)
                .unwrap();
        close(line[1].value, 2.2, 1e-12);
        close(line[0].value, 0.7, 1e-12);
        // residuals 0.3, 0.1, −1.1, 0.7: σ² = 1.8 / 2; var β₁ = σ²/5, var β₀ = σ²·(1/4 + 1.5²/5)
        close(line[1].spread.unwrap().standard_error, (0.9f64 / 5.0).sqrt(), 1e-12);
        close(line[0].spread.unwrap().standard_error, (0.9f64 * 0.7).sqrt(), 1e-12);
        let half = 4.302_652_729_911_275 * (0.9f64 / 5.0).sqrt();
        close(ends(line[1].estimate()).1, 2.2 + half, 1e-8);
    }

    #[test]
    fn a_weight_of_two_is_the_same_point_twice() {
        let weighted = weighted_polynomial(&points(&[(0.0, 1.0, 2.0), (1.0, 3.0, 1.0), (2.0, 4.0, 1.0)]), 1).unwrap();
        let twice =
            weighted_polynomial(&points(&[(0.0, 1.0, 1.0), (0.0, 1.0, 1.0), (1.0, 3.0, 1.0), (2.0, 4.0, 1.0)]), 1)
                .unwrap();
        close(weighted[0].value, twice[0].value, 1e-12);
        close(weighted[1].value, twice[1].value, 1e-12);
    }

    #[test]
    fn a_curve_needs_as_many_places_as_coefficients() {
        assert!(weighted_polynomial(&points(&[(1.0, 1.0, 1.0), (1.0, 2.0, 1.0)]), 1).is_none());
        let two_places = points(&[(0.0, 1.0, 1.0), (0.0, 2.0, 1.0), (3.0, 1.0, 1.0), (3.0, 2.0, 1.0)]);
        assert!(weighted_polynomial(&two_places, 2).is_none());
        let through = weighted_polynomial(&points(&[(0.0, 1.0, 1.0), (1.0, 2.0, 1.0)]), 1).unwrap();
        assert_eq!(through[1].spread, None, "two points leave nothing to tell the error from");
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
