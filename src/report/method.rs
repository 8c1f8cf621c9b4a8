//! How it was measured, in prose made from what the run recorded.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::analysis::{Stopping, Study};
use crate::format;
use crate::record::{Decoding, EnergyMethod, MeterInfo, Order, OutputLength, PromptForm, RunInfo};

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
    let mut paragraphs = vec![plan(run, study)];
    paragraphs.extend(study.stopping.as_ref().map(repeats));
    paragraphs.push(windows(run));
    paragraphs.extend(idle(run, study));
    paragraphs.extend(meters.iter().map(|meter| source(meter)));
    let parts = [prompts(run), lengths(run), decoding(run), accuracy(study), Some(intervals(run))];
    paragraphs.extend(parts.into_iter().flatten());
    let mut limits = vec![coverage(&meters)];
    limits.extend(unlike_prompts(run));
    limits.push(
        "Loading a model, warming up, the idle baseline and scoring accuracy lie outside the windows and are in none \
         of these energies."
            .to_owned(),
    );
    limits.extend(grouped(run));
    limits.extend(dummies(run));
    if study.methods.iter().any(|m| matches!(m, EnergyMethod::Counter | EnergyMethod::PowerIntegral)) {
        limits.push(sensor(&meters));
    }
    limits.extend(by_model(run));
    limits.extend(meters.iter().flat_map(|meter| meter.notes.iter().cloned()));
    Method { paragraphs, formulas: formulas(), limits }
}

/// Models with made-up weights.
fn dummies(run: &RunInfo) -> Option<String> {
    let named: BTreeSet<&str> =
        run.cells.iter().filter(|cell| cell.dummy_weights).map(|cell| cell.model.as_str()).collect();
    if named.is_empty() {
        return None;
    }
    let list = named.into_iter().collect::<Vec<_>>().join(", ");
    Some(format!(
        "The dummy weights of {list} are seeded random numbers: energy and speed are those of the architecture, and \
         what it writes means nothing."
    ))
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

/// What is known of the sensor's own error: a line of its own, since no interval has it.
fn sensor(meters: &[&MeterInfo]) -> String {
    let nvml = if meters.iter().any(|meter| !meter.gpus.is_empty()) {
        " NVIDIA documents an accuracy (±\u{a0}5\u{a0}W, or ±\u{a0}5\u{a0}%) for some older boards only."
    } else {
        ""
    };
    format!(
        "Systematic uncertainty of the sensor: unknown.{nvml} An interval says how far repeats agree, and a residual \
         that the power was integrated rightly; an error of the sensor itself is in all of them alike, and in no \
         interval."
    )
}

/// Models that don't meet in each block.
fn by_model(run: &RunInfo) -> Option<String> {
    (run.protocol.order == Order::ByModel).then(|| {
        "Order by_model: all repeats of a model ran before those of the next, so a slow drift of the machine \
         (temperature, other load) is in the difference between models and in no interval."
            .to_owned()
    })
}

/// How adaptive repeats ended.
fn repeats(stopping: &Stopping) -> String {
    let width = format::fraction(stopping.half_width);
    let all = stopping.narrow + stopping.wide.len();
    let end = match stopping.wide.as_slice() {
        [] => format!("All cells have that half-width: repeats stopped at {}.", format::count(stopping.repeats as u64)),
        wide if stopping.repeats >= stopping.most => format!(
            "Stopped at the maximum: {} of {} are at the half-width, and {} aren't.",
            format::count(stopping.narrow as u64),
            format::plural(all, "cell"),
            wide.join(", ")
        ),
        wide => format!(
            "After {} so far, {} of {} are at the half-width, and {} aren't.",
            format::plural(stopping.repeats, "repeat"),
            format::count(stopping.narrow as u64),
            format::plural(all, "cell"),
            wide.join(", ")
        ),
    };
    format!(
        "Repeats are adaptive: from {} on, a further block of all cells is measured until each cell's 95 % interval is \
         within ±\u{a0}{width} of its mean, and {} at most. {end} An interval at which repeats stop because it is \
         narrow holds the truth somewhat less often than its 95 % say.",
        format::plural(stopping.fewest, "repeat"),
        format::count(stopping.most as u64)
    )
}

fn plan(run: &RunInfo, study: &Study) -> String {
    let protocol = &run.protocol;
    let order = match protocol.order {
        Order::Blocks => "one in each block; in a block every model is loaded once, and the order is drawn",
        Order::ByModel => {
            "one in each block; every model runs all its blocks before the next (order by_model), and the order is \
             drawn"
        }
    };
    let probes = match study.probes.len() {
        0 => String::new(),
        n => format!(
            " Measured only to tell prefill and decode apart, and in no comparison, figure or headline: {}.",
            format::plural(n, "further cell")
        ),
    };
    format!(
        "{} run in {} (a cell is a model at one batch size and one limit of new tokens), with the preset {}. Each \
         cell is planned for {}, {order} with seed {}.{probes}",
        super::context::capitalised(&format::plural(run.models.len(), "model")),
        format::plural(study.cells.len(), "cell"),
        protocol.preset.words(),
        format::plural(run.blocks as usize, "repeat"),
        protocol.seed
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
    let longest = if p.max_warmup_s > p.warmup_s {
        format!(", and of at most {} until temperature and speed are steady", format::duration(p.max_warmup_s))
    } else {
        String::new()
    };
    let offset = if p.random_offset_s.get() > 0.0 {
        format!(
            " A random wait of up to {} before each trial shifts its work against the sensor's own rhythm.",
            format::duration(p.random_offset_s)
        )
    } else {
        String::new()
    };
    format!(
        "A window is whole passes over the same {} ({}) until at least {} have passed, after a warm-up of at least {}\
         {longest}.{guard}{offset}",
        format::plural(run.prompts.count, "prompt"),
        run.prompts.source,
        format::duration(p.min_window_s),
        format::duration(p.warmup_s),
    )
}

/// The idle baseline, and how far it moved.
fn idle(run: &RunInfo, study: &Study) -> Option<String> {
    let p = &run.protocol;
    if p.idle_s.get() <= 0.0 {
        return None;
    }
    let drifts = study.cells.iter().chain(&study.probes).filter_map(|cell| cell.windows.idle_drift_w);
    let worst = drifts.max_by(|a, b| a.abs().total_cmp(&b.abs()));
    let time = format::duration(p.idle_s);
    let Some(worst) = worst else {
        return Some(format!("The idle baseline is taken for {time} with the model resident."));
    };
    let settle = if p.settle_s.get() > 0.0 {
        format!(", after {} of rest for clocks to settle", format::duration(p.settle_s))
    } else {
        String::new()
    };
    Some(format!(
        "The idle baseline is taken for {time} with the model resident, before and after its trials of a \
         block{settle}. Net energy rests on the mean of both; the furthest apart were {} (after less before). Where \
         that is more than 2 % of a trial's net power the trial is marked: its gross energy stands.",
        format::signed_watts(worst)
    ))
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

/// How each model was given the prompts, as the parts of the run recorded it.
fn forms(run: &RunInfo) -> Vec<(&str, PromptForm)> {
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

fn prompts(run: &RunInfo) -> Option<String> {
    let forms = forms(run);
    let told = |(label, form): &(&str, PromptForm)| Some(format!("{label}: {}", format::prompt_form(form)?));
    let told: Vec<String> = forms.iter().filter_map(told).collect();
    if forms.is_empty() {
        return None;
    }
    let rest = match told.len() {
        0 => "Prompts go in as plain text, through no chat template.",
        some if some < forms.len() => "The other models read them as plain text, through no chat template.",
        _ => "",
    };
    let details = if told.is_empty() { String::new() } else { format!("How prompts were given: {}.", told.join("; ")) };
    Some(format!("{details} {rest}").trim().to_owned())
}

/// Models that are asked in different forms don't read the same text.
fn unlike_prompts(run: &RunInfo) -> Option<String> {
    let forms = forms(run);
    let templates = |form: &PromptForm| form.chat_template.as_ref().map(|t| (t.sha256.clone(), t.variables.clone()));
    let (_, first) = forms.first()?;
    let unlike = forms.iter().any(|(_, form)| templates(form) != templates(first));
    let sentence = "The models don't read the prompts in the same form (chat templates, or what is given to them, \
        differ): input lengths and answers differ for that reason too.";
    unlike.then(|| sentence.to_owned())
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

/// What the cells of a run share: the sweep file has one decoding.
fn decoding(run: &RunInfo) -> Option<String> {
    let decoding = run.cells.first()?.decoding;
    let what = match decoding {
        Decoding::Greedy => "the most likely token of each step is taken.",
        Decoding::Sample(_) => {
            "tokens are drawn. A draw depends on the seed, the prompt and the step alone, so that every cell and \
             every pass draws alike; another seed gives other answers, other lengths and another accuracy, and no \
             interval here covers that."
        }
        Decoding::Beam(_) => {
            "several sequences are followed for each prompt, and the best one is the answer. The energy is that of \
             all of them; the output tokens are those of the answer alone."
        }
    };
    Some(format!("Decoding is {decoding}: {what}"))
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
    let beside: BTreeSet<&str> =
        meters.iter().flat_map(|meter| &meter.host_domains).map(|domain| domain.name.as_str()).collect();
    let beside = match beside.len() {
        0 => String::new(),
        _ => format!(
            " Measured beside {}, and shown apart: {}.",
            if are == "is" { "it" } else { "them" },
            beside.into_iter().collect::<Vec<_>>().join(", ")
        ),
    };
    format!(
        "Only {list} {are} counted. Whatever else the machine draws (other components, losses of the power supply, \
         cooling) isn't.{beside}"
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
