//! The conditions of the two cells of each comparison.

use crate::analysis::{Saving, SideConditions, Study};
use crate::format;
use crate::report::table::{Cell, Column, FilledColumn, Table};

/// `None` if nothing was read.
pub(crate) fn conditions(study: &Study, floor: f64) -> Option<Table> {
    let rows: Vec<&Saving> = study.savings.iter().filter(|saving| saving.conditions.is_known()).collect();
    if rows.is_empty() {
        return None;
    }
    let both = |get: fn(&SideConditions) -> Option<f64>, show: fn(f64, f64) -> String| {
        move |saving: &&Saving| {
            let (base, new) = (get(&saving.conditions.base)?, get(&saving.conditions.new)?);
            Some(Cell::new(show(base, new)))
        }
    };
    let heat = |saving: &&Saving| {
        let share = saving.conditions.heat_share?;
        Some(Cell::new(format::change(share)).toned((share.abs() > floor / 2.0).then_some("warn")))
    };
    let columns = vec![
        FilledColumn::new(Column::words("Model"), &rows, |saving| Some(Cell::new(saving.student.clone()))),
        FilledColumn::new(Column::words("Teacher"), &rows, |saving| Some(Cell::new(saving.teacher.clone()))),
        FilledColumn::new(Column::numbers("Batch", ""), &rows, |saving| Some(Cell::count(saving.batch_size))),
        FilledColumn::new(Column::numbers("New tokens", ""), &rows, |saving| Some(Cell::count(saving.max_new_tokens))),
        FilledColumn::new(
            Column::numbers("Temperature", "teacher → model"),
            &rows,
            both(|side| side.temperature_c, format::celsius_range),
        ),
        FilledColumn::new(
            Column::numbers("Memory", "teacher → model"),
            &rows,
            both(|side| side.memory_temperature_c, format::celsius_range),
        ),
        FilledColumn::new(
            Column::numbers("SM clock", "teacher → model"),
            &rows,
            both(|side| side.sm_clock_mhz, format::megahertz_range),
        ),
        FilledColumn::new(
            Column::numbers("Power cap", "teacher → model"),
            &rows,
            both(|side| side.power_cap, format::fraction_range),
        )
        .explained("Power cap: share of the time in which it held the clocks down."),
        FilledColumn::new(
            Column::numbers("Power limit", ""),
            &rows,
            both(|side| side.power_limit_w, format::watts_range),
        ),
        FilledColumn::new(Column::numbers("Heat", "of the ratio"), &rows, heat).explained(
            "Heat: what the difference in temperature may explain of the ratio of energies, by this run's own change of \
             energy for each degree of the core.",
        ),
    ];
    let caption = "Conditions of the compared cells: means over their valid windows.";
    Table::of_known("table-conditions", caption, columns)
}
