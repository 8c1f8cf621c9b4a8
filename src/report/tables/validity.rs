//! Why trials can't be used, and which failed.

use crate::analysis::{CellSummary, ReasonCount, Study};
use crate::report::table::{Cell, Column, Table};

/// How often each reason occurred, and what it means.
pub(crate) fn reasons(study: &Study) -> Option<Table> {
    let columns = vec![
        Column::words("Reason"),
        Column::numbers("Invalid trials", ""),
        Column::numbers("Trials with a warning", ""),
        Column::words("Meaning"),
    ];
    let row = |r: &ReasonCount| {
        let tone = if r.invalid > 0 { Some("bad") } else { Some("warn") };
        vec![
            Cell::new(r.reason.code()).toned(tone),
            Cell::count(r.invalid),
            Cell::count(r.warned),
            Cell::new(r.reason.explanation()),
        ]
    };
    let caption = "Why trials are invalid or carry a warning. Invalid trials are excluded from all estimates; trials \
        with a warning are kept.";
    Table::unless_empty("table-reasons", caption, columns, study.reasons.iter().map(row))
}

/// The cells of which trials failed or were skipped, with their messages.
pub(crate) fn failures(study: &Study) -> Option<Table> {
    let columns = vec![
        Column::words("Cell"),
        Column::numbers("Failed", ""),
        Column::numbers("Skipped", ""),
        Column::words("Message"),
    ];
    let broken = |c: &&CellSummary| c.counts.failed + c.counts.skipped > 0 || !c.failures.is_empty();
    let row = |c: &CellSummary| {
        vec![
            Cell::new(c.id.clone()),
            Cell::count(c.counts.failed),
            Cell::count(c.counts.skipped),
            Cell::new(c.failures.join("; ")),
        ]
    };
    let rows = study.cells.iter().chain(&study.probes).filter(broken).map(row);
    Table::unless_empty("table-failures", "Trials that failed or were skipped.", columns, rows)
}
