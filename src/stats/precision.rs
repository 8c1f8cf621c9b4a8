//! Whether repeats agree well enough: the one rule by which adaptive repeats stop and a report says how they ended.

use super::mean::mean;

/// How the interval of a mean compares with a wanted half-width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Precision {
    /// Half of the 95 % interval is at most the wanted share of the mean.
    Narrow,
    Wide,
    /// Fewer than two values, which have no interval: waiting alone doesn't make it narrower.
    Unknown,
}

/// Compares half of the 95 % interval of the mean of `values` with `half_width`, a share of that mean (0.02 is ± 2 %).
pub(crate) fn precision(values: &[f64], half_width: f64) -> Precision {
    match mean(values).and_then(|estimate| estimate.relative_half_width()) {
        None => Precision::Unknown,
        Some(width) if width <= half_width => Precision::Narrow,
        Some(_) => Precision::Wide,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_values_are_narrow_exactly_from_their_own_half_width_on() {
        // t(4) = 2.776, s = 1.5811: half-width 2.776 · 1.5811 / √5 = 1.963 of 100
        let five = [98.0, 99.0, 100.0, 101.0, 102.0];
        assert_eq!(precision(&five, 0.0197), Precision::Narrow);
        assert_eq!(precision(&five, 0.0196), Precision::Wide);
    }

    #[test]
    fn fewer_than_two_values_are_neither_narrow_nor_wide() {
        assert_eq!(precision(&[], 0.02), Precision::Unknown);
        assert_eq!(precision(&[100.0], 0.02), Precision::Unknown);
    }
}
