//! The columns of the table of results: name, meaning, type and value of each, once.

use std::collections::BTreeMap;

use polars::prelude::{
    BooleanChunked, Column, IntoColumn as _, ListBuilderTrait as _, ListStringChunkedBuilder, NamedFrom as _,
    NewChunkedArray as _, PolarsResult, Series, StructChunked,
};

use super::join::{DRAM, GPU, PACKAGE, Row};
use crate::energy_floor::step;
use crate::record::{ClockEvent, Measurement, Outcome, PhaseSplit, Reason};
use crate::units::{Joules, JoulesPerToken, Seconds, Watts};

/// One column of the table of results.
pub(crate) struct Definition {
    /// With the unit, where it has one.
    pub(crate) name: &'static str,
    /// What it holds, for people: held against `docs/results.md`.
    #[cfg_attr(not(test), expect(dead_code, reason = "the document is checked by a test"))]
    pub(crate) meaning: &'static str,
    values: Values,
}

/// How a column's values come from a row; `None` is null.
enum Values {
    Text(fn(&Row<'_>) -> Option<String>),
    Whole(fn(&Row<'_>) -> Option<u64>),
    /// Null also if the number isn't finite.
    Number(fn(&Row<'_>) -> Option<f64>),
    Flag(fn(&Row<'_>) -> Option<bool>),
    /// A list of codes.
    Reasons(fn(&Row<'_>) -> Option<Vec<Reason>>),
    /// A structure with one share for each event.
    ClockEvents(fn(&Row<'_>) -> Option<BTreeMap<ClockEvent, f64>>),
}

use Values::{ClockEvents, Flag, Number, Reasons, Text, Whole};

const fn column(name: &'static str, values: Values, meaning: &'static str) -> Definition {
    Definition { name, meaning, values }
}

/// All columns, in order.
pub(crate) const COLUMNS: &[Definition] = &[
    // what was run
    column("cell", Text(|row| Some(row.trial.cell.id.0.clone())), "id of the cell"),
    column("model", Text(|row| Some(row.trial.cell.model.clone())), "label of the model"),
    column("role", Text(|row| row.model.map(|model| model.role.code().to_owned())), "what the model is in the study"),
    column("teacher", Text(|row| row.model?.teacher.clone()), "label of the model's teacher"),
    column("batch_size", Whole(|row| Some(row.trial.cell.batch_size as u64)), "sequences decoded together"),
    column(
        "max_new_tokens",
        Whole(|row| Some(row.trial.cell.max_new_tokens as u64)),
        "output length: the limit in `natural` length, the exact number in `fixed` length",
    ),
    column("dtype", Text(|row| Some(row.trial.cell.dtype.clone())), "data type of weights and activations"),
    column("output_length", Text(|row| Some(row.trial.cell.output_length.code().to_owned())), "`natural` or `fixed`"),
    column("decoding", Text(|row| Some(row.trial.cell.decoding.to_string())), "how tokens are chosen"),
    column(
        "weights",
        Text(|row| Some(if row.trial.cell.dummy_weights { "dummy" } else { "stored" }.to_owned())),
        "`stored`, or `dummy` for seeded random weights",
    ),
    column(
        "kernels",
        Text(|row| Some(row.loaded()?.kernels?.code().to_owned())),
        "operations that the model ran on: `cpu` or `gpu` for this program's kernels, `plain` for candle's stock operations",
    ),
    column(
        "probe",
        Flag(|row| Some(row.trial.cell.probe)),
        "measured only to separate prefill and decode: in no comparison and no headline",
    ),
    column("block", Whole(|row| Some(u64::from(row.trial.block))), "block of the trial, from 0"),
    column("part", Whole(|row| Some(row.trial.part as u64)), "start of the program that measured it, from 0"),
    column("started_at", Text(|row| Some(row.trial.started_at.clone())), "when the trial started, RFC 3339"),
    // what came of it
    column("outcome", Text(|row| Some(outcome(&row.trial.outcome).to_owned())), "`measured`, `failed` or `skipped`"),
    column(
        "failure",
        Text(|row| match &row.trial.outcome {
            Outcome::Failed { failure, .. } => Some(failure.code().to_owned()),
            _ => None,
        }),
        "kind of failure",
    ),
    column(
        "message",
        Text(|row| match &row.trial.outcome {
            Outcome::Failed { message, .. } | Outcome::Skipped { message } => Some(message.clone()),
            Outcome::Measured(_) => None,
        }),
        "why it failed or was skipped",
    ),
    column(
        "valid",
        Flag(|row| Some(row.validity.as_ref()?.is_valid())),
        "whether the trial counts: it has no reason in `invalid_reasons`",
    ),
    column(
        "invalid_reasons",
        Reasons(|row| Some(row.validity.as_ref()?.invalid_reasons.clone())),
        "codes of the reasons that make it unusable",
    ),
    column(
        "warnings",
        Reasons(|row| Some(row.validity.as_ref()?.warnings.clone())),
        "codes of what else is worth knowing",
    ),
    // energy
    column(
        "energy_method",
        Text(|row| row.measurement()?.energy.method.map(|method| method.code().to_owned())),
        "how the energy was obtained",
    ),
    column("E_run_J", Number(|row| joules(row.measurement()?.energy.total_j)), "gross energy of the window"),
    column(
        "T_in",
        Whole(|row| Some(row.measurement()?.tokens_in.get())),
        "prompt tokens in the window, without padding",
    ),
    column(
        "T_out",
        Whole(|row| Some(row.measurement()?.tokens_out.get())),
        "tokens generated in the window, with end-of-sequence tokens",
    ),
    column("T_pad", Whole(|row| Some(row.measurement()?.tokens_pad.get())), "padding positions that prefill processed"),
    column("EPT_in_J_per_tok", Number(|row| per_token(row.measurement()?.ept_in())), "E_run / T_in"),
    column("EPT_out_J_per_tok", Number(|row| per_token(row.measurement()?.ept_out())), "E_run / T_out"),
    column("EPT_total_J_per_tok", Number(|row| per_token(row.measurement()?.ept_total())), "E_run / (T_in + T_out)"),
    column(
        "E_sum_J",
        Number(|row| joules(row.measurement()?.energy.ept_bench_sum_j)),
        "what EPT-Bench's own estimator gives for the window: for comparison only",
    ),
    column("gpu_J", Number(|row| joules(row.energy_of(GPU))), "energy of the GPUs"),
    column("cpu_J", Number(|row| joules(row.energy_of(PACKAGE))), "energy of the processor packages"),
    column("dram_J", Number(|row| joules(row.energy_of(DRAM))), "energy of the main memory"),
    column(
        "total_J",
        Number(|row| joules(row.energy_of_all())),
        "GPUs, processor packages and their memory; null if one of the first two wasn't measured",
    ),
    column(
        "memory_J",
        Number(|row| joules(row.memory())),
        "the part of the GPUs' memory in gpu_J, where the driver gives it",
    ),
    column(
        "EPT_memory_J_per_tok",
        Number(|row| per_token(row.memory()?.per_token(row.measurement()?.tokens_out))),
        "memory_J / T_out",
    ),
    column(
        "memory_coverage",
        Number(|row| Some(row.measurement()?.energy.memory?.coverage)),
        "share of the window that samples of the memory's power cover; below 0.95 memory_J is null",
    ),
    // the window
    column("window_s", Number(|row| seconds(row.measurement()?.window.duration())), "length of the window"),
    column(
        "offset_s",
        Number(|row| seconds(row.measurement()?.window.offset_s)),
        "random wait before the trial, against the sensor's rhythm",
    ),
    column("passes", Whole(|row| Some(row.measurement()?.window.passes.into())), "passes over the prompt list"),
    column("batches", Whole(|row| Some(row.measurement()?.window.batches.into())), "batches in all passes"),
    column("prompts", Whole(|row| Some(row.measurement()?.window.prompts.into())), "prompts in all passes"),
    column("output_bytes", Whole(|row| row.measurement()?.output_bytes), "UTF-8 bytes of the generated text"),
    column("tokens_per_s", Number(|row| tokens_per_s(row.measurement()?)), "T_out / window_s"),
    // idle power
    column("power_w", Number(|row| watts(row.power())), "mean power of the window"),
    column(
        "idle_w",
        Number(|row| watts(row.measurement().and(row.around.power()))),
        "idle power: the mean of the baselines before and after the model's trials of that block",
    ),
    column(
        "idle_drift_w",
        Number(|row| watts(row.measurement().and(row.around.drift()))),
        "idle power after − before; above 2 % of the net power it is the warning `idle_drift`",
    ),
    column("net_E_run_J", Number(|row| joules(row.net())), "E_run − idle_w · window_s"),
    // how far the energy can be trusted
    column(
        "integral_J",
        Number(|row| joules(row.measurement()?.energy.integral_j)),
        "the same energy by the second source",
    ),
    column("residual", Number(|row| row.measurement()?.energy.residual), "(counter − integral) / counter"),
    column(
        "residual_sd",
        Number(|row| row.measurement()?.energy.residual_sd),
        "what the resolution of the two sources explains of the residual: one standard deviation",
    ),
    column("residual_worst", Number(|row| row.worst_residual()), "the residual of any domain that is furthest from 0"),
    column(
        "coverage",
        Number(|row| row.measurement()?.energy.coverage),
        "share of the window that samples of the second source cover",
    ),
    column(
        "max_gap_s",
        Number(|row| seconds(row.measurement()?.energy.max_gap_s?)),
        "longest gap between samples of the second source",
    ),
    column("tick_s", Number(|row| seconds(row.measurement()?.energy.tick_s?)), "time between two ticks of the counter"),
    column(
        "edge_start_s",
        Number(|row| seconds(row.measurement()?.energy.edges_s?.0)),
        "how closely the counter's ticks at the window's start are known: ± so many seconds",
    ),
    column("edge_end_s", Number(|row| seconds(row.measurement()?.energy.edges_s?.1)), "the same at its end"),
    // conditions
    column(
        "temperature_start_c",
        Number(|row| row.hottest()?.temperature_start_c),
        "temperature at the start of the window, of the GPU that ends hottest",
    ),
    column("temperature_end_c", Number(|row| row.hottest()?.temperature_end_c), "its temperature at the end"),
    column(
        "memory_temperature_start_c",
        Number(|row| row.hottest()?.memory_temperature_start_c),
        "temperature of its memory at the start",
    ),
    column(
        "memory_temperature_end_c",
        Number(|row| row.hottest()?.memory_temperature_end_c),
        "temperature of its memory at the end",
    ),
    column(
        "sm_clock_mhz",
        Number(|row| mean(row.over_gpus(|gpu| gpu.sm_clock_mhz))),
        "mean clock of the multiprocessors",
    ),
    column(
        "sm_clock_min_mhz",
        Number(|row| row.over_gpus(|gpu| gpu.sm_clock_min_mhz).reduce(f64::min)),
        "their lowest clock",
    ),
    column(
        "clock_events",
        ClockEvents(|row| row.clock_events()),
        "share of the window in which each clock event was active; null without telemetry",
    ),
    column(
        "foreign_processes",
        Whole(|row| row.measurement()?.conditions.iter().filter_map(|gpu| gpu.foreign_processes).max().map(u64::from)),
        "most compute processes of others at once",
    ),
    // prefill and decode inside the window
    column("prefill_J", Number(|row| joules(Some(phases(row)?.prefill_j))), "energy of prefill"),
    column("decode_J", Number(|row| joules(Some(phases(row)?.decode_j))), "energy of decode"),
    column("prefill_s", Number(|row| seconds(phases(row)?.prefill_s)), "time of prefill"),
    column("decode_s", Number(|row| seconds(phases(row)?.decode_s)), "time of decode"),
    column("decode_steps", Whole(|row| Some(phases(row)?.decode_steps)), "decoding steps, over all batches"),
    column(
        "lag_s",
        Number(|row| seconds(phases(row)?.lag_s?)),
        "how much later than the host the samples show the first tokens; the split takes it into account",
    ),
    // what the engine costs
    column("decode_step_s", Number(|row| seconds(step(row.measurement()?)?)), "mean time of a decoding step"),
    column(
        "EPT_floor_J_per_tok",
        Number(|row| per_token(row.floor())),
        "energy floor: the least energy per output token that the same work takes on this device",
    ),
    column(
        "EPT_floor_half_J_per_tok",
        Number(|row| per_token(row.floor_half_width())),
        "half the width of its 95 % interval, over the repeats of the calibration",
    ),
    column(
        "floor_multiple",
        Number(|row| Some(row.measurement()?.ept_out()?.get() / row.floor()?.get())),
        "EPT_out / the energy floor",
    ),
    column(
        "bandwidth_share",
        Number(|row| row.limits?.bandwidth_share),
        "bytes of a decoding step / its time / the bandwidth of a pure read",
    ),
    column(
        "gpu_busy",
        Number(|row| mean(row.over_gpus(|gpu| gpu.busy))),
        "share of the time in which some kernel ran, as the driver samples it",
    ),
    column(
        "launches_per_step",
        Whole(|row| row.loaded()?.launches_per_step.map(u64::from)),
        "kernels that a decoding step launches",
    ),
    // outside of the window
    column("load_s", Number(|row| seconds(row.measurement()?.load.duration_s)), "time to load the model"),
    column("load_J", Number(|row| joules(row.measurement()?.load.energy_j)), "energy to load the model"),
    column("warmup_s", Number(|row| seconds(row.measurement()?.warmup.duration_s)), "time of the warm-up"),
    column("warmup_J", Number(|row| joules(row.measurement()?.warmup.energy_j)), "energy of the warm-up"),
    column(
        "warmup_remainder",
        Number(|row| row.measurement()?.heat.as_ref()?.remainder),
        "what was still to come of the energy's approach to its steady state after the warm-up, as a share of it",
    ),
    column(
        "warmup_remainder_at_most",
        Number(|row| row.measurement()?.heat.as_ref()?.remainder_at_most),
        "the most that it can be, by the noise of the warm-up; above what the protocol allows it is the warning `not_steady`",
    ),
    // accuracy of the same model, data type and output length
    column("exact_match", Number(|row| Some(row.scores?.exact_match.value)), "share of exact matches"),
    column("exact_match_stderr", Number(|row| Some(row.scores?.exact_match_stderr)), "its standard error"),
    column("rouge_l", Number(|row| Some(row.scores?.rouge_l.value)), "mean ROUGE-L F1"),
    column("rouge_l_stderr", Number(|row| row.scores?.rouge_l_stderr), "its standard error"),
];

impl Definition {
    /// As `docs/results.md` names it.
    #[cfg(test)]
    fn kind(&self) -> &'static str {
        match self.values {
            Text(_) => "text",
            Whole(_) => "whole number",
            Number(_) => "number",
            Flag(_) => "truth value",
            Reasons(_) => "list of codes",
            ClockEvents(_) => "structure of shares",
        }
    }

    /// # Errors
    /// polars can't build the column.
    pub(super) fn of(&self, rows: &[Row<'_>]) -> PolarsResult<Column> {
        let name = self.name;
        Ok(match &self.values {
            Text(get) => Column::new(name.into(), rows.iter().map(get).collect::<Vec<Option<String>>>()),
            // signed, as most readers of Parquet and CSV expect; no count comes near the sign bit
            Whole(get) => Column::new(
                name.into(),
                rows.iter().map(|row| get(row).map(|n| n as i64)).collect::<Vec<Option<i64>>>(),
            ),
            Number(get) => {
                let finite = |row: &Row<'_>| get(row).filter(|value| value.is_finite());
                Column::new(name.into(), rows.iter().map(finite).collect::<Vec<Option<f64>>>())
            }
            Flag(get) => BooleanChunked::from_iter_options(name.into(), rows.iter().map(get)).into_column(),
            Reasons(get) => reasons(name, rows.iter().map(get)),
            ClockEvents(get) => clock_events(name, &rows.iter().map(get).collect::<Vec<_>>())?.into_column(),
        })
    }
}

fn reasons(name: &str, lists: impl Iterator<Item = Option<Vec<Reason>>>) -> Column {
    let mut builder = ListStringChunkedBuilder::new(name.into(), 0, 0);
    for list in lists {
        match list {
            Some(reasons) => builder.append_values_iter(reasons.iter().map(|reason| reason.code())),
            None => builder.append_null(),
        }
    }
    builder.finish().into_column()
}

fn clock_events(name: &str, shares: &[Option<BTreeMap<ClockEvent, f64>>]) -> PolarsResult<StructChunked> {
    let share = |event: ClockEvent| {
        let of_row = |row: &Option<BTreeMap<ClockEvent, f64>>| Some(row.as_ref()?.get(&event).copied().unwrap_or(0.0));
        Series::new(event.code().into(), shares.iter().map(of_row).collect::<Vec<Option<f64>>>())
    };
    let fields: Vec<Series> = ClockEvent::BITS.iter().map(|(_, event)| share(*event)).collect();
    StructChunked::from_series(name.into(), shares.len(), fields.iter())
}

fn outcome(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Measured(_) => "measured",
        Outcome::Failed { .. } => "failed",
        Outcome::Skipped { .. } => "skipped",
    }
}

fn phases<'a>(row: &Row<'a>) -> Option<&'a PhaseSplit> {
    row.measurement()?.phases.as_ref()
}

fn tokens_per_s(measurement: &Measurement) -> Option<f64> {
    measurement.tokens_out.per(measurement.window.duration())
}

fn joules(energy: Option<Joules>) -> Option<f64> {
    energy.map(Joules::get)
}

fn per_token(energy: Option<JoulesPerToken>) -> Option<f64> {
    energy.map(JoulesPerToken::get)
}

fn watts(power: Option<Watts>) -> Option<f64> {
    power.map(Watts::get)
}

fn seconds(time: Seconds) -> Option<f64> {
    Some(time.get())
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, n) = values.fold((0.0, 0usize), |(sum, n), value| (sum + value, n + 1));
    (n > 0).then(|| sum / n as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documents_list_every_column_with_its_type_and_meaning() {
        let documented = include_str!("../../docs/results.md");
        let row = |column: &Definition| format!("| `{}` | {} | {} |", column.name, column.kind(), column.meaning);
        let expected: Vec<String> = COLUMNS.iter().map(row).collect();
        let rows: Vec<&str> = documented.lines().filter(|line| line.starts_with("| `")).collect();
        assert_eq!(rows, expected);
    }
}
