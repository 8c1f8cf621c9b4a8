//! Shares of items that succeed, and their difference on the same items.

use super::estimate::{Estimate, Interval};

/// The 97.5 % quantile of the standard normal distribution.
const Z: f64 = 1.959_963_984_540_054;

/// A proportion with Wilson's score interval (Wilson 1927), which stays inside [0, 1] and never has zero width.
///
/// `None` at n = 0.
pub(crate) fn proportion(successes: usize, n: usize) -> Option<Estimate> {
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
pub(crate) fn proportion_stderr(successes: usize, n: usize) -> f64 {
    let p = successes as f64 / n as f64;
    (p * (1.0 - p) / n as f64).sqrt()
}

/// Difference of two proportions on the same items, new − base, with the interval of Agresti and Min (2005): Wald's,
/// after adding ½ to each cell of the 2 × 2 table. It keeps a width where no item differs.
///
/// `gained` items succeed only in new, `lost` only in base. `None` at n = 0.
pub(crate) fn paired_proportions(gained: usize, lost: usize, n: usize) -> Option<Estimate> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn close(actual: f64, expected: f64, tolerance: f64) {
        assert!((actual - expected).abs() <= tolerance, "{actual} is not {expected} ± {tolerance}");
    }

    fn ends(estimate: Estimate) -> (f64, f64) {
        let interval = estimate.interval.unwrap();
        (interval.low, interval.high)
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
}
