//! How small a difference a design can see: for planning, before anything is measured.

use crate::stats::{ln, t_quantile};

/// Probability of finding a difference that is there.
pub(crate) const POWER: f64 = 0.8;
/// Spread between repeats that is assumed where none was measured.
pub(crate) const ASSUMED_SPREAD: f64 = 0.01;

/// Smallest relative difference between two cells that `n` pairs of repeats would detect, two-sided at 5 % with a
/// power of 80 %: (t(0.975, ν) + t(0.8, ν))·√2·s/√n with ν = n − 1, where `s` is the relative standard deviation of
/// each cell's repeats.
///
/// It counts no gain from what both cells of a block share, so that it errs on the large side. `None` below two
/// repeats.
pub(crate) fn smallest_difference(spread: f64, n: u32) -> Option<f64> {
    let freedom = f64::from(n.checked_sub(1).filter(|freedom| *freedom > 0)?);
    let quantiles = t_quantile(0.975, freedom) + t_quantile(POWER, freedom);
    Some(quantiles * 2f64.sqrt() * spread / f64::from(n).sqrt())
}

/// Relative standard deviation within groups: √(Σ(nᵢ − 1)·sᵢ² / Σ(nᵢ − 1)) of the logarithms. Groups of one value say
/// nothing.
///
/// `None` where no group has two values, or one isn't positive.
pub(crate) fn pooled_spread(groups: &[Vec<f64>]) -> Option<f64> {
    let (mut squares, mut freedom) = (0.0, 0.0);
    for group in groups {
        let logs: Vec<f64> = group.iter().map(|value| ln(*value)).collect::<Option<_>>()?;
        let mean = logs.iter().sum::<f64>() / logs.len() as f64;
        squares += logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>();
        freedom += logs.len().saturating_sub(1) as f64;
    }
    (freedom > 0.0).then(|| (squares / freedom).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_repeats_of_one_percent_detect_two_and_a_third_percent() {
        // tables of t: ν = 4 gives 2.7764 and 0.9410; ν = 2 gives 4.3027 and 1.0607; ν = 14 gives 2.1448 and 0.8681
        for (n, quantiles) in [(5, 2.7764 + 0.9410), (3, 4.3027 + 1.0607), (15, 2.1448 + 0.8681)] {
            let expected = quantiles * 0.014_142_136 / f64::from(n).sqrt();
            let found = smallest_difference(0.01, n).unwrap();
            assert!((found / expected - 1.0).abs() < 1e-4, "{n}: {found}");
        }
        assert!((smallest_difference(0.01, 5).unwrap() - 0.0235).abs() < 1e-4);
        assert_eq!((smallest_difference(0.01, 1), smallest_difference(0.01, 0)), (None, None));
    }

    #[test]
    fn a_spread_is_pooled_over_groups_by_their_degrees_of_freedom() {
        // logarithms −a, a (s² = 2a²) and b, 2b, 3b (s² = b²)
        let (a, b) = (0.01f64, 0.02f64);
        let groups = [vec![(-a).exp(), a.exp()], vec![b.exp(), (2.0 * b).exp(), (3.0 * b).exp()], vec![7.0]];
        let expected = ((2.0 * a * a + 2.0 * b * b) / 3.0).sqrt();
        assert!((pooled_spread(&groups).unwrap() - expected).abs() < 1e-12);
        assert_eq!(pooled_spread(&[vec![1.0], vec![]]), None);
        assert_eq!(pooled_spread(&[vec![1.0, 0.0]]), None);
    }
}
