//! Everything that `recompute` prints.

use std::path::PathBuf;

use serde::Serialize;

use crate::analysis::recomputed::{CellRow, Unit, WindowRow, by_cell};
use crate::error::Error;
use crate::meter::recompute::{Cut, Method};
use crate::record::TrialKey;
use crate::run::recompute::{Recomputed, Request};
use crate::store::Stored;

/// All that is printed. The names are the keys of the JSON output.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Outcomes {
    pub(crate) run: PathBuf,
    pub(crate) method: Method,
    /// Only a part of each window: its tokens aren't known, so there is no energy per token.
    pub(crate) part_of_window: bool,
    pub(crate) cells_unit: Unit,
    pub(crate) trials: Vec<WindowRow>,
    pub(crate) cells: Vec<CellRow>,
    pub(crate) missing: Vec<Missing>,
    /// Windows with exactly the stored energy.
    pub(crate) same_energy: usize,
    /// Windows that come out differently in any field, although nothing else was asked for.
    pub(crate) different: usize,
}

/// A trial that can't be recomputed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Missing {
    pub(crate) cell: String,
    pub(crate) block: u32,
    pub(crate) message: String,
}

impl Outcomes {
    pub(super) fn new(stored: &Stored, request: Request<'_>, recomputed: Recomputed) -> Self {
        let Recomputed { rows, missing } = recomputed;
        let part_of_window = request.cut != Cut::Whole;
        let cells_unit = if part_of_window { Unit::Watts } else { Unit::Joules };
        Self {
            run: stored.root.clone(),
            method: request.method,
            part_of_window,
            cells_unit,
            cells: by_cell(&rows, cells_unit),
            same_energy: rows.iter().filter(|row| row.is_same_energy()).count(),
            different: rows.iter().filter(|row| !row.differs.is_empty()).count(),
            trials: rows,
            missing: missing.into_iter().map(Missing::new).collect(),
        }
    }
}

impl Missing {
    fn new((TrialKey { cell, block }, error): (TrialKey, Error)) -> Self {
        Self { cell: cell.0, block, message: error.one_line() }
    }
}
