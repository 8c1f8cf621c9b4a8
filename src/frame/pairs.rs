//! Cells of two models that belong together, with their energies: paired by their axes.

use std::collections::{BTreeMap, HashMap};

use polars::prelude::{
    ChunkCompareEq as _, Column, DataFrame, DataFrameJoinOps as _, PolarsResult, UniqueKeepStrategy,
};

use super::tables::Frame;
use super::view;
use crate::error::{Context as _, Error, Result};
use crate::record::{ClockEvent, EnergyMethod, OutputLength};
use crate::table::Cells;
use crate::units::JoulesPerToken;

/// Cells of two models are compared if these are equal. The data type may differ: it can be what sets a student apart.
const AXES: [&str; 3] = ["batch_size", "max_new_tokens", "output_length"];

/// One or more runs that are compared together.
#[derive(Debug, Clone)]
pub(crate) struct Side {
    /// Planned cells that are compared, with the number of their run.
    plan: DataFrame,
    /// Energies of the valid trials of each cell of each run, in the order of the blocks.
    energies: HashMap<(u32, String), Vec<Energy>>,
}

/// Energy per output token of one valid trial, and the conditions of its window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Energy {
    pub(crate) block: u32,
    /// `None` if the record names none.
    pub(crate) method: Option<EnergyMethod>,
    /// `None` if no token was generated.
    pub(crate) ept_out: Option<JoulesPerToken>,
    /// The energy floor per output token; `None` if it isn't known.
    pub(crate) floor: Option<JoulesPerToken>,
    /// Mean of start and end, of the hottest GPU's core.
    pub(crate) temperature_c: Option<f64>,
    /// The same of its memory.
    pub(crate) memory_temperature_c: Option<f64>,
    pub(crate) sm_clock_mhz: Option<f64>,
    /// Share of the window in which the power cap was active; `None` without telemetry.
    pub(crate) power_cap: Option<f64>,
}

/// Two sets of cells with the same axes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Pair {
    /// Id of the base's cell.
    pub(crate) cell: String,
    pub(crate) batch_size: usize,
    pub(crate) max_new_tokens: usize,
    pub(crate) output_length: OutputLength,
    pub(crate) base: CellSide,
    pub(crate) new: CellSide,
}

/// One cell in each run of a side that planned it: the run's number, and its valid trials with an energy.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct CellSide(pub(crate) BTreeMap<u32, Vec<Energy>>);

/// The cells of two models.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Matched {
    /// Those that both sides planned, in the order of the base.
    pub(crate) pairs: Vec<Pair>,
    /// Ids of those that only one side planned.
    pub(crate) alone: Vec<String>,
}

impl Side {
    /// # Errors
    /// A table lacks a column.
    pub(crate) fn new(runs: &[&Frame]) -> Result<Self> {
        let mut plan: Option<DataFrame> = None;
        let mut energies = HashMap::new();
        for (run, frame) in (0u32..).zip(runs) {
            let numbered = compared_cells(frame, run).context(cant_pair)?;
            plan = Some(match plan {
                None => numbered,
                Some(above) => above.vstack(&numbered).context(cant_pair)?,
            });
            for cell in frame.energies()?.partition_by_stable(["cell"], true).context(cant_pair)? {
                if cell.height() > 0 {
                    energies.insert((run, text(&cell, "cell", 0)?), energies_of(&cell)?);
                }
            }
        }
        Ok(Self { plan: plan.unwrap_or_default(), energies })
    }

    /// Pairs the cells of `base` on this side with those of `new` on another.
    ///
    /// # Errors
    /// A table lacks a column.
    pub(crate) fn matched(&self, base: &str, other: &Self, new: &str) -> Result<Matched> {
        let (base_cells, new_cells) = (self.distinct_cells(base)?, other.distinct_cells(new)?);
        let of_base = self.in_each_run(&base_cells, base)?;
        let mut of_new = other.in_each_run(&base_cells, new)?;
        let mut matched = Matched::default();
        for (row, base) in of_base {
            match of_new.remove(&row) {
                Some(new) => matched.pairs.push(pair(&base_cells, row, base, new)?),
                None => matched.alone.push(text(&base_cells, "cell", row)?),
            }
        }
        let with_base = self.in_each_run(&new_cells, base)?;
        let only_new = (0..new_cells.height()).filter(|row| !with_base.contains_key(row));
        matched.alone.extend(only_new.map(|row| text(&new_cells, "cell", row)).collect::<Result<Vec<_>>>()?);
        Ok(matched)
    }

    /// The cells of a model that some run planned, one row for each set of axes and data type.
    fn distinct_cells(&self, model: &str) -> Result<DataFrame> {
        let distinct = || -> PolarsResult<DataFrame> {
            let of_model = of_model(&self.plan, model)?;
            let key: Vec<String> = AXES.iter().copied().chain(["dtype"]).map(str::to_owned).collect();
            of_model.unique_stable(Some(&key), UniqueKeepStrategy::First, None)
        };
        distinct().context(cant_pair)
    }

    /// For each row of `cells` the cell of `model` with the same axes in each run: the one of the same data type, or else
    /// the only one there is.
    fn in_each_run(&self, cells: &DataFrame, model: &str) -> Result<BTreeMap<usize, CellSide>> {
        let joined = || -> PolarsResult<DataFrame> {
            let wanted = cells.select(AXES.iter().copied().chain(["dtype"]))?.with_row_index("row".into(), None)?;
            wanted.inner_join(&of_model(&self.plan, model)?, AXES, AXES)
        };
        let joined = joined().context(cant_pair)?;
        let mut candidates: BTreeMap<(usize, u32), Vec<(String, bool)>> = BTreeMap::new();
        for at in 0..joined.height() {
            let same_dtype = text(&joined, "dtype", at)? == text(&joined, "dtype_right", at)?;
            let key = (index(&joined, "row", at)? as usize, index(&joined, "run", at)?);
            candidates.entry(key).or_default().push((text(&joined, "cell", at)?, same_dtype));
        }
        let mut sides: BTreeMap<usize, CellSide> = BTreeMap::new();
        for ((row, run), cells) in candidates {
            let same = cells.iter().find(|(_, same_dtype)| *same_dtype);
            let chosen = same.or(if cells.len() == 1 { cells.first() } else { None });
            if let Some((cell, _)) = chosen {
                let energies = self.energies.get(&(run, cell.clone())).cloned().unwrap_or_default();
                sides.entry(row).or_default().0.insert(run, energies);
            }
        }
        Ok(sides)
    }
}

fn pair(cells: &DataFrame, row: usize, base: CellSide, new: CellSide) -> Result<Pair> {
    let columns = Cells(cells);
    let code = columns.required_text("output_length", row)?;
    Ok(Pair {
        cell: text(cells, "cell", row)?,
        batch_size: view::count(&columns, "batch_size", row)?,
        max_new_tokens: view::count(&columns, "max_new_tokens", row)?,
        output_length: OutputLength::from_code(code).ok_or_else(|| view::unknown_code("output_length", code))?,
        base,
        new,
    })
}

fn compared_cells(frame: &Frame, run: u32) -> PolarsResult<DataFrame> {
    let mut cells = frame.plan.filter(&!frame.plan.column("probe")?.bool()?.clone())?;
    cells.with_column(Column::new("run".into(), vec![run; cells.height()]))?;
    Ok(cells)
}

fn of_model(plan: &DataFrame, model: &str) -> PolarsResult<DataFrame> {
    plan.filter(&plan.column("model")?.str()?.equal(model))
}

fn energies_of(cell: &DataFrame) -> Result<Vec<Energy>> {
    let columns = Cells(cell);
    let energy = |row| {
        Ok(Energy {
            block: view::count(&columns, "block", row)?,
            method: view::method(&columns, row)?,
            ept_out: columns.f64("EPT_out_J_per_tok", row)?.map(JoulesPerToken),
            floor: columns.f64("EPT_floor_J_per_tok", row)?.map(JoulesPerToken),
            temperature_c: middle(&columns, ["temperature_start_c", "temperature_end_c"], row)?,
            memory_temperature_c: middle(&columns, ["memory_temperature_start_c", "memory_temperature_end_c"], row)?,
            sm_clock_mhz: columns.f64("sm_clock_mhz", row)?,
            power_cap: view::clock_events(&columns, row)?
                .map(|events| events.get(&ClockEvent::SoftwarePowerCap).copied().unwrap_or(0.0)),
        })
    };
    (0..cell.height()).map(energy).collect()
}

/// The mean of the values at a window's start and end.
fn middle(columns: &Cells<'_>, [start, end]: [&str; 2], row: usize) -> Result<Option<f64>> {
    let ends = columns.f64(start, row)?.zip(columns.f64(end, row)?);
    Ok(ends.map(|(start, end)| (start + end) / 2.0))
}

fn text(table: &DataFrame, name: &str, row: usize) -> Result<String> {
    Ok(Cells(table).required_text(name, row)?.to_owned())
}

fn index(table: &DataFrame, name: &str, row: usize) -> Result<u32> {
    let number = table.column(name).and_then(|column| column.u32()).context(cant_pair)?.get(row);
    number.ok_or_else(|| Error::new(format!("column `{name}` is null in row {row}")))
}

fn cant_pair() -> String {
    "can't pair the cells of two models".to_owned()
}
