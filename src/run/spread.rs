//! How far the repeats of each cell agree: adaptive repeats go on until they do.

use std::collections::BTreeMap;

use crate::analysis::history;
use crate::record::{CellId, CellSpec, Outcome};
use crate::stats::{Precision, precision};

/// Energy per output token of each cell's trials that count.
#[derive(Debug, Clone, Default)]
pub(crate) struct Spread(BTreeMap<CellId, Vec<f64>>);

impl Spread {
    /// Takes a trial into account, if it counts in its cell's estimate.
    pub(crate) fn learn(&mut self, cell: &CellSpec, outcome: &Outcome) {
        if let Some(ept) = history::counted(cell, outcome) {
            self.0.entry(cell.id.clone()).or_default().push(ept.get());
        }
    }

    /// Whether the 95 % interval of any cell is wider than ± `half_width` of its mean. A cell that never gave two
    /// values doesn't get narrower with more repeats.
    pub(crate) fn is_wide(&self, half_width: f64) -> bool {
        self.0.values().any(|values| precision(values, half_width) == Precision::Wide)
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
