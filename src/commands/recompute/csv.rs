//! The recomputed windows as a table on disk: `--out`.

use std::path::Path;

use polars::prelude::{Column, DataFrame};

use super::Outcomes;
use crate::analysis::recomputed::WindowRow;
use crate::error::{Context, Result};
use crate::record::Reason;
use crate::table;
use crate::units::{Joules, Watts};

/// One row for each window, with the unit in each column's name; unknown is empty.
pub(super) fn write(path: &Path, outcomes: &Outcomes) -> Result<()> {
    let rows = &outcomes.trials;
    let numbers = |get: fn(&WindowRow) -> Option<f64>| rows.iter().map(get).collect::<Vec<_>>();
    let texts = |get: fn(&WindowRow) -> String| rows.iter().map(get).collect::<Vec<_>>();
    let columns = vec![
        Column::new("cell".into(), texts(|row| row.cell.clone())),
        Column::new("block".into(), rows.iter().map(|row| row.block).collect::<Vec<u32>>()),
        Column::new("method".into(), vec![outcomes.method.name(); rows.len()]),
        Column::new("duration_s".into(), numbers(|row| Some(row.duration_s.get()))),
        Column::new("stored_J".into(), numbers(|row| row.stored_j.map(Joules::get))),
        Column::new("recomputed_J".into(), numbers(|row| row.recomputed_j.map(Joules::get))),
        Column::new("difference".into(), numbers(|row| row.difference)),
        Column::new("stored_W".into(), numbers(|row| row.stored_w.map(Watts::get))),
        Column::new("recomputed_W".into(), numbers(|row| row.recomputed_w.map(Watts::get))),
        Column::new("residual".into(), numbers(|row| row.residual)),
        Column::new("valid".into(), rows.iter().map(|row| row.valid).collect::<Vec<bool>>()),
        Column::new("invalid_reasons".into(), texts(|row| codes(&row.invalid_reasons))),
        Column::new("warnings".into(), texts(|row| codes(&row.warnings))),
        Column::new("differs".into(), texts(|row| row.differs.join(" "))),
    ];
    let frame = DataFrame::new(rows.len(), columns).context(|| format!("can't write `{}`", path.display()))?;
    table::write_csv(path, &frame)
}

fn codes(reasons: &[Reason]) -> String {
    reasons.iter().map(|reason| reason.code()).collect::<Vec<_>>().join(" ")
}
