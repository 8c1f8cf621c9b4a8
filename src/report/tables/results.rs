//! Every cell of the plan, measured or not.

use crate::analysis::{CellSummary, Estimate, Study};
use crate::format::{self, Scale};
use crate::record::Reason;
use crate::report::table::{Cell, Column, Table, TableRow};

/// A column of estimates, with one unit for all rows.
struct EstimateColumn {
    title: &'static str,
    scale: Scale,
    get: fn(&CellSummary) -> Option<Estimate>,
}

pub(crate) fn results(study: &Study) -> Table {
    let estimates = estimate_columns(study);
    let mut columns = vec![
        Column::words("Model"),
        Column::numbers("Batch", ""),
        Column::numbers("New tokens", ""),
        Column::numbers("Valid", ""),
        Column::numbers("T_in", "tokens"),
        Column::numbers("T_out", "tokens"),
    ];
    columns.extend(estimates.iter().map(|column| Column::numbers(column.title, column.scale.unit)));
    columns.push(Column::words("Remarks"));
    let rows = study.cells.iter().map(|cell| row(cell, &estimates)).collect();
    let caption = "Every cell, with 95 % intervals over its repeats. E and T are for one pass over the prompts; EPT \
        is energy per token.";
    let caveat = format::caveat(&study.methods);
    Table { id: "table-results", caption: caption.to_owned(), caveat, columns, rows }
}

fn estimate_columns(study: &Study) -> Vec<EstimateColumn> {
    let energy = |title, get: fn(&CellSummary) -> Option<Estimate>| EstimateColumn {
        title,
        scale: Scale::joules(study.cells.iter().filter_map(get).map(|estimate| estimate.value)),
        get,
    };
    let rate = |title, unit, get| EstimateColumn { title, scale: Scale::plain(unit), get };
    let mut columns = vec![
        energy("E per pass", |cell| cell.energy_per_pass_j),
        energy("EPT_in", |cell| cell.ept_in_j),
        energy("EPT_out", |cell| cell.ept_out_j),
        energy("EPT_total", |cell| cell.ept_total_j),
    ];
    if study.cells.iter().any(|cell| cell.net_ept_out_j.is_some()) {
        columns.push(energy("EPT_out, net", |cell| cell.net_ept_out_j));
    }
    columns.push(rate("Speed", "tokens/s", |cell| cell.tokens_per_s));
    columns.push(rate("Power", "W", |cell| cell.power_w));
    columns
}

fn row(cell: &CellSummary, estimates: &[EstimateColumn]) -> TableRow {
    let tokens = cell.tokens_per_pass;
    let whole = |n: Option<f64>| n.map_or(Cell::unknown(), |n| Cell::new(format::whole(n)));
    let input = match tokens {
        Some(t) if t.pad_fraction > 0.0 => {
            whole(Some(t.input)).with(format!("+{} padding", format::fraction(t.pad_fraction)))
        }
        other => whole(other.map(|t| t.input)),
    };
    let weights = if cell.dummy_weights { ", dummy weights" } else { "" };
    let kind = format!("{}, {}{weights}", cell.role.words(), cell.dtype);
    let mut cells = vec![
        Cell::new(cell.model.clone()).with(kind),
        Cell::count(cell.batch_size),
        Cell::count(cell.max_new_tokens),
        valid(cell),
        input,
        whole(tokens.map(|t| t.output)),
    ];
    cells.extend(estimates.iter().map(|column| Cell::estimate((column.get)(cell).as_ref(), column.scale)));
    cells.push(remarks(cell));
    TableRow::new(cells)
}

fn valid(cell: &CellSummary) -> Cell {
    let (valid, planned) = (cell.counts.valid, cell.counts.planned);
    let tone = match valid {
        0 => Some("bad"),
        _ if valid < planned => Some("warn"),
        _ => None,
    };
    Cell::new(format!("{}/{}", format::count(valid as u64), format::count(planned as u64))).toned(tone)
}

fn remarks(cell: &CellSummary) -> Cell {
    let counts = [(cell.counts.invalid, "invalid"), (cell.counts.failed, "failed"), (cell.counts.skipped, "skipped")];
    let counts = counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{} {what}", format::count(*n as u64)));
    let reasons = [&cell.invalid_reasons, &cell.warnings].into_iter().filter(|reasons| !reasons.is_empty());
    Cell::new(counts.chain(reasons.map(|reasons| spelled_out(reasons))).collect::<Vec<_>>().join("; "))
}

/// The codes of reasons as words.
pub(crate) fn spelled_out(reasons: &[Reason]) -> String {
    reasons.iter().map(|reason| reason.code().replace('_', " ")).collect::<Vec<_>>().join(", ")
}
