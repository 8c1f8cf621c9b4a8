//! How adaptive repeats ended.

use crate::frame::CellTrials;
use crate::record::RunInfo;
use crate::stats::{Precision, precision};
use crate::units::JoulesPerToken;

/// How adaptive repeats ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Stopping {
    /// The half-width of the 95 % interval, relative to the mean, at which they were to end.
    pub half_width: f64,
    /// Repeats in any case.
    pub fewest: usize,
    /// Most repeats.
    pub most: usize,
    /// Repeats that were measured.
    pub repeats: usize,
    /// Cells that have the half-width.
    pub narrow: usize,
    /// Names of the cells whose interval is wider.
    pub wide: Vec<String>,
    /// Names of the cells with fewer than two valid repeats, which have no interval.
    pub unknown: Vec<String>,
}

impl Stopping {
    /// All cells, of any width.
    pub fn cells(&self) -> usize {
        self.narrow + self.wide.len() + self.unknown.len()
    }
}

/// Which cells of a run with adaptive repeats have an interval as narrow as it asked for.
pub(super) fn stopping(run: &RunInfo, cells: &[CellTrials<'_>]) -> Option<Stopping> {
    let adaptive = run.protocol.adaptive?;
    let values = |cell: &CellTrials<'_>| -> Vec<f64> {
        cell.valid().filter_map(|(_, window)| window.ept_out.map(JoulesPerToken::get)).collect()
    };
    let judged: Vec<_> = cells.iter().map(|cell| (cell, precision(&values(cell), adaptive.half_width))).collect();
    let named = |wanted: Precision| {
        let such = judged.iter().filter(|(_, precision)| *precision == wanted);
        such.map(|(cell, _)| cell.spec.id.0.clone()).collect::<Vec<_>>()
    };
    Some(Stopping {
        half_width: adaptive.half_width,
        fewest: run.blocks as usize,
        most: adaptive.max_repeats as usize,
        repeats: cells.iter().map(|cell| cell.measured().count()).max().unwrap_or_default(),
        narrow: named(Precision::Narrow).len(),
        wide: named(Precision::Wide),
        unknown: named(Precision::Unknown),
    })
}
