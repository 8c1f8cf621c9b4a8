//! What a source can do, measured once at the start: whether it works, how often it updates, what a reading costs.

use std::thread;
use std::time::{Duration, Instant};

use nvml_wrapper::error::NvmlError;

use crate::record::SourceStatus;
use crate::units::Seconds;

/// A live source updates within this time.
const MOVES_WITHIN: Duration = Duration::from_millis(450);
/// Long enough for four updates of a counter of 100 ms.
const WATCH: Duration = Duration::from_millis(450);
/// Rest between two readings while watching.
const REST: Duration = Duration::from_millis(1);

/// What was found out about a source.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Findings {
    pub status: SourceStatus,
    /// Median time between two updates; `None` where fewer than two were seen.
    pub tick: Option<Seconds>,
    /// Shortest and longest time between two updates.
    pub range: Option<(Seconds, Seconds)>,
    /// Median time of a reading.
    pub call: Option<Seconds>,
    pub detail: Option<String>,
}

impl Findings {
    /// A source that can't be read, and why: "unsupported" is never "failed".
    pub(super) fn refused(why: &NvmlError) -> Self {
        let status = match why {
            NvmlError::NotSupported | NvmlError::FailedToLoadSymbol(_) | NvmlError::NotFound => {
                SourceStatus::Unsupported
            }
            _ => SourceStatus::Failed,
        };
        Self { status, tick: None, range: None, call: None, detail: Some(why.to_string()) }
    }

    pub(super) fn works(&self) -> bool {
        self.status == SourceStatus::Supported
    }
}

/// Watches a value: when it changes, and what reading it costs. `must_move` for a counter, which is useless otherwise.
pub(super) fn watch(mut read: impl FnMut() -> Result<f64, NvmlError>, must_move: bool) -> Findings {
    let mut last = match read() {
        Ok(value) => value,
        Err(why) => return Findings::refused(&why),
    };
    let (mut changes, mut calls) = (Vec::new(), Vec::new());
    let start = Instant::now();
    while start.elapsed() < WATCH || (must_move && changes.is_empty() && start.elapsed() < WATCH + MOVES_WITHIN) {
        let before = Instant::now();
        let value = match read() {
            Ok(value) => value,
            Err(why) => return Findings::refused(&why),
        };
        calls.push(before.elapsed().as_secs_f64());
        if value != last {
            changes.push(before.duration_since(start).as_secs_f64());
            last = value;
        }
        thread::sleep(REST);
    }
    let stands = must_move && changes.is_empty();
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

pub(super) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}
