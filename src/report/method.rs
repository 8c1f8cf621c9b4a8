//! How it was measured, in prose made from what the run recorded.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::analysis::Study;
use crate::format;
use crate::record::{EnergyMethod, MeterInfo, OutputLength, RunInfo};

/// The section on the method.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Method {
    /// What was done.
    pub paragraphs: Vec<String>,
    /// What the quantities are.
    pub formulas: Vec<Formula>,
    /// What a reader must not conclude.
    pub limits: Vec<String>,
}

/// A quantity and its definition.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Formula {
    /// `EPT_in = E / T_in`.
    pub formula: &'static str,
    /// What it is.
    pub meaning: &'static str,
}

/// The method of a run.
pub fn method(run: &RunInfo, study: &Study) -> Method {
    let meters = distinct_meters(run);
    let mut paragraphs = vec![plan(run, study), windows(run)];
    paragraphs.extend(meters.iter().map(|meter| source(meter)));
    paragraphs.extend([lengths(run), accuracy(study), Some(intervals(run))].into_iter().flatten());
    let mut limits = vec![coverage(&meters)];
    limits.push(
        "Loading a model, warming up, the idle baseline and scoring accuracy lie outside the windows and are in none \
         of these energies."
            .to_owned(),
    );
    limits.extend(grouped(run));
    if study.methods.iter().any(|m| matches!(m, EnergyMethod::Counter | EnergyMethod::PowerIntegral)) {
        limits.push(
            "An interval says how far repeats agree. A systematic error of the sensor itself is in all of them alike, \
             and in no interval."
                .to_owned(),
        );
    }
    limits.extend(meters.iter().flat_map(|meter| meter.notes.iter().cloned()));
    Method { paragraphs, formulas: formulas(), limits }
}

/// Models whose batches ran as groups of equally long prompts, each engine named once.
fn grouped(run: &RunInfo) -> Option<String> {
    let loaded = run.parts.iter().flat_map(|part| &part.models);
    let named: BTreeSet<String> = loaded
        .filter(|(_, info)| info.is_grouped())
        .map(|(label, info)| format!("{label} ({})", info.engine))
        .collect();
    if named.is_empty() {
        return None;
    }
    let list = named.into_iter().collect::<Vec<_>>().join(", ");
    Some(format!(
        "The engine of {list} can't pad: a batch ran as groups of prompts of equal length, one after another. \
         With prompts of different lengths its energy per token is that of these smaller batches, and not that of a \
         full batch."
    ))
}

fn distinct_meters(run: &RunInfo) -> Vec<&MeterInfo> {
    let mut meters: Vec<&MeterInfo> = Vec::new();
    for meter in run.parts.iter().map(|part| &part.meter) {
        if !meters.contains(&meter) {
            meters.push(meter);
        }
    }
    meters
}

fn plan(run: &RunInfo, study: &Study) -> String {
    format!(
        "{} run in {} (a cell is a model at one batch size and one limit of new tokens). Each cell is planned for {}, \
         one in each block; the order of trials is drawn with seed {}.",
        super::context::capitalised(&format::plural(run.models.len(), "model")),
        format::plural(study.cells.len(), "cell"),
        format::plural(run.blocks as usize, "repeat"),
        run.protocol.seed
    )
}

fn windows(run: &RunInfo) -> String {
    let p = &run.protocol;
    let guard = if p.guard_s.get() > 0.0 {
        let time = format::duration(p.guard_s);
        format!(" The same work runs for {time} before and after it, so that both edges lie inside steady load.")
    } else {
        String::new()
    };
    let idle = if p.idle_s.get() > 0.0 {
        format!(" The idle baseline is taken for {} with the model resident.", format::duration(p.idle_s))
    } else {
        String::new()
    };
    format!(
        "A window is whole passes over the same {} ({}) until at least {} have passed, after a warm-up of at least {}.\
         {guard}{idle}",
        format::plural(run.prompts.count, "prompt"),
        run.prompts.source,
        format::duration(p.min_window_s),
        format::duration(p.warmup_s),
    )
}

fn source(meter: &MeterInfo) -> String {
    let how = match meter.method {
        EnergyMethod::Counter => "the difference of a hardware energy counter between the window's edges",
        EnergyMethod::PowerIntegral => "the time integral of sampled power between the window's edges",
        EnergyMethod::Modelled => "computed from processor time and stated coefficients: it is modelled, not measured",
        EnergyMethod::Simulated => "that of a simulated device with known power: it is not a measurement",
    };
    let tick = meter.tick_s.map_or(String::new(), |t| format!(" The source updates every {}.", format::duration(t)));
    format!("Energy (meter: {}) is {how}. It covers {}.{tick}", meter.name, domains(meter))
}

fn domains(meter: &MeterInfo) -> String {
    let each = meter.domains.iter().map(|d| match d.description.as_str() {
        "" => d.name.clone(),
        description => format!("{} ({description})", d.name),
    });
    let all = each.collect::<Vec<_>>().join(", ");
    if all.is_empty() { "nothing".to_owned() } else { all }
}

fn lengths(run: &RunInfo) -> Option<String> {
    let has = |length| run.cells.iter().any(|cell| cell.output_length == length);
    let natural = "With natural output length a sequence ends at its end-of-sequence token or at the limit; a model \
        that answers more briefly takes less energy for an answer.";
    let fixed = "With fixed output length every end-of-sequence token is masked, so that every sequence has exactly \
        the limit of new tokens; accuracy scores the answer up to where it would have ended.";
    match (has(OutputLength::Natural), has(OutputLength::Fixed)) {
        (true, true) => Some(format!("{natural} {fixed}")),
        (true, false) => Some(natural.to_owned()),
        (false, true) => Some(fixed.to_owned()),
        (false, false) => None,
    }
}

fn accuracy(study: &Study) -> Option<String> {
    let first = study.accuracies.first()?;
    let mut sets: Vec<&str> = study.accuracies.iter().map(|a| a.dataset.as_str()).collect();
    sets.sort_unstable();
    sets.dedup();
    Some(format!(
        "Accuracy is measured outside every energy window on {} of {}: exact match after trimming, and ROUGE-L F1. \
         It doesn't depend on the batch size.",
        format::plural(first.exact_match.n, "held-out prompt"),
        sets.join(", ")
    ))
}

fn intervals(run: &RunInfo) -> String {
    format!(
        "Brackets are 95 % intervals. For energy the window is the unit: Student's t over the repeats of a cell, and \
         none for a single repeat. Two models are compared by the ratio of their means on the log scale, at equal \
         batch size and output length; p values are adjusted over the cells (Holm), and energies that differ by less \
         than {} count as equal. Exact match has Wilson's interval over prompts, and differences of accuracy are \
         paired over the same prompts.",
        format::fraction(run.floor)
    )
}

fn coverage(meters: &[&MeterInfo]) -> String {
    let names: Vec<&str> = meters.iter().flat_map(|m| &m.domains).map(|d| d.name.as_str()).collect();
    if names.is_empty() {
        return "No energy source was available.".to_owned();
    }
    let mut distinct: Vec<&str> = Vec::new();
    for name in names {
        if !distinct.contains(&name) {
            distinct.push(name);
        }
    }
    let (last, others) = distinct.split_last().unwrap_or((&format::UNKNOWN, &[]));
    let (list, are) = match others {
        [] => ((*last).to_owned(), "is"),
        others => (format!("{} and {last}", others.join(", ")), "are"),
    };
    format!(
        "Only {list} {are} counted. Whatever else the machine draws (other components, losses of the power supply, \
         cooling) isn't."
    )
}

fn formulas() -> Vec<Formula> {
    let formula = |formula, meaning| Formula { formula, meaning };
    vec![
        formula("EPT_in = E / T_in", "energy per input token"),
        formula("EPT_out = E / T_out", "energy per output token: what models are compared by"),
        formula("EPT_total = E / (T_in + T_out)", "energy per token"),
        formula(
            "saving = 1 − EPT_out(model) / EPT_out(teacher)",
            "at equal batch size and output length; over all cells, the geometric mean of the ratios",
        ),
        formula("E", "gross energy of a window; net subtracts idle power × time"),
        formula("T_in, T_out", "tokens in the window: padding never counts, an end-of-sequence token does"),
    ]
}
