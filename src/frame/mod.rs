//! The middle of the pipeline: records joined into one tidy table of typed columns, from which everything that a
//! reader sees is computed. polars selects, groups and pairs its rows; statistics take the typed view.

mod columns;
mod flat;
mod join;
mod pairs;
mod scores;
mod tables;
mod view;

pub(crate) use self::pairs::{CellSide, Energy, Pair, Side};
pub(crate) use self::scores::Scores;
pub use self::scores::rouge_l;
pub use self::tables::Frame;
#[cfg(test)]
pub(crate) use self::view::PhaseRow;
pub(crate) use self::view::{CellTrials, Course, TrialOutcome, TrialRow, WindowRow};
