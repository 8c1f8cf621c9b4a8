//! Values of flags: read from text, with errors that say what is expected.

use std::fmt::Display;

use clap::ValueEnum;

use crate::engine::load::DeviceChoice;
use crate::meter::recompute::Method;
use crate::record::MeterChoice;
use crate::sweep::spec::Dtype;
use crate::units::Seconds;

/// How data is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A table for people.
    Text,
    /// JSON for programs.
    Json,
}

pub(super) fn parse_device(text: &str) -> Result<DeviceChoice, String> {
    let index = |text: &str| text.parse().map_err(|_| format!("`{text}` isn't a GPU index"));
    match text {
        "auto" => Ok(DeviceChoice::Auto),
        "cpu" => Ok(DeviceChoice::Cpu),
        "cuda" => Ok(DeviceChoice::Cuda(0)),
        other => match other.strip_prefix("cuda:") {
            Some(number) => index(number).map(DeviceChoice::Cuda),
            None => Err("expected `auto`, `cpu`, `cuda` or `cuda:N`".to_owned()),
        },
    }
}

pub(super) fn parse_method(text: &str) -> Result<Method, String> {
    by_name(text, Method::ALL).map_err(|expected| match text {
        // its name in earlier versions
        "seed" => format!("{expected}; EPT-Bench's estimator is `{}`", Method::EptBench),
        _ => expected,
    })
}

pub(super) fn parse_dtype(text: &str) -> Result<Dtype, String> {
    by_name(text, [Dtype::F32, Dtype::F16, Dtype::Bf16])
}

/// The meters of real devices.
pub(super) fn parse_meter(text: &str) -> Result<MeterChoice, String> {
    by_name(text, [MeterChoice::Auto, MeterChoice::Nvml, MeterChoice::Rapl, MeterChoice::Modelled])
}

/// The value with this name, or a sentence that lists them all.
fn by_name<T: Display, const N: usize>(text: &str, values: [T; N]) -> Result<T, String> {
    let names = values.iter().map(|value| format!("`{value}`")).collect::<Vec<_>>().join(", ");
    values.into_iter().find(|value| value.to_string() == text).ok_or_else(|| format!("expected one of {names}"))
}

pub(super) fn parse_seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds.is_finite() && seconds >= 0.0 => Ok(seconds),
        _ => Err("expected a number of seconds, such as `0.5`".to_owned()),
    }
}

/// `90s`, `25m`, `1h30m`: whole numbers, each with its unit, the largest first.
pub(super) fn parse_time(text: &str) -> Result<Seconds, String> {
    const UNITS: [(char, u32); 3] = [('h', 3600), ('m', 60), ('s', 1)];
    let bad = || "expected a duration such as `90s`, `25m` or `1h30m`".to_owned();
    let (mut total, mut rest) = (0.0, text);
    for (unit, seconds) in UNITS {
        let Some((count, after)) = rest.split_once(unit) else { continue };
        total += f64::from(count.parse::<u32>().map_err(|_| bad())?) * f64::from(seconds);
        rest = after;
    }
    if rest.is_empty() && total > 0.0 { Ok(Seconds(total)) } else { Err(bad()) }
}

pub(super) fn parse_positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("expected a whole number above 0".to_owned()),
        Ok(number) => Ok(number),
    }
}

pub(super) fn parse_share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..0.5).contains(&share) => Ok(share),
        _ => Err("expected a share of at least 0 and below 0.5, such as `0.01`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_whole_numbers_with_units_the_largest_first() {
        for (text, seconds) in [("90s", 90.0), ("25m", 1500.0), ("2h", 7200.0), ("1h30m", 5400.0), ("1h2m3s", 3723.0)] {
            assert_eq!(parse_time(text), Ok(Seconds(seconds)), "{text}");
        }
        for text in ["", "25", "m", "0s", "-5m", "1.5h", "30m1h", "5m5", "5 m", "1d"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn methods_are_read_by_their_names_and_an_old_name_by_a_hint() {
        for method in Method::ALL {
            assert_eq!(parse_method(method.code()), Ok(method));
        }
        let error = parse_method("seed").unwrap_err();
        assert_eq!(error, "expected one of `counter`, `power`, `ept-bench`; EPT-Bench's estimator is `ept-bench`");
        assert_eq!(parse_method("trapezoid").unwrap_err(), "expected one of `counter`, `power`, `ept-bench`");
    }

    #[test]
    fn a_simulated_meter_is_no_choice_on_the_command_line() {
        assert_eq!(parse_meter("rapl"), Ok(MeterChoice::Rapl));
        assert_eq!(parse_meter("synthetic").unwrap_err(), "expected one of `auto`, `nvml`, `rapl`, `modelled`");
        assert_eq!(parse_dtype("bf16"), Ok(Dtype::Bf16));
    }
}
