//! How far the repeats of each cell agree: what adaptive repeats go by.

use std::collections::BTreeMap;

use crate::record::{CellId, CellSpec, Outcome, Trial};
use crate::stats;

/// Energy per output token of each cell's valid trials.
#[derive(Debug, Clone, Default)]
pub struct Spread(BTreeMap<CellId, Vec<f64>>);

impl Spread {
    /// What earlier trials say.
    pub fn new<'a>(trials: impl Iterator<Item = &'a Trial>) -> Self {
        let mut spread = Self::default();
        for trial in trials {
            spread.learn(&trial.cell, &trial.outcome);
        }
        spread
    }

    /// Takes one trial into account; cells that are in no headline don't count, nor does what isn't valid.
    pub fn learn(&mut self, cell: &CellSpec, outcome: &Outcome) {
        let Outcome::Measured(measurement) = outcome else { return };
        if let Some(ept) = measurement.ept_out().filter(|_| measurement.validity.is_valid() && !cell.probe) {
            self.0.entry(cell.id.clone()).or_default().push(ept.get());
        }
    }

    /// Whether a cell's 95 % interval is wider than ± `half_width` of its mean. A cell that never gave two values doesn't
    /// become narrower by waiting.
    pub fn is_wide(&self, half_width: f64) -> bool {
        let relative = |values: &Vec<f64>| {
            let estimate = stats::mean(values)?;
            Some((estimate.interval?.high - estimate.value) / estimate.value.abs())
        };
        self.0.values().filter_map(relative).any(|width| width > half_width)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_wide_while_its_interval_exceeds_the_limit() {
        // t(4) = 2.776, s = 1.5811, half-width 2.776 · 1.5811 / √5 = 1.963 of 100
        let spread = |values: &[f64]| Spread([(CellId("a".into()), values.to_vec())].into());
        let five = spread(&[98.0, 99.0, 100.0, 101.0, 102.0]);
        assert!(!five.is_wide(0.0197) && five.is_wide(0.0196));
        assert!(!spread(&[100.0]).is_wide(0.02), "one value has no interval");
    }
}
