//! The tidy frame as plain rows, grouped by the cells of the plan. The last place that knows of columns.

use std::collections::{BTreeMap, HashMap};

use polars::prelude::DataFrame;

use super::comparison::{Unit, Units};
use crate::error::{Error, Result};
use crate::record::{CellSpec, ClockEvent, EnergyMethod, ModelMeta, Reason, RunInfo};
use crate::table::{Cells, from_code};

/// The trials of a run, by cell, in the order of the plan.
pub struct Trials<'a> {
    /// One entry for each cell of the plan that is compared and shown.
    pub cells: Vec<CellTrials<'a>>,
    /// One entry for each cell that was added to tell prefill and decode apart: in no comparison and no headline.
    pub probes: Vec<CellTrials<'a>>,
}

/// A cell of the plan with its trials.
pub struct CellTrials<'a> {
    /// The axes.
    pub spec: &'a CellSpec,
    /// The model, where the run knows it.
    pub model: Option<&'a ModelMeta>,
    /// The trials, in the order of the frame.
    pub rows: Vec<Row>,
}

/// One trial.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Which repeat.
    pub block: u32,
    /// What came of it.
    pub outcome: RowOutcome,
    /// Reasons that make it unusable.
    pub invalid_reasons: Vec<Reason>,
    /// What else is worth knowing.
    pub warnings: Vec<Reason>,
}

/// What came of a trial.
#[derive(Debug, Clone, PartialEq)]
pub enum RowOutcome {
    /// Measured, and whether it is valid.
    Measured(Box<WindowRow>, bool),
    /// Broke, with the message.
    Failed(String),
    /// Not tried, with the message.
    Skipped(String),
}

/// A measured window as plain numbers (joules, tokens, seconds).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct WindowRow {
    /// How the energy was obtained.
    pub method: Option<EnergyMethod>,
    /// Gross energy in joules.
    pub energy_j: Option<f64>,
    /// Energy above idle in joules.
    pub net_energy_j: Option<f64>,
    /// Input tokens.
    pub tokens_in: f64,
    /// Output tokens.
    pub tokens_out: f64,
    /// Padding positions.
    pub tokens_pad: f64,
    /// Length in seconds.
    pub window_s: Option<f64>,
    /// Passes over the prompt list.
    pub passes: f64,
    /// Batches in all passes.
    pub batches: f64,
    /// Prompts in all passes.
    pub prompts: f64,
    /// What EPT-Bench's own estimator gives, in joules.
    pub ept_bench_sum_j: Option<f64>,
    /// Energy of the GPUs in joules.
    pub gpu_j: Option<f64>,
    /// Energy of the processor packages in joules.
    pub cpu_j: Option<f64>,
    /// Energy of the main memory in joules.
    pub dram_j: Option<f64>,
    /// Energy of all of those in joules.
    pub sum_j: Option<f64>,
    /// Idle power after − before in watts.
    pub idle_drift_w: Option<f64>,
    /// The residual of two sources that is furthest from 0.
    pub residual: Option<f64>,
    /// Share of the window that the second source's samples cover.
    pub coverage: Option<f64>,
    /// Tick of the primary counter in seconds.
    pub tick_s: Option<f64>,
    /// Temperature in °C at the start.
    pub temperature_start_c: Option<f64>,
    /// Temperature in °C at the end.
    pub temperature_end_c: Option<f64>,
    /// Mean clock of the multiprocessors in MHz.
    pub sm_clock_mhz: Option<f64>,
    /// Their lowest clock in MHz.
    pub sm_clock_min_mhz: Option<f64>,
    /// Share of the window in which each clock event was active; `None` without telemetry.
    pub clock_events: Option<BTreeMap<ClockEvent, f64>>,
    /// Most compute processes of others at once.
    pub foreign_processes: Option<f64>,
    /// Prefill and decode from samples inside the window.
    pub phases: Option<PhaseRow>,
}

/// Prefill and decode of one window.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct PhaseRow {
    /// Energy of prefill in joules.
    pub prefill_j: f64,
    /// Energy of decode in joules.
    pub decode_j: f64,
    /// Decoding steps, over all batches.
    pub decode_steps: f64,
}

impl<'a> Trials<'a> {
    /// Reads the frame of a run.
    ///
    /// # Errors
    /// A column is missing or has another type, a trial belongs to no cell of the plan, or a block of a cell has
    /// two valid trials.
    pub fn read(run: &'a RunInfo, frame: &DataFrame) -> Result<Self> {
        let mut rows = group_rows(frame)?;
        let cell = |spec: &'a CellSpec| CellTrials {
            spec,
            model: run.models.iter().find(|model| model.label == spec.model),
            rows: rows.remove(&spec.id.0).unwrap_or_default(),
        };
        let (probes, cells) = run.cells.iter().map(cell).partition(|cell| cell.spec.probe);
        let trials = Self { cells, probes };
        if let Some(id) = rows.keys().min() {
            return Err(Error::new(format!("the results have a trial of cell `{id}`, which isn't in the run's plan")));
        }
        trials.all().try_for_each(CellTrials::refuse_doubles)?;
        Ok(trials)
    }

    /// Every cell of the plan, those that tell prefill and decode apart last.
    pub fn all(&self) -> impl Iterator<Item = &CellTrials<'a>> {
        self.cells.iter().chain(&self.probes)
    }

    /// The cells of a model that are compared, in the order of the plan.
    pub fn of_model(&self, label: &str) -> impl Iterator<Item = &CellTrials<'a>> {
        self.cells.iter().filter(move |cell| cell.spec.model == label)
    }

    /// The cell of another model with the same batch size and output length: of the same data type where there is
    /// one, else the only one there is.
    pub fn counterpart(&self, spec: &CellSpec, label: &str) -> Option<&CellTrials<'a>> {
        let candidates: Vec<_> = self.of_model(label).filter(|cell| same_axes(cell.spec, spec)).collect();
        let same_dtype = candidates.iter().find(|cell| cell.spec.dtype == spec.dtype);
        same_dtype.or(if candidates.len() == 1 { candidates.first() } else { None }).copied()
    }
}

impl CellTrials<'_> {
    /// The valid trials with their blocks.
    pub fn valid(&self) -> impl Iterator<Item = (u32, &WindowRow)> {
        self.rows.iter().filter_map(|row| match &row.outcome {
            RowOutcome::Measured(window, true) => Some((row.block, &**window)),
            _ => None,
        })
    }

    /// How the energy was obtained, where all valid trials with an energy agree.
    pub fn method(&self) -> Option<EnergyMethod> {
        let mut methods = self.valid().filter(|(_, window)| window.energy_j.is_some()).map(|(_, window)| window.method);
        let first = methods.next()??;
        methods.all(|method| method == Some(first)).then_some(first)
    }

    /// Energy per output token of each valid trial; empty where the methods differ.
    pub fn units(&self) -> Units {
        if self.method().is_none() {
            return Units::new();
        }
        self.valid().filter_map(|(block, window)| Some((block, Unit::of(window.ept_out()?)?))).collect()
    }

    /// Whether every planned trial was measured and all of them are valid; adaptive repeats go on beyond the planned
    /// ones.
    pub fn is_complete(&self, blocks: u32) -> bool {
        let valid = self.valid().count();
        valid >= blocks as usize && self.rows.len() == valid
    }

    /// The measured windows, valid or not.
    pub fn measured(&self) -> impl Iterator<Item = &WindowRow> {
        self.rows.iter().filter_map(|row| match &row.outcome {
            RowOutcome::Measured(window, _) => Some(&**window),
            _ => None,
        })
    }

    fn refuse_doubles(&self) -> Result<()> {
        let mut seen = BTreeMap::new();
        for (block, _) in self.valid() {
            if seen.insert(block, ()).is_some() {
                let message = format!("cell `{}` has two valid trials in block {block}", self.spec.id);
                return Err(Error::new(message).hint("the same run may have been merged twice"));
            }
        }
        Ok(())
    }
}

impl WindowRow {
    /// E / T_out in joules a token.
    pub fn ept_out(&self) -> Option<f64> {
        share(self.energy_j, self.tokens_out)
    }
}

/// Equal batch size, limit of new tokens and end of a sequence.
fn same_axes(a: &CellSpec, b: &CellSpec) -> bool {
    (a.batch_size, a.max_new_tokens, a.output_length) == (b.batch_size, b.max_new_tokens, b.output_length)
}

/// `total / parts`; `None` where there are no parts.
pub fn share(total: Option<f64>, parts: f64) -> Option<f64> {
    total.filter(|_| parts > 0.0).map(|total| total / parts)
}

fn group_rows(frame: &DataFrame) -> Result<HashMap<String, Vec<Row>>> {
    let cells = Cells(frame);
    let mut groups: HashMap<String, Vec<Row>> = HashMap::new();
    for row in 0..frame.height() {
        let id = cells.required_text("cell", row)?.to_owned();
        groups.entry(id).or_default().push(read_row(&cells, row)?);
    }
    Ok(groups)
}

fn read_row(cells: &Cells<'_>, row: usize) -> Result<Row> {
    Ok(Row {
        block: count(cells, "block", row)? as u32,
        outcome: read_outcome(cells, row)?,
        invalid_reasons: reasons(cells, "invalid_reasons", row)?,
        warnings: reasons(cells, "warnings", row)?,
    })
}

fn read_outcome(cells: &Cells<'_>, row: usize) -> Result<RowOutcome> {
    let message = || Ok::<_, Error>(cells.text("message", row)?.unwrap_or_default().to_owned());
    match cells.required_text("outcome", row)? {
        "measured" => {
            let window = Box::new(read_window(cells, row)?);
            Ok(RowOutcome::Measured(window, cells.bool("valid", row)? == Some(true)))
        }
        "failed" => Ok(RowOutcome::Failed(message()?)),
        "skipped" => Ok(RowOutcome::Skipped(message()?)),
        other => Err(Error::new(format!("column `outcome` has an unknown value `{other}`"))),
    }
}

fn read_window(cells: &Cells<'_>, row: usize) -> Result<WindowRow> {
    let method = cells.text("energy_method", row)?.map(|text| from_code("energy_method", text)).transpose()?;
    Ok(WindowRow {
        method,
        energy_j: cells.f64("E_run_J", row)?,
        net_energy_j: cells.f64("net_E_run_J", row)?,
        tokens_in: count(cells, "T_in", row)?,
        tokens_out: count(cells, "T_out", row)?,
        tokens_pad: count(cells, "T_pad", row)?,
        window_s: cells.f64("window_s", row)?,
        passes: count(cells, "passes", row)?,
        batches: count(cells, "batches", row)?,
        prompts: count(cells, "prompts", row)?,
        ept_bench_sum_j: cells.f64("E_sum_J", row)?,
        gpu_j: cells.f64("gpu_J", row)?,
        cpu_j: cells.f64("cpu_J", row)?,
        dram_j: cells.f64("dram_J", row)?,
        sum_j: cells.f64("total_J", row)?,
        idle_drift_w: cells.f64("idle_drift_w", row)?,
        residual: cells.f64("residual_worst", row)?,
        coverage: cells.f64("coverage", row)?,
        tick_s: cells.f64("tick_s", row)?,
        temperature_start_c: cells.f64("temperature_start_c", row)?,
        temperature_end_c: cells.f64("temperature_end_c", row)?,
        sm_clock_mhz: cells.f64("sm_clock_mhz", row)?,
        sm_clock_min_mhz: cells.f64("sm_clock_min_mhz", row)?,
        clock_events: cells.text("throttle", row)?.map(clock_events).transpose()?,
        foreign_processes: cells.i64("foreign_processes", row)?.map(|count| count as f64),
        phases: read_phases(cells, row)?,
    })
}

fn read_phases(cells: &Cells<'_>, row: usize) -> Result<Option<PhaseRow>> {
    let energies = cells.f64("prefill_J", row)?.zip(cells.f64("decode_J", row)?);
    let with_steps = energies.zip(cells.i64("decode_steps", row)?);
    Ok(with_steps.map(|((prefill_j, decode_j), steps)| PhaseRow { prefill_j, decode_j, decode_steps: steps as f64 }))
}

/// Reads `software_power_cap:0.85,sync_boost:0.1`.
fn clock_events(text: &str) -> Result<BTreeMap<ClockEvent, f64>> {
    let event = |entry: &str| {
        let bad = || Error::new(format!("column `throttle` has an entry `{entry}` that isn't `code:share`"));
        let (code, share) = entry.split_once(':').ok_or_else(bad)?;
        Ok((from_code("throttle", code)?, share.parse().map_err(|_| bad())?))
    };
    text.split(',').filter(|entry| !entry.is_empty()).map(event).collect()
}

fn count(cells: &Cells<'_>, name: &str, row: usize) -> Result<f64> {
    let value = cells.i64(name, row)?.ok_or_else(|| Error::new(format!("column `{name}` is null in row {row}")))?;
    Ok(value as f64)
}

fn reasons(cells: &Cells<'_>, name: &str, row: usize) -> Result<Vec<Reason>> {
    let text = cells.text(name, row)?.unwrap_or_default();
    text.split(',').filter(|code| !code.is_empty()).map(|code| from_code(name, code)).collect()
}
