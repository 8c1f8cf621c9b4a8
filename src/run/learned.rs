//! What a run learns from its trials: what fits into memory, and how far repeats agree.

use std::collections::BTreeMap;

use crate::record::{Adaptive, CellSpec, Outcome, Trial};
use crate::run::fit::Fit;
use crate::run::spread::Spread;

/// What is known so far; begins with what earlier starts found.
pub(super) struct Learned {
    /// Memory that cells need.
    pub(crate) fit: Fit,
    /// How far the repeats of each cell agree.
    pub(crate) spread: Spread,
    /// Blocks beyond the planned ones, and whether they are measured: decided once, at the block's first session.
    further: BTreeMap<u32, bool>,
    /// Why cells (by their index in the plan) didn't fit when their model was loaded.
    misfits: BTreeMap<usize, String>,
}

impl Learned {
    /// What earlier trials show. `begun` are blocks beyond the planned ones that are under way.
    pub(super) fn new<'a>(trials: impl Iterator<Item = &'a Trial>, begun: impl Iterator<Item = u32>) -> Self {
        let further = begun.map(|block| (block, true)).collect();
        let mut learned = Self { fit: Fit::default(), spread: Spread::default(), further, misfits: BTreeMap::new() };
        for trial in trials {
            learned.learn(&trial.cell, &trial.outcome);
        }
        learned
    }

    /// Takes a trial into account.
    pub(crate) fn learn(&mut self, cell: &CellSpec, outcome: &Outcome) {
        self.fit.learn(cell, outcome);
        self.spread.learn(cell, outcome);
    }

    /// Whether a block beyond the planned ones is under way.
    pub(crate) fn has_begun(&self, block: u32) -> bool {
        self.further.contains_key(&block)
    }

    /// Whether a block beyond the planned ones is measured: as long as the interval of any cell is too wide. A block
    /// is measured for all models or none, so that comparisons find their pairs in it.
    pub(crate) fn wants_further(&mut self, block: u32, adaptive: Adaptive) -> bool {
        let spread = &self.spread;
        *self.further.entry(block).or_insert_with(|| spread.is_wide(adaptive.half_width))
    }

    /// Keeps why a cell doesn't fit, or that it does.
    pub(crate) fn set_misfit(&mut self, index: usize, obstacle: Option<String>) {
        match obstacle {
            Some(message) => self.misfits.insert(index, message),
            None => self.misfits.remove(&index),
        };
    }

    /// Why a cell didn't fit when its model was loaded.
    pub(crate) fn misfit(&self, index: usize) -> Option<&String> {
        self.misfits.get(&index)
    }
}
