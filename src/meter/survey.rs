//! Whether a source works, how often it updates and what a reading costs, measured once at the start.

use std::thread;
use std::time::{Duration, Instant};

use crate::record::{SourceInfo, SourceRole, SourceStatus};
use crate::units::Seconds;

/// What was found out about a source.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Findings {
    pub(crate) status: SourceStatus,
    /// Median time between two updates; `None` if fewer than two were seen.
    pub(crate) tick: Option<Seconds>,
    /// Shortest and longest time between two updates.
    pub(crate) range: Option<(Seconds, Seconds)>,
    /// Median time of a reading.
    pub(crate) call: Option<Seconds>,
    pub(crate) detail: Option<String>,
}

/// Why a source can't be read: "unsupported" is never "failed".
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Refusal {
    pub(crate) status: SourceStatus,
    pub(crate) detail: String,
}

/// How a source is watched.
#[derive(Debug, Clone, Copy)]
pub(super) struct Watch {
    /// For how long: a few of its updates.
    pub(crate) length: Duration,
    /// How much longer a counter that hasn't moved is waited for, which is useless if it never does; `None` for a value
    /// that may stand still.
    pub(crate) moves_within: Option<Duration>,
    /// Rest between two readings.
    pub(crate) rest: Duration,
}

impl Findings {
    pub(super) fn refused(why: Refusal) -> Self {
        Self { status: why.status, tick: None, range: None, call: None, detail: Some(why.detail) }
    }

    pub(super) fn works(&self) -> bool {
        self.status == SourceStatus::Supported
    }

    /// As it is recorded.
    pub(super) fn info(&self, domain: &str, name: &str, role: SourceRole) -> SourceInfo {
        SourceInfo {
            domain: domain.to_owned(),
            name: name.to_owned(),
            status: self.status,
            role,
            tick_s: self.tick,
            tick_range_s: self.range,
            call_s: self.call,
            detail: self.detail.clone(),
        }
    }
}

/// Watches a value: when it changes, and what reading it costs.
pub(super) fn watch(mut read: impl FnMut() -> Result<f64, Refusal>, how: Watch) -> Findings {
    let mut last = match read() {
        Ok(value) => value,
        Err(why) => return Findings::refused(why),
    };
    let (mut changes, mut calls) = (Vec::new(), Vec::new());
    let start = Instant::now();
    let longest = how.length + how.moves_within.unwrap_or_default();
    while start.elapsed() < how.length || (changes.is_empty() && start.elapsed() < longest) {
        let before = Instant::now();
        let value = match read() {
            Ok(value) => value,
            Err(why) => return Findings::refused(why),
        };
        calls.push(before.elapsed().as_secs_f64());
        if value != last {
            changes.push(before.duration_since(start).as_secs_f64());
            last = value;
        }
        thread::sleep(how.rest);
    }
    let stands = how.moves_within.is_some() && changes.is_empty();
    let (tick, range) = spacing(&changes);
    Findings {
        status: if stands { SourceStatus::StandsStill } else { SourceStatus::Supported },
        tick,
        range,
        call: median(&calls).map(Seconds),
        detail: stands.then(|| "it stands still".to_owned()),
    }
}

/// Median, shortest and longest distance between consecutive times.
pub(super) fn spacing(times: &[f64]) -> (Option<Seconds>, Option<(Seconds, Seconds)>) {
    let gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let ends = gaps.iter().copied().reduce(f64::min).zip(gaps.iter().copied().reduce(f64::max));
    (median(&gaps).map(Seconds), ends.map(|(low, high)| (Seconds(low), Seconds(high))))
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNTER: Watch = Watch {
        length: Duration::from_millis(20),
        moves_within: Some(Duration::from_millis(20)),
        rest: Duration::from_micros(100),
    };

    #[test]
    fn a_counter_that_never_moves_stands_still_and_a_constant_value_does_not() {
        let found = watch(|| Ok(7.0), COUNTER);
        assert_eq!((found.status, found.tick), (SourceStatus::StandsStill, None));
        assert!(watch(|| Ok(7.0), Watch { moves_within: None, ..COUNTER }).works());
    }

    #[test]
    fn a_source_that_cannot_be_read_says_why_and_shows_no_numbers() {
        let refusal = Refusal { status: SourceStatus::Unsupported, detail: "not here".into() };
        let found = watch(|| Err(refusal.clone()), COUNTER);
        assert_eq!((found.status, found.call), (SourceStatus::Unsupported, None));
        assert_eq!(found.detail.as_deref(), Some("not here"));
    }

    #[test]
    fn ticks_are_the_distances_between_changes() {
        assert_eq!(
            spacing(&[0.0, 1.0, 3.0, 7.0]),
            (Some(Seconds(2.0)), Some((Seconds(1.0), Seconds(4.0)))),
            "median, shortest, longest"
        );
        assert_eq!(spacing(&[1.0]), (None, None));
    }
}
