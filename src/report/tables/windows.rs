//! The conditions of the windows of each cell.

use super::results::spelled_out;
use crate::analysis::{CellSummary, Study, WindowFacts};
use crate::format;
use crate::report::table::{Cell, Column, FilledColumn, Table};
use crate::units::Seconds;

/// Every cell that has windows; those that only separate prefill from decode come last.
pub(crate) fn windows(study: &Study) -> Option<Table> {
    let has_windows = |cell: &&CellSummary| cell.windows.windows > 0;
    let compared = study.cells.iter().filter(has_windows).map(|cell| (cell, false));
    let cells: Vec<_> = compared.chain(study.probes.iter().filter(has_windows).map(|cell| (cell, true))).collect();
    let column =
        |head, get: fn(&WindowFacts) -> Option<Cell>| FilledColumn::new(head, &cells, |(cell, _)| get(&cell.windows));
    let name = |(cell, probe): &(&CellSummary, bool)| {
        let name = Cell::new(cell.id.clone());
        Some(if *probe { name.with("only for prefill and decode") } else { name })
    };
    let columns = vec![
        FilledColumn::new(Column::words("Cell"), &cells, name),
        FilledColumn::new(Column::words("Windows"), &cells, |(cell, _)| Some(badge(cell))),
        column(Column::numbers("Length", "s"), |w| Some(Cell::new(format::window_length(w.window_s?)))),
        column(Column::numbers("Passes", ""), |w| Some(Cell::new(format::passes(w.passes?)))),
        column(Column::numbers("Residual", "worst"), |w| Some(Cell::new(format::fraction(w.residual?))))
            .explained("Residual: (counter − integrated power) / counter, of the worst window and device."),
        column(Column::numbers("Coverage", "%, lowest"), |w| Some(Cell::new(format::coverage(w.coverage?))))
            .explained("Coverage: share of the window with power samples."),
        column(Column::numbers("Tick", ""), |w| Some(Cell::new(format::duration(Seconds(w.tick_s?))))),
        column(Column::numbers("Still to come", "at most"), |w| {
            Some(Cell::new(format::fraction(w.remainder_at_most?)))
        })
        .explained(
            "Still to come: how far the energy of the work may have been from its steady state after the warm-up.",
        ),
        column(Column::numbers("Temperature", "start → end"), temperature),
        column(Column::numbers("Memory", "end"), |w| Some(Cell::new(format::celsius(w.memory_temperature_c?)))),
        column(Column::numbers("SM clock", "mean"), clock),
        column(Column::words("Clock events"), |w| Some(Cell::new(format::clock_events(w.clock_events.as_ref()?))))
            .explained("Clock events: share of the time; the power cap is normal at full load."),
        column(Column::numbers("Idle drift", "worst"), |w| Some(Cell::new(format::signed_watts(w.idle_drift_w?))))
            .explained("Idle drift: idle power after a model's trials minus that before them."),
        column(Column::numbers("Other processes", ""), others),
    ];
    let caption = "The windows of each cell: the mean, or the worst window if a single one can spoil the result.";
    Table::of_known("table-windows", caption, columns)
}

/// `5 valid`, or the reasons against some.
fn badge(cell: &CellSummary) -> Cell {
    let (valid, invalid) = (cell.counts.valid as u64, cell.counts.invalid as u64);
    let text = match (valid, invalid) {
        (valid, 0) => format!("{} valid", format::count(valid)),
        (0, invalid) => format!("{} invalid", format::count(invalid)),
        (valid, invalid) => format!("{} valid, {} invalid", format::count(valid), format::count(invalid)),
    };
    let tone = match (invalid, cell.warnings.is_empty()) {
        (0, true) => "good",
        (0, false) => "warn",
        _ => "bad",
    };
    let reasons = [("invalid", &cell.invalid_reasons), ("warnings", &cell.warnings)];
    let reasons = reasons.into_iter().filter(|(_, reasons)| !reasons.is_empty());
    let why = reasons.map(|(kind, reasons)| format!("{kind}: {}", spelled_out(reasons))).collect::<Vec<_>>().join("; ");
    let badge = Cell::new(text).toned(Some(tone));
    if why.is_empty() { badge } else { badge.with(why) }
}

fn temperature(windows: &WindowFacts) -> Option<Cell> {
    Some(Cell::new(format::celsius_range(windows.temperature_start_c?, windows.temperature_end_c?)))
}

fn clock(windows: &WindowFacts) -> Option<Cell> {
    let mean = Cell::new(format::megahertz(windows.sm_clock_mhz?));
    Some(match windows.sm_clock_min_mhz {
        Some(lowest) => mean.with(format!("≥ {}", format::megahertz(lowest))),
        None => mean,
    })
}

fn others(windows: &WindowFacts) -> Option<Cell> {
    let others = windows.foreign_processes? as usize;
    Some(Cell::count(others).toned((others > 0).then_some("bad")))
}
