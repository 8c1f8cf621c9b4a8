//! Idle power around a trial: which baselines belong to it, and what they give together.

use super::trial::{Baseline, BaselineTime, Trial};
use crate::units::Watts;

/// The baselines before and after a trial, both of its own load of the model.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Around<'a> {
    pub(crate) before: Option<&'a Baseline>,
    pub(crate) after: Option<&'a Baseline>,
    /// The baseline in the trial's own record: runs of format 1 have no others.
    recorded: Option<Watts>,
}

impl<'a> Around<'a> {
    /// The last baseline counts if one was measured twice.
    pub(crate) fn of(trial: &Trial, baselines: &'a [Baseline]) -> Self {
        let at = |time: BaselineTime| {
            let own = |line: &&Baseline| {
                (line.model.as_str(), line.block, line.part) == (trial.cell.model.as_str(), trial.block, trial.part)
                    && line.time == time
            };
            baselines.iter().rev().find(own)
        };
        Self {
            before: at(BaselineTime::Before),
            after: at(BaselineTime::After),
            recorded: trial.measurement().and_then(|measurement| measurement.idle.as_ref()).map(|idle| idle.power_w),
        }
    }

    /// The mean of the two, or the only one, or the one that the trial recorded.
    pub(crate) fn power(&self) -> Option<Watts> {
        match (self.before, self.after) {
            (Some(before), Some(after)) => Some((before.idle.power_w + after.idle.power_w) * 0.5),
            (Some(only), None) | (None, Some(only)) => Some(only.idle.power_w),
            (None, None) => self.recorded,
        }
    }

    /// After − before.
    pub(crate) fn drift(&self) -> Option<Watts> {
        Some(self.after?.idle.power_w - self.before?.idle.power_w)
    }
}
