//! Tables on how far the energies can be trusted and where they went: windows, phases, domains, EPT-Bench's estimator.
//!
//! Each exists only where there is something to show, and leaves out columns of which nothing is known.

use super::context::{Cell, Column, Row, Table};
use super::tables::{caveat, estimate};
use crate::analysis::{CellSummary, Estimate, PhaseEnergy, Phases, Study};
use crate::format::{self, Scale};
use crate::record::Reason;

/// Takes a number of a row.
type Get<T, V> = fn(&T) -> Option<V>;

/// A column with its cells, and whether anything in it is known.
struct Filled {
    column: Column,
    cells: Vec<Option<Cell>>,
}

impl Filled {
    fn new<T>(column: Column, rows: &[T], get: impl Fn(&T) -> Option<Cell>) -> Self {
        Self { column, cells: rows.iter().map(get).collect() }
    }

    fn is_known(&self) -> bool {
        self.cells.iter().any(Option::is_some)
    }
}

/// A table of the columns in which something is known.
fn table(id: &'static str, caption: &str, caveat: Option<&'static str>, columns: Vec<Filled>) -> Table {
    let columns: Vec<Filled> = columns.into_iter().filter(Filled::is_known).collect();
    let rows = columns.iter().map(|column| column.cells.len()).max().unwrap_or_default();
    let cell = |column: &Filled, row: usize| column.cells.get(row).cloned().flatten().unwrap_or_else(Cell::unknown);
    let row = |row: usize| Row::new(columns.iter().map(|column| cell(column, row)).collect());
    let rows = (0..rows).map(row).collect();
    let columns = columns.into_iter().map(|filled| filled.column).collect();
    Table { id, caption: caption.to_owned(), caveat, columns, rows }
}

/// Every cell with the conditions of its windows, those that tell prefill and decode apart last.
pub fn windows(study: &Study) -> Option<Table> {
    let measured = |cells: &'_ [CellSummary], probe: bool| {
        let windows = cells.iter().filter(|cell| cell.windows.windows > 0);
        windows.cloned().map(|cell| (cell, probe)).collect::<Vec<_>>()
    };
    let cells = [measured(&study.cells, false), measured(&study.probes, true)].concat();
    let words = |title: &str| Column::words(title);
    let columns = vec![
        Filled::new(words("Cell"), &cells, |(cell, probe)| {
            let name = Cell::new(cell.id.clone());
            Some(if *probe { name.with("only for prefill and decode") } else { name })
        }),
        Filled::new(words("Windows"), &cells, |(cell, _)| Some(badge(cell))),
        Filled::new(Column::numbers("Length", "s"), &cells, |(cell, _)| number(cell.windows.window_s)),
        Filled::new(Column::numbers("Passes", ""), &cells, |(cell, _)| passes(cell.windows.passes?)),
        Filled::new(Column::numbers("Residual", "worst"), &cells, |(cell, _)| share(cell.windows.residual)),
        Filled::new(Column::numbers("Coverage", "%, lowest"), &cells, |(cell, _)| {
            Some(Cell::new(format::fixed(cell.windows.coverage? * 100.0, 1)))
        }),
        Filled::new(Column::numbers("Tick", ""), &cells, |(cell, _)| tick(cell.windows.tick_s?)),
        Filled::new(Column::numbers("Temperature", "start → end"), &cells, |(cell, _)| temperature(cell)),
        Filled::new(Column::numbers("SM clock", "mean"), &cells, |(cell, _)| clock(cell)),
        Filled::new(words("Clock events"), &cells, |(cell, _)| {
            Some(Cell::new(format::clock_events(cell.windows.clock_events.as_ref()?)))
        }),
        Filled::new(Column::numbers("Idle drift", "worst"), &cells, |(cell, _)| {
            Some(Cell::new(format::signed_watts(cell.windows.idle_drift_w?)))
        }),
        Filled::new(Column::numbers("Others", "processes"), &cells, |(cell, _)| {
            let others = cell.windows.foreign_processes?;
            Some(Cell::new(format::count(others as u64)).toned((others > 0.0).then_some("bad")))
        }),
    ];
    let caption = "The windows of each cell: means over them, and the worst where one alone would spoil the figure. \
        Residual: (counter − integrated power) / counter, of the worst window and device. Clock events: share of the \
        time; the power cap is normal at full load. Idle drift: idle power after a model's trials less that before.";
    (!cells.is_empty()).then(|| table("table-windows", caption, None, columns))
}

/// `5 valid`, or what speaks against some.
fn badge(cell: &CellSummary) -> Cell {
    let codes = |reasons: &[Reason]| reasons.iter().map(|r| r.words()).collect::<Vec<_>>().join(", ");
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
    let invalid = (!cell.invalid_reasons.is_empty()).then(|| format!("invalid: {}", codes(&cell.invalid_reasons)));
    let warned = (!cell.warnings.is_empty()).then(|| format!("warnings: {}", codes(&cell.warnings)));
    let why: Vec<String> = [invalid, warned].into_iter().flatten().collect();
    let badge = Cell::new(text).toned(Some(tone));
    if why.is_empty() { badge } else { badge.with(why.join("; ")) }
}

fn number(value: Option<f64>) -> Option<Cell> {
    value.map(|value| Cell::new(format::number(value, None)))
}

fn passes(mean: f64) -> Option<Cell> {
    let whole = mean.fract() == 0.0;
    Some(Cell::new(if whole { format::count(mean as u64) } else { format::number(mean, None) }))
}

fn share(value: Option<f64>) -> Option<Cell> {
    value.map(|value| Cell::new(format::fraction(value)))
}

fn tick(seconds: f64) -> Option<Cell> {
    Some(Cell::new(format::duration(crate::units::Seconds(seconds))))
}

fn temperature(cell: &CellSummary) -> Option<Cell> {
    let (from, to) = cell.windows.temperature_start_c.zip(cell.windows.temperature_end_c)?;
    Some(Cell::new(format::celsius_range(from, to)))
}

fn clock(cell: &CellSummary) -> Option<Cell> {
    let mean = Cell::new(format::megahertz(cell.windows.sm_clock_mhz?));
    let lowest = cell.windows.sm_clock_min_mhz;
    Some(match lowest {
        Some(lowest) => mean.with(format!("≥ {}", format::megahertz(lowest))),
        None => mean,
    })
}

/// Energy of a pass by what drew it, where the processor was measured beside the GPUs.
pub fn domains(study: &Study) -> Option<Table> {
    let beside = |cell: &&CellSummary| cell.domains.gpu_j.is_some() && cell.domains.cpu_j.is_some();
    let cells: Vec<&CellSummary> = study.cells.iter().filter(beside).collect();
    let parts: [(&str, Get<CellSummary, Estimate>); 4] = [
        ("GPU", |cell| cell.domains.gpu_j),
        ("CPU", |cell| cell.domains.cpu_j),
        ("Memory", |cell| cell.domains.dram_j),
        ("Together", |cell| cell.domains.total_j),
    ];
    let all = cells.iter().flat_map(|cell| parts.iter().filter_map(|(_, get)| get(cell))).map(|e| e.value);
    let scale = Scale::joules(all);
    let mut columns = vec![Filled::new(Column::words("Cell"), &cells, |cell| Some(Cell::new(cell.id.clone())))];
    columns.extend(parts.iter().map(|(title, get)| {
        let column = Column::numbers(*title, scale.unit);
        Filled::new(column, &cells, |cell| get(cell).as_ref().map(|e| estimate(Some(e), scale)))
    }));
    columns.push(Filled::new(Column::numbers("GPU's share", ""), &cells, |cell| {
        let (gpu, together) = cell.domains.gpu_j.zip(cell.domains.total_j)?;
        Some(Cell::new(format::fraction(gpu.value / together.value)))
    }));
    let caption = "Energy of one pass over the prompts by what drew it, with 95 % intervals: the GPUs in use, the \
        processor packages and the main memory. A package is measured whole, with whatever else runs on it. Only the \
        GPUs are in the energies per token.";
    (!cells.is_empty()).then(|| table("table-domains", caption, caveat(study), columns))
}

/// EPT-Bench's own estimator against the measured energy.
pub fn ept_bench_sum(study: &Study) -> Option<Table> {
    let cells: Vec<&CellSummary> = study.cells.iter().filter(|cell| cell.ept_bench_sum.is_some()).collect();
    let energies = cells.iter().flat_map(|cell| [cell.energy_per_pass_j, cell.ept_bench_sum.map(|sum| sum.per_pass_j)]);
    let scale = Scale::joules(energies.flatten().map(|e| e.value));
    let energy = |of: Option<Estimate>| of.as_ref().map(|e| estimate(Some(e), scale));
    let columns = vec![
        Filled::new(Column::words("Cell"), &cells, |cell| Some(Cell::new(cell.id.clone()))),
        Filled::new(Column::numbers("E", scale.unit), &cells, |cell| energy(cell.energy_per_pass_j)),
        Filled::new(Column::numbers("E_sum", scale.unit), &cells, |cell| energy(Some(cell.ept_bench_sum?.per_pass_j))),
        Filled::new(Column::numbers("E_sum / E", "%"), &cells, |cell| {
            Some(estimate(Some(&cell.ept_bench_sum?.ratio), Scale::PERCENT))
        }),
    ];
    let caption = "EPT-Bench's estimator beside ours, for one pass: E_sum = Σ Pᵢ·Δtᵢ over the driver's power reading \
        every 0.1 s, the last partial interval dropped. That reading is the average of the last second on newer GPUs, \
        so E_sum misses part of a short window. It is recorded for comparison and is in no other figure.";
    (!cells.is_empty()).then(|| table("table-estimator", caption, caveat(study), columns))
}

/// What has to be said with [`phases`].
pub const PHASES: &str = "The methods needn't agree: back-to-back prefill, as in windows of one new token, runs at \
    another clock and power state than prefill inside a generate call, where decoding comes before and after it.";

/// Prefill and decode of each model and batch size, the methods side by side.
pub fn phases(study: &Study) -> Option<Table> {
    let rows: Vec<&Phases> = study.phases.iter().collect();
    let methods: [(&str, Get<Phases, PhaseEnergy>); 3] = [
        ("by difference", |phases| phases.difference),
        ("by regression", |phases| phases.regression),
        ("inside windows", |phases| phases.inside),
    ];
    let energies = || rows.iter().flat_map(|phases| methods.iter().filter_map(|(_, get)| get(phases)));
    let prefill = Scale::joules(energies().map(|e| e.prefill_j_per_prompt.value));
    let decode = Scale::joules(energies().map(|e| e.decode_j_per_token.value));
    let mut columns = vec![
        Filled::new(Column::words("Model"), &rows, |phases| {
            Some(Cell::new(phases.model.clone()).with(format!("{}, {}", phases.role.words(), phases.dtype)))
        }),
        Filled::new(Column::numbers("Batch", ""), &rows, |phases| {
            Some(Cell::new(format::count(phases.batch_size as u64)))
        }),
    ];
    columns.extend(methods.iter().map(|(name, get)| {
        let column = Column::numbers(format!("Prefill {name}"), &format!("{}/prompt", prefill.unit));
        Filled::new(column, &rows, |phases| Some(estimate(Some(&get(phases)?.prefill_j_per_prompt), prefill)))
    }));
    columns.push(Filled::new(Column::numbers("Apart by", ""), &rows, |p| share(p.prefill_disagreement)));
    columns.extend(methods.iter().map(|(name, get)| {
        let column = Column::numbers(format!("Decode {name}"), &format!("{}/token", decode.unit));
        Filled::new(column, &rows, |phases| Some(estimate(Some(&get(phases)?.decode_j_per_token), decode)))
    }));
    columns.push(Filled::new(Column::numbers("Apart by", ""), &rows, |p| share(p.decode_disagreement)));
    columns.push(Filled::new(Column::numbers("A step", "of a batch"), &rows, |phases| {
        let best = phases.difference.or(phases.regression).or(phases.inside)?;
        Some(Cell::new(format::energy(&best.decode_j_per_step)))
    }));
    columns.push(Filled::new(Column::words("Remarks"), &rows, |phases| Some(Cell::new(remarks(phases)))));
    let caption = "Energy of prefill for one prompt and of decoding for one token, with 95 % intervals. By \
        difference: the longest windows less those of one new token, over the steps between. By regression: a line \
        through the energy of a pass against its decoding steps, over all lengths, weighted by 1 / variance; curved: \
        what a parabola adds to it, where that isn't 0 for certain. Inside windows: power samples, parted at the \
        first token of each batch. Apart by: (largest − smallest) / mean of the methods.";
    (!rows.is_empty()).then(|| table("table-phases", caption, caveat(study), columns))
}

fn remarks(phases: &Phases) -> String {
    let lengths = phases.regression.map(|line| format!("regression over {}", format::plural(line.lengths, "length")));
    let curved = phases.curvature.map(|curvature| format!("curved: {} per step²", format::energy(&curvature)));
    let longest = phases.difference.map(|d| format!("difference of {} and 1", format::plural(d.longest, "new token")));
    [longest, lengths, curved].into_iter().flatten().collect::<Vec<_>>().join("; ")
}
