//! Energy by component, the part of the GPUs' memory, and EPT-Bench's estimator compared with ours.

use crate::analysis::{CellSummary, Estimate, Study};
use crate::format::{self, Scale};
use crate::report::table::{Cell, Column, FilledColumn, Table};

type Get = fn(&CellSummary) -> Option<Estimate>;

/// Energy of a pass by component; `None` unless the processor was measured in addition to the GPUs.
pub(crate) fn components(study: &Study) -> Option<Table> {
    let both = |cell: &&CellSummary| cell.domains.gpu_j.is_some() && cell.domains.cpu_j.is_some();
    let cells: Vec<&CellSummary> = study.cells.iter().filter(both).collect();
    let parts: [(&str, Get); 4] = [
        ("GPU", |cell| cell.domains.gpu_j),
        ("CPU", |cell| cell.domains.cpu_j),
        ("Memory", |cell| cell.domains.dram_j),
        ("Total", |cell| cell.domains.total_j),
    ];
    let all = cells.iter().flat_map(|cell| parts.iter().filter_map(|(_, get)| get(cell)));
    let scale = Scale::joules(all.map(|estimate| estimate.value));
    let mut columns = vec![name(&cells)];
    columns.extend(parts.iter().map(|(title, get)| energy(&cells, title, scale, get)));
    columns.push(FilledColumn::new(Column::numbers("GPU share", ""), &cells, |cell| {
        Some(Cell::new(format::fraction(cell.domains.gpu_share()?)))
    }));
    let caption = "Energy of one pass over the prompts by component, with 95 % intervals: the GPUs in use, the \
        processor packages and main memory. A package is measured as a whole, with whatever else runs on it. Energies \
        per token include only the GPUs.";
    Some(Table::of_known("table-domains", caption, columns)?.with_caveat(format::caveat(&study.methods)))
}

/// A token's energy split into the GPUs' memory and the rest; `None` unless the driver gives the memory's power.
pub(crate) fn memory(study: &Study) -> Option<Table> {
    let cells: Vec<&CellSummary> = study.cells.iter().filter(|cell| cell.memory.is_some()).collect();
    let energies = cells.iter().filter_map(|cell| cell.memory).flat_map(|part| [part.ept_out_j, part.rest_ept_out_j]);
    let scale = Scale::joules(energies.map(|estimate| estimate.value));
    let columns = vec![
        name(&cells),
        energy(&cells, "Memory per token", scale, |cell| Some(cell.memory?.ept_out_j)),
        energy(&cells, "Rest per token", scale, |cell| Some(cell.memory?.rest_ept_out_j)),
        energy(&cells, "Memory's share", Scale::PERCENT, |cell| Some(cell.memory?.share)),
    ];
    let caption = "Energy per output token of the GPUs' memory and of the rest of the board, with 95 % intervals. The \
        driver gives the memory's power as the average of the last second, shifted here by half a second; what it counts \
        as memory is not documented.";
    Some(Table::of_known("table-memory", caption, columns)?.with_caveat(format::caveat(&study.methods)))
}

pub(crate) fn ept_bench_sum(study: &Study) -> Option<Table> {
    let cells: Vec<&CellSummary> = study.cells.iter().filter(|cell| cell.ept_bench_sum.is_some()).collect();
    let energies = cells.iter().flat_map(|cell| [cell.energy_per_pass_j, cell.ept_bench_sum.map(|sum| sum.per_pass_j)]);
    let scale = Scale::joules(energies.flatten().map(|e| e.value));
    let columns = vec![
        name(&cells),
        energy(&cells, "E", scale, |cell| cell.energy_per_pass_j),
        energy(&cells, "E_sum", scale, |cell| Some(cell.ept_bench_sum?.per_pass_j)),
        energy(&cells, "E_sum / E", Scale::PERCENT, |cell| Some(cell.ept_bench_sum?.ratio)),
    ];
    let caption = "EPT-Bench's estimator compared with ours, for one pass: E_sum = Σ Pᵢ·Δtᵢ over the driver's power \
        reading every 0.1 s, without the last partial interval. On newer GPUs that reading is the average of the last \
        second, so E_sum misses part of a short window. It is recorded for comparison and used nowhere else.";
    Some(Table::of_known("table-estimator", caption, columns)?.with_caveat(format::caveat(&study.methods)))
}

fn name(cells: &[&CellSummary]) -> FilledColumn {
    FilledColumn::new(Column::words("Cell"), cells, |cell| Some(Cell::new(cell.id.clone())))
}

fn energy(
    cells: &[&CellSummary],
    title: &str,
    scale: Scale,
    get: impl Fn(&CellSummary) -> Option<Estimate>,
) -> FilledColumn {
    let column = Column::numbers(title, scale.unit);
    FilledColumn::new(column, cells, |cell| Some(Cell::estimate(Some(&get(cell)?), scale)))
}
