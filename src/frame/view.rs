//! The typed view of the table that statistics take. Beyond this room nobody knows a column.

use std::collections::BTreeMap;

use polars::prelude::DataFrame;

use crate::error::{Context as _, Error, Result};
use crate::record::{CellSpec, ClockEvent, Cycle, EnergyMethod, ModelMeta, Reason};
use crate::table::Cells;
use crate::units::{Joules, JoulesPerToken, Seconds, Tokens, Watts};

/// A cell of the plan with its trials.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CellTrials<'a> {
    pub(crate) spec: &'a CellSpec,
    /// `None` if the run lists no such model.
    pub(crate) model: Option<&'a ModelMeta>,
    /// In the order of the blocks.
    pub(crate) trials: Vec<TrialRow>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TrialRow {
    /// From 0.
    pub(crate) block: u32,
    pub(crate) outcome: TrialOutcome,
    /// Reasons that make it unusable.
    pub(crate) invalid_reasons: Vec<Reason>,
    pub(crate) warnings: Vec<Reason>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum TrialOutcome {
    /// The window, and whether it is valid.
    Measured(Box<WindowRow>, bool),
    /// With the message.
    Failed(String),
    /// With the message.
    Skipped(String),
}

/// The cycles of a trial's warm-up, in order.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Course(pub(crate) Vec<Cycle>);

/// One measured window. Its columns are described in [`super::COLUMNS`].
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct WindowRow {
    pub(crate) method: Option<EnergyMethod>,
    pub(crate) energy: Option<Joules>,
    pub(crate) net_energy: Option<Joules>,
    pub(crate) tokens_in: Tokens,
    pub(crate) tokens_out: Tokens,
    pub(crate) tokens_pad: Tokens,
    pub(crate) ept_in: Option<JoulesPerToken>,
    pub(crate) ept_out: Option<JoulesPerToken>,
    pub(crate) ept_total: Option<JoulesPerToken>,
    pub(crate) length: Option<Seconds>,
    /// T_out over the window's length.
    pub(crate) tokens_per_s: Option<f64>,
    pub(crate) power: Option<Watts>,
    pub(crate) passes: u32,
    /// In all passes.
    pub(crate) batches: u32,
    /// In all passes.
    pub(crate) prompts: u32,
    pub(crate) ept_bench_sum: Option<Joules>,
    pub(crate) gpu: Option<Joules>,
    pub(crate) cpu: Option<Joules>,
    pub(crate) dram: Option<Joules>,
    /// GPUs, processor packages and memory.
    pub(crate) total: Option<Joules>,
    /// The part of the GPUs' own memory.
    pub(crate) memory: Option<Joules>,
    /// After − before.
    pub(crate) idle_drift: Option<Watts>,
    /// The one of any domain that is furthest from 0.
    pub(crate) residual: Option<f64>,
    /// Share of the window that the second source's samples cover.
    pub(crate) coverage: Option<f64>,
    pub(crate) tick: Option<Seconds>,
    /// What was still to come after the warm-up, at most, as a share of the energy.
    pub(crate) remainder_at_most: Option<f64>,
    pub(crate) memory_temperature_end_c: Option<f64>,
    pub(crate) temperature_start_c: Option<f64>,
    pub(crate) temperature_end_c: Option<f64>,
    pub(crate) sm_clock_mhz: Option<f64>,
    pub(crate) sm_clock_min_mhz: Option<f64>,
    /// Share of the window in which each event was active, for events that were; `None` without telemetry.
    pub(crate) clock_events: Option<BTreeMap<ClockEvent, f64>>,
    pub(crate) foreign_processes: Option<u32>,
    pub(crate) phases: Option<PhaseRow>,
    pub(crate) decode_step: Option<Seconds>,
    /// Energy floor per output token.
    pub(crate) floor: Option<JoulesPerToken>,
    /// Half the width of its interval.
    pub(crate) floor_half: Option<JoulesPerToken>,
    pub(crate) floor_multiple: Option<f64>,
    pub(crate) bandwidth_share: Option<f64>,
    pub(crate) gpu_busy: Option<f64>,
    pub(crate) launches_per_step: Option<u32>,
}

/// Prefill and decode of one window.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct PhaseRow {
    pub(crate) prefill: Joules,
    pub(crate) decode: Joules,
    /// Over all batches.
    pub(crate) decode_steps: u64,
}

impl CellTrials<'_> {
    /// The valid trials with their blocks.
    pub(crate) fn valid(&self) -> impl Iterator<Item = (u32, &WindowRow)> {
        self.trials.iter().filter_map(|trial| match &trial.outcome {
            TrialOutcome::Measured(window, true) => Some((trial.block, &**window)),
            _ => None,
        })
    }

    /// The measured windows, valid or not.
    pub(crate) fn measured(&self) -> impl Iterator<Item = &WindowRow> {
        self.trials.iter().filter_map(|trial| match &trial.outcome {
            TrialOutcome::Measured(window, _) => Some(&**window),
            _ => None,
        })
    }

    /// How the energy was obtained, if all valid trials with an energy agree.
    pub(crate) fn method(&self) -> Option<EnergyMethod> {
        let mut methods = self.valid().filter(|(_, window)| window.energy.is_some()).map(|(_, window)| window.method);
        let first = methods.next()??;
        methods.all(|method| method == Some(first)).then_some(first)
    }
}

/// Reads the trials of one cell.
///
/// # Errors
/// A column is missing or has another type, or a code is unknown.
pub(super) fn trials(table: &DataFrame) -> Result<Vec<TrialRow>> {
    let cells = Cells(table);
    (0..table.height()).map(|row| trial(&cells, row)).collect()
}

fn trial(cells: &Cells<'_>, row: usize) -> Result<TrialRow> {
    Ok(TrialRow {
        block: count(cells, "block", row)?,
        outcome: outcome(cells, row)?,
        invalid_reasons: reasons(cells, "invalid_reasons", row)?,
        warnings: reasons(cells, "warnings", row)?,
    })
}

fn outcome(cells: &Cells<'_>, row: usize) -> Result<TrialOutcome> {
    let message = || Ok::<_, Error>(cells.text("message", row)?.unwrap_or_default().to_owned());
    match cells.required_text("outcome", row)? {
        "measured" => {
            let window = Box::new(window(cells, row)?);
            Ok(TrialOutcome::Measured(window, cells.bool("valid", row)? == Some(true)))
        }
        "failed" => Ok(TrialOutcome::Failed(message()?)),
        "skipped" => Ok(TrialOutcome::Skipped(message()?)),
        other => Err(Error::new(format!("column `outcome` has an unknown value `{other}`"))),
    }
}

fn window(cells: &Cells<'_>, row: usize) -> Result<WindowRow> {
    let number = |name| cells.f64(name, row);
    let joules = |name| Ok::<_, Error>(cells.f64(name, row)?.map(Joules));
    let per_token = |name| Ok::<_, Error>(cells.f64(name, row)?.map(JoulesPerToken));
    let tokens = |name| Ok::<_, Error>(Tokens(count(cells, name, row)?));
    Ok(WindowRow {
        method: method(cells, row)?,
        energy: joules("E_run_J")?,
        net_energy: joules("net_E_run_J")?,
        tokens_in: tokens("T_in")?,
        tokens_out: tokens("T_out")?,
        tokens_pad: tokens("T_pad")?,
        ept_in: per_token("EPT_in_J_per_tok")?,
        ept_out: per_token("EPT_out_J_per_tok")?,
        ept_total: per_token("EPT_total_J_per_tok")?,
        length: number("window_s")?.map(Seconds),
        tokens_per_s: number("tokens_per_s")?,
        power: number("power_w")?.map(Watts),
        passes: count(cells, "passes", row)?,
        batches: count(cells, "batches", row)?,
        prompts: count(cells, "prompts", row)?,
        ept_bench_sum: joules("E_sum_J")?,
        gpu: joules("gpu_J")?,
        cpu: joules("cpu_J")?,
        dram: joules("dram_J")?,
        total: joules("total_J")?,
        memory: joules("memory_J")?,
        idle_drift: number("idle_drift_w")?.map(Watts),
        residual: number("residual_worst")?,
        coverage: number("coverage")?,
        tick: number("tick_s")?.map(Seconds),
        remainder_at_most: number("warmup_remainder_at_most")?,
        memory_temperature_end_c: number("memory_temperature_end_c")?,
        temperature_start_c: number("temperature_start_c")?,
        temperature_end_c: number("temperature_end_c")?,
        sm_clock_mhz: number("sm_clock_mhz")?,
        sm_clock_min_mhz: number("sm_clock_min_mhz")?,
        clock_events: clock_events(cells, row)?,
        foreign_processes: whole(cells, "foreign_processes", row)?,
        phases: phases(cells, row)?,
        decode_step: number("decode_step_s")?.map(Seconds),
        floor: per_token("EPT_floor_J_per_tok")?,
        floor_half: per_token("EPT_floor_half_J_per_tok")?,
        floor_multiple: number("floor_multiple")?,
        bandwidth_share: number("bandwidth_share")?,
        gpu_busy: number("gpu_busy")?,
        launches_per_step: whole(cells, "launches_per_step", row)?,
    })
}

fn phases(cells: &Cells<'_>, row: usize) -> Result<Option<PhaseRow>> {
    let energies = cells.f64("prefill_J", row)?.zip(cells.f64("decode_J", row)?);
    let with_steps = energies.zip(whole(cells, "decode_steps", row)?);
    Ok(with_steps.map(|((prefill, decode), decode_steps)| PhaseRow {
        prefill: Joules(prefill),
        decode: Joules(decode),
        decode_steps,
    }))
}

pub(super) fn method(cells: &Cells<'_>, row: usize) -> Result<Option<EnergyMethod>> {
    let known = |code: &str| EnergyMethod::from_code(code).ok_or_else(|| unknown_code("energy_method", code));
    cells.text("energy_method", row)?.map(known).transpose()
}

pub(super) fn count<N: TryFrom<i64>>(cells: &Cells<'_>, name: &str, row: usize) -> Result<N> {
    whole(cells, name, row)?.ok_or_else(|| Error::new(format!("column `{name}` is null in row {row}")))
}

fn whole<N: TryFrom<i64>>(cells: &Cells<'_>, name: &str, row: usize) -> Result<Option<N>> {
    let value = cells.i64(name, row)?;
    let fits = |value| N::try_from(value).map_err(|_| Error::new(format!("column `{name}`: {value} is out of range")));
    value.map(fits).transpose()
}

fn reasons(cells: &Cells<'_>, name: &str, row: usize) -> Result<Vec<Reason>> {
    let list = cells.0.column(name).and_then(|column| column.list()).context(|| format!("column `{name}`"))?;
    let Some(codes) = list.get_as_series(row) else { return Ok(Vec::new()) };
    let codes = codes.str().context(|| format!("column `{name}`"))?;
    codes.iter().flatten().map(|code| reason(name, code)).collect()
}

pub(super) fn reason(name: &str, code: &str) -> Result<Reason> {
    Reason::from_code(code).ok_or_else(|| unknown_code(name, code))
}

/// A table that was written by a newer version, or changed by hand.
pub(super) fn unknown_code(name: &str, code: &str) -> Error {
    Error::new(format!("column `{name}` has an unknown code `{code}`"))
}

pub(super) fn clock_events(cells: &Cells<'_>, row: usize) -> Result<Option<BTreeMap<ClockEvent, f64>>> {
    let name = "clock_events";
    let fields = cells.0.column(name).and_then(|column| column.struct_()).context(|| format!("column `{name}`"))?;
    let mut shares = BTreeMap::new();
    let mut known = false;
    for (_, event) in ClockEvent::BITS {
        let field = fields.field_by_name(event.code()).context(|| format!("column `{name}`"))?;
        let share = field.f64().context(|| format!("column `{name}`"))?.get(row);
        known |= share.is_some();
        shares.extend(share.filter(|share| *share > 0.0).map(|share| (event, share)));
    }
    Ok(known.then_some(shares))
}
