//! Digits of plain numbers: how many, with thousands set apart and a true minus sign.

/// Stands for a number that isn't known.
pub(crate) const UNKNOWN: &str = "–";
const NARROW_SPACE: char = '\u{202f}';
pub(super) const NO_BREAK: char = '\u{a0}';
pub(super) const MINUS: char = '−';

/// A number with three significant digits, or as many as the half-width of its interval allows.
pub(crate) fn number(value: f64, half_width: Option<f64>) -> String {
    if !value.is_finite() {
        return not_finite(value);
    }
    fixed(value, decimals(value, half_width))
}

/// A number with a given number of decimals, thousands set apart, and a true minus sign.
pub(super) fn fixed(value: f64, decimals: usize) -> String {
    if !value.is_finite() {
        return not_finite(value);
    }
    let digits = format!("{:.decimals$}", value.abs());
    let zero = digits.chars().all(|c| matches!(c, '0' | '.'));
    let (whole, fraction) = digits.split_once('.').map_or((digits.as_str(), None), |(w, f)| (w, Some(f)));
    let mut out = String::new();
    if value < 0.0 && !zero {
        out.push(MINUS);
    }
    push_grouped(&mut out, whole);
    if let Some(fraction) = fraction {
        out.push('.');
        out.push_str(fraction);
    }
    out
}

fn push_grouped(out: &mut String, whole: &str) {
    for (i, c) in whole.chars().enumerate() {
        let left = whole.len() - i;
        if i > 0 && left.is_multiple_of(3) && whole.len() > 4 {
            out.push(NARROW_SPACE);
        }
        out.push(c);
    }
}

pub(super) fn not_finite(value: f64) -> String {
    match value {
        v if v.is_nan() => UNKNOWN.to_owned(),
        v if v > 0.0 => "∞".to_owned(),
        _ => format!("{MINUS}∞"),
    }
}

/// Decimals so that the half-width shows two digits and the value at least two and at most four.
pub(super) fn decimals(value: f64, half_width: Option<f64>) -> usize {
    let magnitude = |v: f64| v.abs().log10().floor() as i32;
    let of_value = if value == 0.0 { 0 } else { magnitude(value) };
    let wanted = match half_width {
        Some(half) if half.is_finite() && half > 0.0 => (1 - magnitude(half)).clamp(1 - of_value, 3 - of_value),
        Some(0.0) => 3 - of_value,
        _ => 2 - of_value,
    };
    wanted.clamp(0, 12) as usize
}

/// A number rounded to a whole one.
pub(crate) fn whole(value: f64) -> String {
    fixed(value, 0)
}

/// A share in whole percent, without an interval.
pub(crate) fn share(share: f64) -> String {
    if share.is_nan() { UNKNOWN.to_owned() } else { with_unit(&whole_percent(share), "%") }
}

/// The same without its unit.
pub(crate) fn whole_percent(share: f64) -> String {
    whole(share * 100.0)
}

/// The standard error of a share, in percentage points without their unit.
pub(crate) fn share_error(standard_error: f64) -> String {
    fixed(standard_error * 100.0, 1)
}

/// A share of tokens, trials or time: whole percent, two digits below 10 %.
pub(crate) fn fraction(share: f64) -> String {
    let percent = share * 100.0;
    let digits = match percent.abs() {
        p if p.is_nan() => return UNKNOWN.to_owned(),
        p if p >= 10.0 || p == 0.0 => fixed(percent, 0),
        p => trimmed(fixed(percent, (1 - p.log10().floor() as i32).clamp(1, 6) as usize)),
    };
    with_unit(&digits, "%")
}

/// From one share to another: `0 → 85 %`.
pub(crate) fn fraction_range(from: f64, to: f64) -> String {
    format!("{} → {}", fraction(from).trim_end_matches(['%', NO_BREAK]), fraction(to))
}

/// A number with five significant digits, for numbers that are compared with one another: `2000.4`, `0.12345`.
pub(crate) fn precise(value: f64) -> String {
    if !value.is_finite() {
        return UNKNOWN.to_owned();
    }
    let before_point = if value == 0.0 { 0 } else { value.abs().log10().floor() as i32 };
    fixed(value, (4 - before_point).clamp(0, 9) as usize)
}

/// A relative change in percent with its sign, to a hundredth: `+0.25 %`, `−17.60 %`; `0 %` if nothing changed.
pub(crate) fn change(share: f64) -> String {
    let percent = share * 100.0;
    if !percent.is_finite() {
        return UNKNOWN.to_owned();
    }
    if percent.abs() < 1e-7 {
        return with_unit("0", "%");
    }
    let sign = if percent < 0.0 { "−" } else { "+" };
    let digits = if percent.abs() < 0.005 { fixed(0.01, 2) } else { fixed(percent.abs(), 2) };
    let below = if percent.abs() < 0.005 { "< " } else { "" };
    with_unit(&format!("{below}{sign}{digits}"), "%")
}

/// A p value: `p < 0.001`, `p = 0.012`.
pub(crate) fn p_value(p: f64) -> String {
    match p {
        p if p.is_nan() => UNKNOWN.to_owned(),
        p if p < 0.001 => "p < 0.001".to_owned(),
        p if p < 0.1 => format!("p = {p:.3}"),
        p => format!("p = {p:.2}"),
    }
}

/// A whole number with its thousands set apart.
pub(crate) fn count(n: u64) -> String {
    let mut out = String::new();
    push_grouped(&mut out, &n.to_string());
    out
}

/// A count with its noun: `1 repeat`, `5 repeats`.
pub(crate) fn plural(n: usize, noun: &str) -> String {
    format!("{}{NO_BREAK}{noun}{}", count(n as u64), if n == 1 { "" } else { "s" })
}

/// Labels of the ticks of an axis, each multiplied by `factor`, with as few decimals as distinguish them: the same number
/// of decimals for all of them, unless the largest is more than 20 times the smallest.
pub(crate) fn ticks(ticks: &[f64], factor: f64) -> Vec<String> {
    let decimals =
        |v: f64| (0..6).find(|&d| (v * 10f64.powi(d) - (v * 10f64.powi(d)).round()).abs() < 1e-6).unwrap_or(6);
    let each: Vec<usize> = ticks.iter().map(|tick| decimals(tick * factor) as usize).collect();
    let spread = ticks.first().zip(ticks.last()).is_some_and(|(a, b)| *a > 0.0 && b / a > 20.0);
    let most = each.iter().copied().max().unwrap_or(0);
    let digits = |own: usize| if spread { own } else { most };
    ticks.iter().zip(each).map(|(&tick, own)| fixed(tick * factor, digits(own))).collect()
}

/// The digits with their unit, which a line never breaks apart.
pub(super) fn with_unit(digits: &str, unit: &str) -> String {
    if unit.is_empty() { digits.to_owned() } else { format!("{digits}{NO_BREAK}{unit}") }
}

/// Without trailing zeros.
pub(super) fn trimmed(digits: String) -> String {
    if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.').to_owned() } else { digits }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> String {
        text.replace([NO_BREAK, NARROW_SPACE], " ")
    }

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!(count(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!(count(1_234), "1234");
        assert_eq!(fixed(-12_345.6, 1), "−12\u{202f}345.6");
        assert_eq!(fixed(-0.001, 1), "0.0");
    }

    #[test]
    fn an_unknown_number_is_a_dash_and_not_zero() {
        assert_eq!(number(f64::NAN, None), "–");
    }

    #[test]
    fn shares_show_two_digits_below_ten_percent() {
        assert_eq!(
            [0.01, 0.083, -0.0042, 0.5, 0.0].map(fraction).map(|f| plain(&f)),
            ["1 %", "8.3 %", "−0.42 %", "50 %", "0 %"]
        );
    }

    #[test]
    fn tiny_p_values_are_bounds() {
        assert_eq!([p_value(0.0001), p_value(0.0123), p_value(0.5)], ["p < 0.001", "p = 0.012", "p = 0.50"]);
    }

    #[test]
    fn ticks_share_their_decimals_unless_they_span_decades() {
        assert_eq!(ticks(&[0.0, 0.5, 1.0], 1.0), ["0.0", "0.5", "1.0"]);
        assert_eq!(ticks(&[0.1, 1.0, 10.0], 1.0), ["0.1", "1", "10"]);
        assert_eq!(ticks(&[0.0, 0.25], 100.0), ["0", "25"]);
    }
}
