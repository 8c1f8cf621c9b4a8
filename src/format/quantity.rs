//! Single quantities with their units.

use super::number::{UNKNOWN, count, fixed, number, trimmed, with_unit};
use super::scale::Scale;
use crate::units::{Joules, JoulesPerToken, Seconds};

/// A single energy without an interval: `12.3 mJ`.
pub(crate) fn joules(energy: Option<Joules>) -> String {
    energy.map_or(UNKNOWN.to_owned(), |energy| scaled(energy.0, Scale::joules([energy.0])))
}

/// A single energy per token without an interval: `12.3 mJ`.
pub(crate) fn joules_per_token(energy: Option<JoulesPerToken>) -> String {
    joules(energy.map(|energy| Joules(energy.0)))
}

fn scaled(value: f64, scale: Scale) -> String {
    with_unit(&number(value * scale.factor, None), scale.unit)
}

/// How many times as much: `1.12 times`.
pub(crate) fn multiple(times: f64) -> String {
    format!("{} times", number(times, None))
}

/// A stretch of time: `250 ms`, `12.3 s`, `3 min 20 s`, `2 h 5 min`.
pub(crate) fn duration(time: Seconds) -> String {
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
pub(crate) fn seconds(time: Seconds) -> String {
    with_unit(&number(time.0, None), "s")
}

/// The length of a window in seconds, without the unit: `5.03`.
pub(crate) fn window_length(seconds: f64) -> String {
    number(seconds, None)
}

/// A mean number of passes over the prompts: `3`, `1.60`.
pub(crate) fn passes(mean: f64) -> String {
    if mean.fract() == 0.0 { count(mean as u64) } else { number(mean, None) }
}

/// The share of a window that samples cover, in percent without the unit: `99.8`.
pub fn coverage(share: f64) -> String {
    fixed(share * 100.0, 1)
}

/// Three significant digits without trailing zeros: `5`, `12.3`, `0.25`.
fn short(value: f64) -> String {
    trimmed(number(value, None))
}

fn two_units(total: u64, per: u64, large: &str, small: &str) -> String {
    let (whole, rest) = (total / per, total % per);
    let whole = with_unit(&count(whole), large);
    if rest == 0 { whole } else { format!("{whole} {}", with_unit(&rest.to_string(), small)) }
}

/// A size in memory or on disk: `1.50 GiB`.
pub(crate) fn bytes(n: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let power = (0..units.len() - 1).take_while(|p| n >= 1 << (10 * (p + 1))).count();
    let scaled = n as f64 / f64::from(1u32 << 10).powi(power as i32);
    let digits = if power == 0 { count(n) } else { number(scaled, None) };
    with_unit(&digits, units[power])
}

/// Power: `312 W`.
pub(crate) fn watts(power: f64) -> String {
    with_unit(&number(power, None), "W")
}

/// From one power to another: `700 W`, or `500 → 700 W` if they differ.
pub(crate) fn watts_range(from: f64, to: f64) -> String {
    if from == to { watts(to) } else { format!("{} → {}", number(from, None), watts(to)) }
}

/// A difference of powers with its sign: `+0.42 W`. Sensors know no more than hundredths of a watt.
pub(crate) fn signed_watts(difference: f64) -> String {
    let digits = fixed(difference, if difference.abs() < 10.0 { 2 } else { 1 });
    let zero = digits.chars().all(|c| matches!(c, '0' | '.'));
    let sign = if difference > 0.0 && !zero { "+" } else { "" };
    format!("{sign}{}", with_unit(&digits, "W"))
}

/// A temperature: `61.5 °C`.
pub(crate) fn celsius(temperature: f64) -> String {
    with_unit(&trimmed(fixed(temperature, 1)), "°C")
}

/// From one temperature to another: `58 → 61.5 °C`.
pub(crate) fn celsius_range(from: f64, to: f64) -> String {
    format!("{} → {}", trimmed(fixed(from, 1)), celsius(to))
}

/// A range of temperatures: `45–57.5 °C`.
pub(super) fn celsius_between(low: f64, high: f64) -> String {
    format!("{}–{}", trimmed(fixed(low, 1)), celsius(high))
}

/// From one clock to another: `1980 → 1755 MHz`.
pub(crate) fn megahertz_range(from: f64, to: f64) -> String {
    format!("{} → {}", fixed(from, 0), megahertz(to))
}

/// A clock: `1755 MHz`.
pub(crate) fn megahertz(clock: f64) -> String {
    with_unit(&fixed(clock, 0), "MHz")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> String {
        text.replace('\u{a0}', " ")
    }

    #[test]
    fn durations_use_the_two_largest_units() {
        assert_eq!(plain(&duration(Seconds(0.5))), "500 ms");
        assert_eq!(plain(&duration(Seconds(5.0))), "5 s");
        assert_eq!(plain(&duration(Seconds(200.0))), "3 min 20 s");
        assert_eq!(plain(&duration(Seconds(7_500.0))), "2 h 5 min");
        assert_eq!(duration(Seconds(f64::NAN)), "–");
    }

    #[test]
    fn sizes_have_binary_prefixes() {
        assert_eq!(plain(&bytes(1_610_612_736)), "1.50 GiB");
        assert_eq!(plain(&bytes(12)), "12 B");
    }

    #[test]
    fn temperatures_clocks_and_powers_have_their_units() {
        assert_eq!(plain(&celsius(61.5)), "61.5 °C");
        assert_eq!(plain(&celsius_range(58.0, 61.26)), "58 → 61.3 °C");
        assert_eq!(plain(&celsius_between(45.0, 57.5)), "45–57.5 °C");
        assert_eq!(plain(&megahertz(1754.6)), "1755 MHz");
        assert_eq!(plain(&megahertz_range(1980.0, 1754.6)), "1980 → 1755 MHz");
        assert_eq!([(700.0, 700.0), (500.0, 700.0)].map(|(a, b)| plain(&watts_range(a, b))), ["700 W", "500 → 700 W"]);
        assert_eq!([0.42, -13.0, 1e-14].map(signed_watts).map(|w| plain(&w)), ["+0.42 W", "−13.0 W", "0.00 W"]);
    }
}
