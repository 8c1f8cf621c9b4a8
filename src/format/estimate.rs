//! Estimates as text: the value, and its interval in brackets.

use super::number::{MINUS, NO_BREAK, decimals, fixed, not_finite, with_unit};
use super::scale::Scale;
use crate::analysis::{Estimate, Interval};

/// Decimals of a percentage: whole percent unless the interval is narrower than that.
fn percent_decimals(half_width: Option<f64>) -> usize {
    match half_width {
        Some(half) if half.is_finite() && half > 0.0 => (-(half.log10().floor() as i32)).clamp(0, 2) as usize,
        Some(0.0) => 1,
        _ => 0,
    }
}

fn half_width(interval: Option<Interval>, factor: f64) -> Option<f64> {
    interval.map(|i| (i.high - i.low) / 2.0 * factor)
}

/// The value without interval and unit: `12.34`.
pub fn value(estimate: &Estimate, scale: Scale) -> String {
    let scaled = estimate.value * scale.factor;
    if scaled.is_finite() { fixed(scaled, shown(estimate, scale)) } else { not_finite(scaled) }
}

/// The interval without its unit: `[12.1, 12.5]`, or why there is none.
pub fn interval(estimate: &Estimate, scale: Scale) -> String {
    let digits = shown(estimate, scale);
    match estimate.interval {
        Some(Interval { low, high }) => {
            format!("[{}, {}]", fixed(low * scale.factor, digits), fixed(high * scale.factor, digits))
        }
        None => no_interval(estimate.n),
    }
}

fn shown(estimate: &Estimate, scale: Scale) -> usize {
    let half = half_width(estimate.interval, scale.factor);
    if scale.unit == "%" { percent_decimals(half) } else { decimals(estimate.value * scale.factor, half) }
}

fn no_interval(n: usize) -> String {
    if n == 1 { "n = 1: no interval".to_owned() } else { "no interval".to_owned() }
}

/// Value, unit and interval: `12.3 mJ [12.1, 12.5]`.
fn estimate(estimate: &Estimate, scale: Scale) -> String {
    let bracket = match estimate.interval {
        Some(_) => interval(estimate, scale),
        None => format!("({})", no_interval(estimate.n)),
    };
    format!("{} {bracket}", with_unit(&value(estimate, scale), scale.unit))
}

/// An energy with the prefix that suits it: `12.3 mJ [12.1, 12.5]`.
pub fn energy(of: &Estimate) -> String {
    estimate(of, Scale::joules([of.value]))
}

/// A share in percent with its interval: `71 % [69, 73]`.
pub(crate) fn percent(share: &Estimate) -> String {
    estimate(share, Scale::PERCENT)
}

/// A share for each degree with its interval: `0.40 % per °C [0.37, 0.43]`.
pub(super) fn per_degree(share: &Estimate) -> String {
    estimate(share, Scale { factor: 100.0, unit: "% per °C" })
}

/// The value of a share in percent, without its interval: `71 %`.
pub(crate) fn short_percent(share: &Estimate) -> String {
    with_unit(&value(share, Scale::PERCENT), "%")
}

/// The interval of a share as it reads in a sentence: `69–73 %`, `−2 % to 5 %`.
pub(crate) fn percent_range(share: &Estimate) -> Option<String> {
    let Interval { low, high } = share.interval?;
    let digits = percent_decimals(half_width(share.interval, 100.0));
    let (from, to) = (fixed(low * 100.0, digits), fixed(high * 100.0, digits));
    let plain = low >= 0.0 && high.is_finite();
    Some(if plain { format!("{from}–{to}{NO_BREAK}%") } else { format!("{from}{NO_BREAK}% to {to}{NO_BREAK}%") })
}

/// A difference of two shares in percentage points, with its sign: `−16 points [−24, −8]`.
pub fn points(difference: &Estimate) -> String {
    let signed = signed_points(difference);
    match difference.interval {
        Some(_) => format!("{signed} {}", interval(difference, Scale::PERCENT)),
        None => format!("{signed} ({})", no_interval(difference.n)),
    }
}

/// The same without the interval: `+16 points`.
pub(crate) fn signed_points(difference: &Estimate) -> String {
    let signed = signed_value(difference);
    let unit = if signed.trim_start_matches(['+', MINUS]) == "1" { "point" } else { "points" };
    with_unit(&signed, unit)
}

/// The same without the unit: `+16`.
pub(crate) fn signed_value(difference: &Estimate) -> String {
    let digits = value(difference, Scale::PERCENT);
    let sign = if difference.value > 0.0 && !digits.trim_matches(['0', '.']).is_empty() { "+" } else { "" };
    format!("{sign}{digits}")
}

/// A factor: `3.2×`.
pub(crate) fn times(factor: &Estimate) -> String {
    let half = half_width(factor.interval, 1.0);
    let digits = match half {
        Some(half) if half > 0.0 && half.is_finite() => decimals(factor.value, Some(half)).min(2),
        _ => decimals(factor.value, None).min(2),
    };
    format!("{}×", fixed(factor.value, digits))
}

/// A number of tokens with its interval: `1.23 million tokens [1.10, 1.40]`.
pub fn tokens(tokens: &Estimate) -> String {
    let scale = Scale::counts([tokens.value]);
    let unit = if scale.unit.is_empty() { "tokens".to_owned() } else { format!("{} tokens", scale.unit) };
    let bracket = match tokens.interval {
        Some(_) => interval(tokens, scale),
        None => format!("({})", no_interval(tokens.n)),
    };
    format!("{}{NO_BREAK}{unit} {bracket}", value(tokens, scale))
}

/// A ROUGE-L score or its standard error: `0.768`.
pub fn rouge_l(score: f64) -> String {
    fixed(score, 3)
}

/// The interval of a ROUGE-L score: `[0.728, 0.808]`.
pub(crate) fn rouge_l_interval(interval: Interval) -> String {
    format!("[{}, {}]", rouge_l(interval.low), rouge_l(interval.high))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(value: f64, low: f64, high: f64) -> Estimate {
        Estimate { value, interval: Some(Interval { low, high }), n: 5 }
    }

    fn alone(value: f64) -> Estimate {
        Estimate { value, interval: None, n: 1 }
    }

    fn plain(text: &str) -> String {
        text.replace(NO_BREAK, " ")
    }

    #[test]
    fn digits_follow_the_interval() {
        assert_eq!(plain(&energy(&of(0.012345, 0.0121, 0.0126))), "12.35 mJ [12.10, 12.60]");
        assert_eq!(plain(&energy(&of(0.012345, 0.009, 0.015))), "12.3 mJ [9.0, 15.0]");
        assert_eq!(plain(&energy(&of(3.0, 3.0, 3.0))), "3.000 J [3.000, 3.000]");
        assert_eq!(plain(&energy(&of(3.0, -20.0, 26.0))), "3.0 J [−20.0, 26.0]");
    }

    #[test]
    fn one_repeat_has_no_interval() {
        assert_eq!(plain(&energy(&alone(0.012345))), "12.3 mJ (n = 1: no interval)");
        assert_eq!(interval(&alone(1.0), Scale::PERCENT), "n = 1: no interval");
        assert_eq!(percent_range(&alone(0.5)), None);
    }

    #[test]
    fn percentages_are_whole_unless_the_interval_is_narrow() {
        assert_eq!(plain(&percent(&of(0.7134, 0.69, 0.731))), "71 % [69, 73]");
        assert_eq!(plain(&percent(&of(0.7134, 0.712, 0.715))), "71.3 % [71.2, 71.5]");
        assert_eq!(plain(&percent_range(&of(0.71, 0.69, 0.73)).unwrap()), "69–73 %");
        assert_eq!(plain(&percent_range(&of(0.01, -0.02, 0.05)).unwrap()), "−2 % to 5 %");
    }

    #[test]
    fn differences_of_accuracy_are_points_with_a_sign() {
        assert_eq!(plain(&points(&of(-0.16, -0.24, -0.08))), "−16 points [−24, −8]");
        assert_eq!(plain(&signed_points(&of(0.12, 0.08, 0.2))), "+12 points");
        assert_eq!(plain(&signed_points(&of(0.01, -0.08, 0.1))), "+1 point");
        assert_eq!(plain(&signed_points(&of(-0.001, -0.08, 0.1))), "0 points");
    }

    #[test]
    fn an_infinite_end_is_shown_as_one() {
        assert_eq!(plain(&tokens(&of(1.2e6, 1.0e6, f64::INFINITY))), "1.20 million tokens [1.00, ∞]");
    }

    #[test]
    fn factors_have_at_most_two_decimals() {
        assert_eq!(times(&of(3.234, 3.0, 3.4)), "3.23×");
        assert_eq!(times(&alone(31.4)), "31.4×");
    }
}
