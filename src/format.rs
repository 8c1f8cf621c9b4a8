//! The only place where a measured number becomes a string.
//!
//! Digits follow the interval: a number shows no more of itself than its interval knows. Unknown is `–`.

use crate::analysis::{Estimate, Interval, Verdict};
use crate::record::{ChatTemplateInfo, ClockEvent, EnergyMethod, PromptForm, Truncate, Truncated};
use crate::units::{Joules, JoulesPerToken, Seconds};

/// What stands for a number that isn't known.
pub const UNKNOWN: &str = "–";
const NARROW_SPACE: char = '\u{202f}';
const NO_BREAK: char = '\u{a0}';
const MINUS: char = '−';

/// A unit with its SI prefix, shared by a column of a table or by an axis.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scale {
    /// What a value in the base unit is multiplied by.
    pub factor: f64,
    /// The unit as it is printed: `mJ`.
    pub unit: &'static str,
}

impl Scale {
    /// The base unit itself.
    pub const fn plain(unit: &'static str) -> Self {
        Self { factor: 1.0, unit }
    }

    /// Percent of a share.
    pub const PERCENT: Self = Self { factor: 100.0, unit: "%" };

    /// Joules with the prefix that suits the middle of `values` (by their geometric mean).
    pub fn joules(values: impl IntoIterator<Item = f64>) -> Self {
        let steps = [(1e-6, "MJ", 1e6), (1e-3, "kJ", 1e3), (1.0, "J", 1.0), (1e3, "mJ", 1e-3), (1e6, "µJ", 1e-6)];
        pick(values, &steps, Self { factor: 1e9, unit: "nJ" })
    }

    /// Counts with the prefix that suits `values`: thousands are written out, from a million on prefixes are used.
    pub fn counts(values: impl IntoIterator<Item = f64>) -> Self {
        let steps =
            [(1e-15, "quadrillion", 1e15), (1e-12, "trillion", 1e12), (1e-9, "billion", 1e9), (1e-6, "million", 1e6)];
        pick(values, &steps, Self::plain(""))
    }
}

fn pick(values: impl IntoIterator<Item = f64>, steps: &[(f64, &'static str, f64)], smallest: Scale) -> Scale {
    let logs: Vec<f64> = values.into_iter().filter(|v| v.is_finite() && *v != 0.0).map(|v| v.abs().ln()).collect();
    let middle = if logs.is_empty() { 1.0 } else { (logs.iter().sum::<f64>() / logs.len() as f64).exp() };
    // 0.9995 of a unit rounds to 1.00 of it
    let found = steps.iter().find(|(_, _, from)| middle >= from * 0.9995);
    found.map_or(smallest, |&(factor, unit, _)| Scale { factor, unit })
}

/// A number with three significant digits, or as many as the half-width of its interval allows.
pub fn number(value: f64, half_width: Option<f64>) -> String {
    if !value.is_finite() {
        return not_finite(value);
    }
    fixed(value, decimals(value, half_width))
}

/// A number with a given number of decimals, thousands set apart, and a true minus sign.
pub fn fixed(value: f64, decimals: usize) -> String {
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

fn not_finite(value: f64) -> String {
    match value {
        v if v.is_nan() => UNKNOWN.to_owned(),
        v if v > 0.0 => "∞".to_owned(),
        _ => format!("{MINUS}∞"),
    }
}

/// Decimals so that the half-width shows two digits and the value at least two and at most four.
fn decimals(value: f64, half_width: Option<f64>) -> usize {
    let magnitude = |v: f64| v.abs().log10().floor() as i32;
    let of_value = if value == 0.0 { 0 } else { magnitude(value) };
    let wanted = match half_width {
        Some(half) if half.is_finite() && half > 0.0 => (1 - magnitude(half)).clamp(1 - of_value, 3 - of_value),
        Some(0.0) => 3 - of_value,
        _ => 2 - of_value,
    };
    wanted.clamp(0, 12) as usize
}

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

/// The value alone, without its unit: `12.34`.
pub fn value(estimate: &Estimate, scale: Scale) -> String {
    let scaled = estimate.value * scale.factor;
    if scaled.is_finite() { fixed(scaled, shown(estimate, scale)) } else { not_finite(scaled) }
}

/// The interval alone, without its unit: `[12.1, 12.5]`, or why there is none.
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
pub fn estimate(estimate: &Estimate, scale: Scale) -> String {
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

/// A single energy without an interval: `12.3 mJ`.
pub fn joules(energy: Option<Joules>) -> String {
    energy.map_or(UNKNOWN.to_owned(), |energy| scaled(energy.0, Scale::joules([energy.0])))
}

/// A single energy per token without an interval: `12.3 mJ`.
pub fn joules_per_token(energy: Option<JoulesPerToken>) -> String {
    joules(energy.map(|energy| Joules(energy.0)))
}

fn scaled(value: f64, scale: Scale) -> String {
    with_unit(&number(value * scale.factor, None), scale.unit)
}

/// A share in percent with its interval: `71 % [69, 73]`.
pub fn percent(share: &Estimate) -> String {
    estimate(share, Scale::PERCENT)
}

/// A share in whole percent, without an interval.
pub fn share(share: f64) -> String {
    if share.is_nan() { UNKNOWN.to_owned() } else { with_unit(&fixed(share * 100.0, 0), "%") }
}

/// The interval of a share as it reads in a sentence: `69–73 %`, `−2 % to 5 %`.
pub fn percent_range(share: &Estimate) -> Option<String> {
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
pub fn signed_points(difference: &Estimate) -> String {
    let digits = value(difference, Scale::PERCENT);
    let sign = if difference.value > 0.0 && !digits.trim_matches(['0', '.']).is_empty() { "+" } else { "" };
    let unit = if digits.trim_start_matches(MINUS) == "1" { "point" } else { "points" };
    format!("{sign}{digits}{NO_BREAK}{unit}")
}

/// How many times: `3.2×`.
pub fn times(factor: &Estimate) -> String {
    let half = half_width(factor.interval, 1.0);
    let digits = match half {
        Some(half) if half > 0.0 && half.is_finite() => decimals(factor.value, Some(half)).min(2),
        _ => decimals(factor.value, None).min(2),
    };
    format!("{}×", fixed(factor.value, digits))
}

/// A p value: `p < 0.001`, `p = 0.012`.
pub fn p_value(p: f64) -> String {
    match p {
        p if p.is_nan() => UNKNOWN.to_owned(),
        p if p < 0.001 => "p < 0.001".to_owned(),
        p if p < 0.1 => format!("p = {p:.3}"),
        p => format!("p = {p:.2}"),
    }
}

/// A whole number with its thousands set apart.
pub fn count(n: u64) -> String {
    let mut out = String::new();
    push_grouped(&mut out, &n.to_string());
    out
}

/// A count with its noun: `1 repeat`, `5 repeats`.
pub fn plural(n: usize, noun: &str) -> String {
    format!("{}{NO_BREAK}{noun}{}", count(n as u64), if n == 1 { "" } else { "s" })
}

/// How a model is given its prompts and what was cut off them; `None` where they are plain text and nothing is.
pub fn prompt_form(form: &PromptForm) -> Option<String> {
    let template = match &form.chat_template {
        Some(template) => Some(chat_template(template)),
        None if form.unused_template => Some("plain text; the model's own chat template isn't used".to_owned()),
        None => None,
    };
    let limit = form.limit.map(|limit| {
        let most = plural(limit.max_tokens, "token");
        let limited = format!("prompts of more than {most} are {}", limit.truncate.words());
        if limit.truncate == Truncate::None {
            return limited;
        }
        let lists = [("", form.energy), (" of the accuracy", form.accuracy)];
        let lost = lists.into_iter().filter_map(|(of, truncated)| Some(cut(of, truncated?)));
        let lost = lost.collect::<Vec<_>>().join(", ");
        format!("{limited}: {lost}")
    });
    let parts: Vec<String> = [template, limit].into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

fn cut(of: &str, truncated: Truncated) -> String {
    let all = plural(truncated.of, "prompt");
    match truncated.prompts {
        0 => format!("none of {all}{of}"),
        cut => format!("{} of {all}{of}, {} tokens lost", count(cut as u64), count(truncated.tokens)),
    }
}

fn chat_template(template: &ChatTemplateInfo) -> String {
    let system = template.system.as_ref().map(|system| format!("system prompt “{system}”"));
    let variables = template.variables.iter().map(|(name, value)| format!("{name} = {value}"));
    let date = Some(format!("today taken for {}", template.date));
    let given = system.into_iter().chain(variables).chain(date).collect::<Vec<_>>().join(", ");
    format!("through the chat template of {} ({given})", template.source)
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

/// A stretch of time: `250 ms`, `12.3 s`, `3 min 20 s`, `2 h 5 min`.
pub fn duration(time: Seconds) -> String {
    let s = time.0;
    if !s.is_finite() || s < 0.0 {
        return UNKNOWN.to_owned();
    }
    match s {
        0.0 => with_unit("0", "s"),
        s if s < 1e-3 => with_unit(&short(s * 1e6), "µs"),
        s if s < 1.0 => with_unit(&short(s * 1e3), "ms"),
        s if s < 100.0 => with_unit(&short(s), "s"),
        s if s < 5_400.0 => two_units(s.round() as u64, 60, "min", "s"),
        s => two_units((s / 60.0).round() as u64, 60, "h", "min"),
    }
}

/// A number of seconds, so that a column of them compares: `5.03 s`.
pub fn seconds(time: Seconds) -> String {
    with_unit(&number(time.0, None), "s")
}

/// Three significant digits without trailing zeros: `5`, `12.3`, `0.25`.
fn short(value: f64) -> String {
    trimmed(number(value, None))
}

fn trimmed(digits: String) -> String {
    if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.').to_owned() } else { digits }
}

fn two_units(total: u64, per: u64, large: &str, small: &str) -> String {
    let (whole, rest) = (total / per, total % per);
    let whole = with_unit(&count(whole), large);
    if rest == 0 { whole } else { format!("{whole} {}", with_unit(&rest.to_string(), small)) }
}

/// A size in memory or on disk: `1.50 GiB`.
pub fn bytes(n: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let power = (0..units.len() - 1).take_while(|p| n >= 1 << (10 * (p + 1))).count();
    let scaled = n as f64 / f64::from(1u32 << 10).powi(power as i32);
    let digits = if power == 0 { count(n) } else { number(scaled, None) };
    with_unit(&digits, units[power])
}

/// Power: `312 W`.
pub fn watts(power: f64) -> String {
    with_unit(&number(power, None), "W")
}

/// A difference of powers with its sign: `+0.42 W`. Sensors know no more than hundredths of a watt.
pub fn signed_watts(difference: f64) -> String {
    let digits = fixed(difference, if difference.abs() < 10.0 { 2 } else { 1 });
    let zero = digits.chars().all(|c| matches!(c, '0' | '.'));
    let sign = if difference > 0.0 && !zero { "+" } else { "" };
    format!("{sign}{}", with_unit(&digits, "W"))
}

/// A temperature: `61.5 °C`.
pub fn celsius(temperature: f64) -> String {
    with_unit(&trimmed(fixed(temperature, 1)), "°C")
}

/// From one temperature to another: `58 → 61.5 °C`.
pub fn celsius_range(from: f64, to: f64) -> String {
    format!("{} → {}", trimmed(fixed(from, 1)), celsius(to))
}

/// A clock: `1755 MHz`.
pub fn megahertz(clock: f64) -> String {
    with_unit(&fixed(clock, 0), "MHz")
}

/// Clock events with their shares of a window: `power cap 85 %, idle 1 %`; `none` where none was active.
pub fn clock_events(events: &[(ClockEvent, f64)]) -> String {
    let each = events.iter().map(|(event, share)| format!("{} {}", event.words(), fraction(*share)));
    let all = each.collect::<Vec<_>>().join(", ");
    if all.is_empty() { "none".to_owned() } else { all }
}

fn with_unit(digits: &str, unit: &str) -> String {
    if unit.is_empty() { digits.to_owned() } else { format!("{digits}{NO_BREAK}{unit}") }
}

/// A share of tokens, trials or time: whole percent, two digits below 10 %.
pub fn fraction(share: f64) -> String {
    let percent = share * 100.0;
    let digits = match percent.abs() {
        p if p.is_nan() => return UNKNOWN.to_owned(),
        p if p >= 10.0 || p == 0.0 => fixed(percent, 0),
        p => trimmed(fixed(percent, (1 - p.log10().floor() as i32).clamp(1, 6) as usize)),
    };
    with_unit(&digits, "%")
}

/// A number with five significant digits, for figures that are compared with one another: `2000.4`, `0.12345`.
pub fn precise(value: f64) -> String {
    if !value.is_finite() {
        return UNKNOWN.to_owned();
    }
    let before_point = if value == 0.0 { 0 } else { value.abs().log10().floor() as i32 };
    fixed(value, (4 - before_point).clamp(0, 9) as usize)
}

/// A relative change in percent with its sign, to a hundredth: `+0.25 %`, `−17.60 %`; `0 %` where nothing changed.
pub fn change(share: f64) -> String {
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

/// What may be said of a comparison, in a word or two.
pub fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Improved => "less energy",
        Verdict::Regressed => "more energy",
        Verdict::Equivalent => "equal",
        Verdict::Inconclusive => "inconclusive",
    }
}

/// What has to stand on everything that shows energies by these methods, where not all of them measure.
pub fn caveat(methods: &[EnergyMethod]) -> Option<&'static str> {
    let has = |m| methods.contains(&m);
    let measures = has(EnergyMethod::Counter) || has(EnergyMethod::PowerIntegral);
    match (has(EnergyMethod::Modelled), has(EnergyMethod::Simulated), measures) {
        (false, false, _) => None,
        (true, false, false) => Some("modelled, not measured"),
        (false, true, false) => Some("simulated, not measured"),
        (true, true, false) => Some("modelled and simulated, not measured"),
        (true, _, true) => Some("partly modelled, not all measured"),
        (false, true, true) => Some("partly simulated, not all measured"),
    }
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
        text.replace([NO_BREAK, NARROW_SPACE], " ")
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
    fn prefixes_suit_the_size() {
        let unit = |v: f64| Scale::joules([v]).unit;
        assert_eq!([2e-9, 2e-6, 2e-3, 0.99999, 2.0, 2e3, 2e7].map(unit), ["nJ", "µJ", "mJ", "J", "J", "kJ", "MJ"]);
        assert_eq!(Scale::joules([]).unit, "J");
        assert_eq!(Scale::joules([0.0, f64::NAN]).unit, "J");
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
    fn unknown_and_infinite_are_not_zero() {
        assert_eq!(number(f64::NAN, None), "–");
        assert_eq!(plain(&tokens(&of(1.2e6, 1.0e6, f64::INFINITY))), "1.20 million tokens [1.00, ∞]");
        assert_eq!(duration(Seconds(f64::NAN)), "–");
    }

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!(count(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!(count(1_234), "1234");
        assert_eq!(fixed(-12_345.6, 1), "−12\u{202f}345.6");
        assert_eq!(fixed(-0.001, 1), "0.0");
    }

    #[test]
    fn times_bytes_durations_and_p_values() {
        assert_eq!(times(&of(3.234, 3.0, 3.4)), "3.23×");
        assert_eq!(times(&alone(31.4)), "31.4×");
        assert_eq!(plain(&bytes(1_610_612_736)), "1.50 GiB");
        assert_eq!(plain(&bytes(12)), "12 B");
        assert_eq!(
            [0.01, 0.083, -0.0042, 0.5, 0.0].map(fraction).map(|f| plain(&f)),
            ["1 %", "8.3 %", "−0.42 %", "50 %", "0 %"]
        );
        assert_eq!(plain(&duration(Seconds(0.5))), "500 ms");
        assert_eq!(plain(&duration(Seconds(5.0))), "5 s");
        assert_eq!(plain(&duration(Seconds(200.0))), "3 min 20 s");
        assert_eq!(plain(&duration(Seconds(7_500.0))), "2 h 5 min");
        assert_eq!([p_value(0.0001), p_value(0.0123), p_value(0.5)], ["p < 0.001", "p = 0.012", "p = 0.50"]);
    }

    #[test]
    fn temperatures_clocks_and_clock_events_have_their_units() {
        assert_eq!(plain(&celsius(61.5)), "61.5 °C");
        assert_eq!(plain(&celsius_range(58.0, 61.26)), "58 → 61.3 °C");
        assert_eq!(plain(&megahertz(1754.6)), "1755 MHz");
        assert_eq!([0.42, -13.0, 1e-14].map(signed_watts).map(|w| plain(&w)), ["+0.42 W", "−13.0 W", "0.00 W"]);
        let events = [(ClockEvent::SoftwarePowerCap, 0.853), (ClockEvent::Idle, 0.01)];
        assert_eq!(plain(&clock_events(&events)), "power cap 85 %, idle 1 %");
        assert_eq!(clock_events(&[]), "none");
    }

    #[test]
    fn a_mixture_with_modelled_energy_says_so() {
        use EnergyMethod::{Counter, Modelled, Simulated};
        assert_eq!(caveat(&[Counter]), None);
        assert_eq!(caveat(&[Modelled]), Some("modelled, not measured"));
        assert_eq!(caveat(&[Simulated]), Some("simulated, not measured"));
        assert_eq!(caveat(&[Counter, Modelled]), Some("partly modelled, not all measured"));
    }
}
