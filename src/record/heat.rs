//! How a trial's work came to its steady state: the same cycle of batches, again and again, before the window.

use serde::{Deserialize, Serialize};

use crate::units::{Joules, Seconds};

/// The warm-up of a trial as energy a cycle over time, and how far from its steady state the work still was.
///
/// A cycle is the first batches of the prompt list, the same each time, so that a change of its energy is a change of the
/// device: mostly of its temperature.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Heat {
    /// The cycles of the warm-up, in order; on long warm-ups several are merged into one entry.
    pub cycles: Vec<Cycle>,
    /// What was still to come when the warm-up ended, as a share of a cycle's energy: the energy of the steady state less
    /// that of the fitted course, positive where it rose. `None` if the warm-up was too short to show a course.
    pub remainder: Option<f64>,
    /// The largest |remainder| that the noise of the cycles allows, over all time constants that fit as well.
    pub remainder_at_most: Option<f64>,
    /// Change of a cycle's energy over the next 10 s, as a share of it.
    pub slope_per_10s: Option<f64>,
    /// What the protocol allows `remainder` to be, and half of what it allows `remainder_at_most` to be.
    pub allowed: f64,
}

/// A bound is as large as the noise makes it: it may be so many times what is allowed, if the estimate is within that.
const BOUND: f64 = 2.0;

impl Heat {
    /// What was still to come is within what the protocol allows, and its bound within twice that.
    pub fn is_steady(&self) -> bool {
        let known = self.remainder.zip(self.remainder_at_most);
        known.is_some_and(|(remainder, at_most)| remainder.abs() <= self.allowed && at_most <= BOUND * self.allowed)
    }
}

/// One or more cycles of the same work.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Cycle {
    /// The middle of the cycle, on the clock of the trace.
    pub t_s: Seconds,
    /// Of one cycle.
    pub duration_s: Seconds,
    /// Of one cycle, summed over the charged domains, by the source that shows more of short times.
    pub energy_j: Joules,
    /// °C of the hottest charged GPU in the middle of the cycle, if it can be read.
    pub temperature_c: Option<f64>,
    /// The same of the hottest memory.
    pub memory_temperature_c: Option<f64>,
}

/// A cycle that took longer than the median of all by this share did something that the others didn't: loading a kernel,
/// allocating memory, waiting for another process.
const HICCUP: f64 = 0.05;

/// The cycles that did the same work as most.
pub(crate) fn usual(cycles: &[Cycle]) -> Vec<&Cycle> {
    let mut durations: Vec<f64> = cycles.iter().map(|cycle| cycle.duration_s.0).collect();
    durations.sort_by(f64::total_cmp);
    let Some(median) = durations.get(durations.len() / 2) else { return Vec::new() };
    cycles.iter().filter(|cycle| cycle.duration_s.0 <= median * (1.0 + HICCUP)).collect()
}
