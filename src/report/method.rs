//! How a run was measured: the facts that the prose in `templates/method.txt` and `templates/limits.txt` is made of.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::{Value, json};

use crate::analysis::{DeviceCosts, HeatEffect, HeatEffects, HeatUnknown, Stopping, Study};
use crate::error::Result;
use crate::format;
use crate::record::{
    Decoding, EnergyMethod, KernelsUsed, MeterInfo, ModelInfo, Order, OutputLength, PromptForm, RunInfo,
};
use crate::template;
use crate::units::Seconds;

/// The section on the method.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Method {
    pub(crate) paragraphs: Vec<String>,
    pub(crate) formulas: [Formula; 6],
    /// Conclusions that the run doesn't support.
    pub(crate) limits: Vec<String>,
}

/// A quantity and its definition.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Formula {
    /// `EPT_in = E / T_in`.
    pub(crate) formula: &'static str,
    pub(crate) meaning: &'static str,
}

const FORMULAS: [Formula; 6] = [
    Formula { formula: "EPT_in = E / T_in", meaning: "energy per input token" },
    Formula { formula: "EPT_out = E / T_out", meaning: "energy per output token, by which models are compared" },
    Formula { formula: "EPT_total = E / (T_in + T_out)", meaning: "energy per token" },
    Formula {
        formula: "saving = 1 − EPT_out(model) / EPT_out(teacher)",
        meaning: "at equal batch size and output length; over all cells, the geometric mean of the ratios",
    },
    Formula { formula: "E", meaning: "gross energy of a window; net energy subtracts idle power × time" },
    Formula {
        formula: "T_in, T_out",
        meaning: "tokens in the window; padding is never counted, an end-of-sequence token is",
    },
];

/// The method of a run.
///
/// # Errors
/// A template uses a name that it isn't given.
pub(super) fn method(run: &RunInfo, study: &Study) -> Result<Method> {
    let meters = distinct_meters(run);
    let mut conclusions = template::paragraphs("limits.txt", limits(run, study, &meters))?;
    conclusions.extend(meters.iter().flat_map(|meter| meter.notes.iter().cloned()));
    let paragraphs = template::paragraphs("method.txt", facts(run, study, &meters))?;
    Ok(Method { paragraphs, formulas: FORMULAS, limits: conclusions })
}

/// Meters that measure something else or in another way; how fast a source was found to be differs from start to start.
fn distinct_meters(run: &RunInfo) -> Vec<&MeterInfo> {
    let mut meters: Vec<&MeterInfo> = Vec::new();
    let same = |a: &MeterInfo, b: &MeterInfo| (&a.name, a.method, &a.domains) == (&b.name, b.method, &b.domains);
    for meter in run.parts.iter().map(|part| &part.meter) {
        if !meters.iter().any(|known| same(known, meter)) {
            meters.push(meter);
        }
    }
    meters
}

/// The values of `method.txt`, as finished strings; an empty or unknown one leaves out its sentence.
fn facts(run: &RunInfo, study: &Study, meters: &[&MeterInfo]) -> Value {
    let protocol = &run.protocol;
    let has_length = |length| run.cells.iter().any(|cell| cell.output_length == length);
    let longer_warmup = protocol.max_warmup_s > protocol.warmup_s;
    let probes = study.probes.len();
    json!({
        "models": format::plural(run.models.len(), "model"),
        "cells": format::plural(study.cells.len(), "cell"),
        "preset": protocol.preset.words(),
        "repeats": format::plural(run.blocks as usize, "repeat"),
        "by_model": protocol.order == Order::ByModel,
        "seed": protocol.seed.to_string(),
        "balanced": protocol.balanced,
        "probes": (probes > 0).then(|| format::plural(probes, "further cell")),
        "stopping": study.stopping.as_ref().map(stopping),
        "prompts": format::plural(run.prompts.count, "prompt"),
        "prompt_source": run.prompts.source,
        "min_window": format::duration(protocol.min_window_s),
        "warmup": format::duration(protocol.warmup_s),
        "max_warmup": longer_warmup.then(|| format::duration(protocol.max_warmup_s)),
        "steady": protocol.steady.map(format::fraction),
        "guard": unless_zero(protocol.guard_s),
        "offset": unless_zero(protocol.random_offset_s),
        "idle": unless_zero(protocol.idle_s),
        "settle": unless_zero(protocol.settle_s),
        "idle_drift": study.largest_idle_drift_w().map(format::signed_watts),
        "meters": meters.iter().map(|meter| meter_facts(meter)).collect::<Vec<_>>(),
        "forms": forms(run),
        "natural_length": has_length(OutputLength::Natural),
        "fixed_length": has_length(OutputLength::Fixed),
        "decoding": run.cells.first().map(|cell| decoding(cell.decoding)),
        "operations": operations(run),
        "accuracy": accuracy(study),
        "floor": format::fraction(run.floor),
        "heat": heat(study),
        "energy_floor": energy_floor(study),
    })
}

/// The devices that were calibrated; `None` if none was.
fn energy_floor(study: &Study) -> Option<Value> {
    let device = |costs: &DeviceCosts| format!("{} in {}", costs.device, costs.dtype);
    let devices: BTreeSet<String> = study.device_costs.iter().map(device).collect();
    (!devices.is_empty()).then(|| json!({ "devices": listed(devices) }))
}

/// What a degree adds, of core and memory; `None` if no warm-up was recorded.
fn heat(study: &Study) -> Option<Value> {
    let HeatEffects { core, memory } = &study.heat;
    let shown = |effect: &HeatEffect| match effect {
        HeatEffect::Unknown(HeatUnknown::NoCourse | HeatUnknown::NoTemperature) => None,
        effect => Some(format::heat_effect(effect)),
    };
    Some(json!({ "core": shown(core)?, "memory": shown(memory) }))
}

fn unless_zero(time: Seconds) -> Option<String> {
    (time.get() > 0.0).then(|| format::duration(time))
}

fn stopping(stopping: &Stopping) -> Value {
    json!({
        "fewest": format::plural(stopping.fewest, "repeat"),
        "half_width": format::fraction(stopping.half_width),
        "most": format::plural(stopping.most, "repeat"),
        "repeats": format::plural(stopping.repeats, "repeat"),
        "at_maximum": stopping.repeats >= stopping.most,
        "narrow": format::count(stopping.narrow as u64),
        "cells": format::plural(stopping.cells(), "cell"),
        "wide": stopping.wide.join(", "),
        "unknown": stopping.unknown.join(", "),
    })
}

fn meter_facts(meter: &MeterInfo) -> Value {
    let domains = meter.domains.iter().map(|domain| match domain.description.as_str() {
        "" => domain.name.clone(),
        description => format!("{} ({description})", domain.name),
    });
    json!({
        "name": meter.name,
        "method": meter.method,
        "domains": domains.collect::<Vec<_>>().join(", "),
        "tick": meter.tick_s.map(format::duration),
    })
}

/// Each model as it was loaded, with its label.
fn loaded(run: &RunInfo) -> impl Iterator<Item = (&String, &ModelInfo)> {
    run.parts.iter().flat_map(|part| &part.models)
}

/// Which models ran on which operations; empty if no record says so.
fn operations(run: &RunInfo) -> Vec<Value> {
    let on = |kernels: KernelsUsed| -> BTreeSet<&String> {
        loaded(run).filter(|(_, info)| info.kernels == Some(kernels)).map(|(label, _)| label).collect()
    };
    let all: BTreeSet<&String> = loaded(run).map(|(label, _)| label).collect();
    let described = |kernels: KernelsUsed| {
        let models = on(kernels);
        (!models.is_empty()).then(|| {
            json!({
                "all": models == all,
                "models": listed(models),
                "words": kernels.words(),
                "explanation": kernels.explanation(),
            })
        })
    };
    KernelsUsed::ALL.into_iter().filter_map(described).collect()
}

/// Models on plain operations although the sweep file leaves the choice open, each with what stood in the way.
fn fallbacks(run: &RunInfo) -> String {
    let fallen = loaded(run).filter(|(_, info)| !info.fallback.is_empty());
    listed(fallen.map(|(label, info)| format!("{label} ({})", info.fallback.join("; "))).collect())
}

/// How prompts were given to the models for which that isn't plain text, and which ones got plain text.
fn forms(run: &RunInfo) -> Value {
    let forms = prompt_forms(run);
    let special = |(label, form): &(&str, PromptForm)| Some(format!("{label}: {}", format::prompt_form(form)?));
    let special: Vec<String> = forms.iter().filter_map(special).collect();
    let plain = match special.len() {
        some if some == forms.len() => "none",
        0 => "all",
        _ => "others",
    };
    json!({ "special": special.join("; "), "plain": plain })
}

/// How each model was given the prompts, as the parts of the run recorded it.
fn prompt_forms(run: &RunInfo) -> Vec<(&str, PromptForm)> {
    let of = |label: &str| {
        let known = run.parts.iter().filter_map(|part| part.prompt_forms.get(label));
        known.cloned().reduce(|earlier, later| PromptForm {
            energy: later.energy.or(earlier.energy),
            accuracy: later.accuracy.or(earlier.accuracy),
            ..later
        })
    };
    run.models.iter().filter_map(|model| Some((model.label.as_str(), of(&model.label)?))).collect()
}

/// Of one cell for all: the sweep file has one decoding.
fn decoding(decoding: Decoding) -> Value {
    let kind = match decoding {
        Decoding::Greedy => "greedy",
        Decoding::Sample(_) => "sample",
        Decoding::Beam(_) => "beam",
    };
    json!({ "name": decoding.to_string(), "kind": kind })
}

fn accuracy(study: &Study) -> Option<Value> {
    let first = study.accuracies.first()?;
    let datasets: BTreeSet<&str> = study.accuracies.iter().map(|accuracy| accuracy.dataset.as_str()).collect();
    let prompts = format::plural(first.exact_match.n, "held-out prompt");
    Some(json!({ "prompts": prompts, "datasets": listed(datasets) }))
}

/// The values of `limits.txt`, as finished strings; an empty one leaves out its sentence.
fn limits(run: &RunInfo, study: &Study, meters: &[&MeterInfo]) -> Value {
    let grouped = loaded(run).filter(|(_, info)| info.is_grouped());
    let dummies = run.cells.iter().filter(|cell| cell.dummy_weights).map(|cell| dummy(run, &cell.model));
    let measures = |method: &EnergyMethod| matches!(method, EnergyMethod::Counter | EnergyMethod::PowerIntegral);
    json!({
        "counted": counted(meters),
        "unlike_prompts": unlike_prompts(run),
        "grouped": listed(grouped.map(|(label, info)| format!("{label} ({})", info.engine)).collect()),
        "fallbacks": fallbacks(run),
        "dummies": listed(dummies.collect()),
        "sensor": study.methods.iter().any(measures),
        "nvidia": meters.iter().any(|meter| !meter.gpus.is_empty()),
        "by_model": run.protocol.order == Order::ByModel,
    })
}

/// A model with dummy weights, and how they are distributed where the record has it.
fn dummy(run: &RunInfo, label: &str) -> String {
    let loaded = run.parts.iter().find_map(|part| part.models.get(label)?.dummy);
    loaded.map_or_else(|| label.to_owned(), |dummy| format!("{label} ({})", dummy.distribution.words()))
}

/// The domains that are in the energies, and those that were measured in addition.
fn counted(meters: &[&MeterInfo]) -> Value {
    let mut names: Vec<&str> = Vec::new();
    for domain in meters.iter().flat_map(|meter| &meter.domains) {
        if !names.contains(&domain.name.as_str()) {
            names.push(&domain.name);
        }
    }
    let list = match names.split_last() {
        Some((last, [])) => (*last).to_owned(),
        Some((last, before)) => format!("{} and {last}", before.join(", ")),
        None => String::new(),
    };
    let others = meters.iter().flat_map(|meter| &meter.host_domains).map(|domain| domain.name.as_str());
    json!({ "names": list, "several": names.len() > 1, "others": listed(others.collect()) })
}

/// Models that are given prompts in different forms don't read the same text.
fn unlike_prompts(run: &RunInfo) -> bool {
    let templates = prompt_forms(run).into_iter().map(|(_, form)| form.chat_template.map(|t| (t.sha256, t.variables)));
    let templates: Vec<_> = templates.collect();
    templates.windows(2).any(|pair| pair[0] != pair[1])
}

fn listed<T: AsRef<str> + Ord>(names: BTreeSet<T>) -> String {
    names.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(", ")
}
