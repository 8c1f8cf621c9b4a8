//! What the engine costs: each cell against its energy floor and the memory's limit, and what the floor rests on.

use crate::analysis::{CellSummary, DeviceCosts, EngineCost, Estimate, Study};
use crate::format::{self, Scale};
use crate::report::table::{Cell, Column, FilledColumn, Table};

/// The cells of which something is known besides the energy; `None` if there is none.
pub(crate) fn engine(study: &Study) -> Option<Table> {
    let cells: Vec<&CellSummary> = study.cells.iter().filter(|cell| cell.engine.is_known()).collect();
    let energies = cells.iter().flat_map(|cell| [cell.ept_out_j, cell.engine.floor_j]).flatten();
    let joules = Scale::joules(energies.map(|estimate| estimate.value));
    let number = |title: &str, scale: Scale, get: fn(&CellSummary) -> Option<Estimate>| {
        FilledColumn::new(Column::numbers(title, scale.unit), &cells, |cell| {
            Some(Cell::estimate(Some(&get(cell)?), scale))
        })
    };
    let plain = |title: &str, unit: &str, get: fn(&EngineCost) -> Option<String>| {
        FilledColumn::new(Column::numbers(title, unit), &cells, |cell| get(&cell.engine).map(Cell::new))
    };
    let columns = vec![
        FilledColumn::new(Column::words("Model"), &cells, |cell| Some(Cell::new(cell.model.clone()))),
        FilledColumn::new(Column::numbers("Batch", ""), &cells, |cell| Some(Cell::count(cell.batch_size))),
        FilledColumn::new(Column::numbers("New tokens", ""), &cells, |cell| Some(Cell::count(cell.max_new_tokens))),
        number("EPT_out", joules, |cell| cell.engine.floor_j.and(cell.ept_out_j)),
        number("Energy floor", joules, |cell| cell.engine.floor_j).explained(
            "Energy floor: the least energy per output token that the same work takes on this device, with the interval of \
             the calibration.",
        ),
        FilledColumn::new(Column::numbers("Multiple", "of the floor"), &cells, |cell| {
            let multiple = cell.engine.floor_multiple?;
            let shown = Scale::plain("");
            Some(Cell::new(format::times(&multiple)).with(format::interval(&multiple, shown)))
        }),
        number("Decode step", Scale { factor: 1e3, unit: "ms" }, |cell| cell.engine.decode_step_s),
        number("Bandwidth", Scale::PERCENT, |cell| cell.engine.bandwidth_share).explained(
            "Bandwidth: bytes of a decode step / its time, as a share of the bandwidth of a pure read.",
        ),
        plain("GPU busy", "", |engine| Some(format::fraction(engine.gpu_busy?)))
            .explained("GPU busy: share of the time in which some kernel ran, as the driver samples it."),
        plain("Launches", "per step", |engine| Some(format::count(u64::from(engine.launches_per_step?)))),
    ];
    let caption = "What the engine costs: each cell compared with the device's limits.";
    (!cells.is_empty())
        .then(|| Table::of_known("table-engine", caption, columns))
        .flatten()
        .map(|table| table.with_caveat(format::caveat(&study.methods)))
}

/// What reading and multiplying cost on each device; `None` without a calibration.
pub(crate) fn calibrations(study: &Study) -> Option<Table> {
    let costs = &study.device_costs;
    let number = |title: &str, scale: Scale, get: fn(&DeviceCosts) -> Estimate| {
        FilledColumn::new(Column::numbers(title, scale.unit), costs, |costs| {
            Some(Cell::estimate(Some(&get(costs)), scale))
        })
    };
    let plain = |title: &str, unit: &str, get: fn(&DeviceCosts) -> Option<String>| {
        FilledColumn::new(Column::numbers(title, unit), costs, |costs| get(costs).map(Cell::new))
    };
    let columns = vec![
        FilledColumn::new(Column::words("Device"), costs, |costs| {
            let name = [&costs.name, &costs.uuid].into_iter().flatten().cloned().collect::<Vec<_>>().join(", ");
            let device = Cell::new(format!("{}, {}", costs.device, costs.dtype));
            Some(if name.is_empty() { device } else { device.with(name) })
        }),
        number("Read", Scale { factor: 1e-9, unit: "GB/s" }, |costs| costs.bytes_per_s),
        number("Energy of a byte", Scale { factor: 1e12, unit: "pJ" }, |costs| costs.joules_per_byte),
        number("Product", Scale { factor: 1e-12, unit: "TFLOP/s" }, |costs| costs.flops_per_s),
        number("Energy of a FLOP", Scale { factor: 1e12, unit: "pJ" }, |costs| costs.joules_per_flop),
        plain("Idle", "", |costs| Some(format::watts(costs.idle_w))),
        plain("Temperature", "end", |costs| Some(format::celsius(costs.temperature_c?))),
        plain("SM clock", "product", |costs| Some(format::megahertz(costs.sm_clock_mhz?))),
        plain("Power cap", "product", |costs| Some(format::fraction(costs.power_cap?))),
        FilledColumn::new(Column::words("Measured"), costs, |costs| Some(Cell::new(costs.measured_at.clone()))),
    ];
    let caption = "What the energy floor rests on, by the calibration of each device: a pure read of memory and a large \
        product of random matrices, with 95 % intervals. Energies are above the idle power.";
    let table = if costs.is_empty() { None } else { Table::of_known("table-calibration", caption, columns) };
    table.map(|table| table.with_caveat(format::caveat(&study.methods)))
}
