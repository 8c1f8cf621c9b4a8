//! The circumstances of a run: sweep file, machine, meter, models and their files.

use serde::Serialize;

use super::table::{Cell, Column, Table};
use crate::format;
use crate::record::{GpuInfo, ModelInfo, Part, RunInfo, SourceInfo, SourceStatus, TrainingCost, TrainingStage};

/// The section on provenance.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Provenance {
    pub(crate) run: Vec<Fact>,
    /// One for each start that measured trials.
    pub(crate) parts: Vec<PartFacts>,
    /// GPUs, sources of energy, and the models as loaded with their files.
    pub(crate) tables: Vec<Table>,
    pub(crate) sweep_file: String,
    pub(crate) sweep_yaml: String,
    /// A fence longer than any in the text, for Markdown.
    pub(crate) fence: String,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct PartFacts {
    /// `Part 1 of 2`.
    pub(crate) title: String,
    pub(crate) facts: Vec<Fact>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Fact {
    pub(crate) name: &'static str,
    pub(crate) value: String,
}

pub(crate) fn provenance(run: &RunInfo) -> Provenance {
    let n = run.parts.len();
    let title = |i: usize| if n == 1 { "Machine".to_owned() } else { format!("Part {} of {n}", i + 1) };
    let parts = run.parts.iter().enumerate().map(|(i, part)| PartFacts { title: title(i), facts: part_facts(part) });
    Provenance {
        run: run_facts(run),
        parts: parts.collect(),
        tables: [gpus(run), sources(run), models(run), files(run)].into_iter().flatten().collect(),
        sweep_file: run.sweep_file.clone(),
        sweep_yaml: run.sweep_yaml.trim_end().to_owned(),
        fence: "`".repeat(longest_run(&run.sweep_yaml, '`').max(2) + 1),
    }
}

fn longest_run(text: &str, of: char) -> usize {
    let mut longest = 0;
    let mut current = 0;
    for c in text.chars() {
        current = if c == of { current + 1 } else { 0 };
        longest = longest.max(current);
    }
    longest
}

fn fact(name: &'static str, value: impl Into<String>) -> Fact {
    Fact { name, value: value.into() }
}

fn known(value: Option<&str>) -> String {
    value.unwrap_or(format::UNKNOWN).to_owned()
}

fn run_facts(run: &RunInfo) -> Vec<Fact> {
    let mut facts = vec![
        fact("Sweep file", run.sweep_file.clone()),
        fact("Sweep SHA-256", run.sweep_sha256.clone()),
        fact("Prompts", format!("{} from {}", format::count(run.prompts.count as u64), run.prompts.source)),
        fact("Prompts SHA-256", run.prompts.sha256.clone()),
        fact("Record format", run.format.to_string()),
    ];
    for model in &run.models {
        let teacher = model.teacher.as_ref().map_or(String::new(), |t| format!(" of {t}"));
        let training = model.training.as_ref().map_or(String::new(), training);
        let adapter = model.adapter.as_ref().map_or(String::new(), |adapter| format!(" with the adapter {adapter}"));
        let role = model.role.words();
        let text = format!("{} ({role}{teacher}), from {}{adapter}{training}", model.label, model.source);
        facts.push(fact("Model", text));
    }
    facts
}

fn training(cost: &TrainingCost) -> String {
    let recipe = cost.recipe.as_deref().map_or(String::new(), |r| format!(" with the recipe {r}"));
    let time = cost.duration_s.map_or(String::new(), |t| format!(" in {}", format::duration(t)));
    let energy = cost.energy_j.map(|_| {
        let how = cost.energy_method.map_or(String::new(), |m| format!(" ({})", m.words()));
        format!(", using {}{how}", format::joules(cost.energy_j))
    });
    let device = cost.device.as_deref().map_or(String::new(), |d| format!(" on {d}"));
    let stages: Vec<String> = cost.stages.iter().map(stage).collect();
    let stages = if stages.is_empty() { String::new() } else { format!(" (stages: {})", stages.join(", ")) };
    let accepted = cost.accepted.as_deref().map_or(String::new(), |why| format!("; used all the same, since: {why}"));
    format!("; trained{recipe}{time}{}{device}{stages}{accepted}", energy.unwrap_or_default())
}

fn stage(stage: &TrainingStage) -> String {
    let time = stage.duration_s.map_or(String::new(), |time| format!(" in {}", format::duration(time)));
    format!("{} {}{time}", stage.name, format::joules(stage.energy_j))
}

fn part_facts(part: &Part) -> Vec<Fact> {
    let host = &part.host;
    let mut facts = vec![
        fact("Started", part.started_at.clone()),
        fact("ept-sweep", part.version.clone()),
        fact("Git revision", known(part.git_revision.as_deref())),
        fact("Host", known(host.hostname.as_deref())),
        fact("System", known(host.os.as_deref())),
        fact("Processor", known(host.cpu.as_deref())),
        fact("Logical processors", format::count(host.cores as u64)),
        fact("Memory", host.memory_bytes.map_or(format::UNKNOWN.to_owned(), format::bytes)),
        fact("Meter", format!("{} ({})", part.meter.name, part.meter.method.words())),
    ];
    facts.extend(part.meter.domains.iter().map(|d| fact("Domain", format!("{}: {}", d.name, d.description))));
    let others = part.meter.host_domains.iter();
    facts.extend(others.map(|d| fact("Other domain", format!("{}: {}", d.name, d.description))));
    facts
}

/// Entries of the parts' meters with the numbers of the parts that found them so; equal entries appear once.
fn by_part<T: PartialEq>(run: &RunInfo, get: impl Fn(&Part) -> &[T]) -> Vec<(Vec<usize>, &T)> {
    let mut found: Vec<(Vec<usize>, &T)> = Vec::new();
    for (number, part) in (1..).zip(&run.parts) {
        for entry in get(part) {
            match found.iter_mut().find(|(_, known)| *known == entry) {
                Some((parts, _)) => parts.push(number),
                None => found.push((vec![number], entry)),
            }
        }
    }
    found
}

/// Adds the parts that found it so, unless all did.
fn in_parts(run: &RunInfo, cell: Cell, parts: &[usize]) -> Cell {
    if run.parts.len() == parts.len() {
        return cell;
    }
    let numbers = parts.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
    cell.with(format!("part {numbers}"))
}

/// The GPUs as they were found.
fn gpus(run: &RunInfo) -> Option<Table> {
    let columns = vec![
        Column::words("GPU"),
        Column::words("Model"),
        Column::words("Driver"),
        Column::words("VBIOS"),
        Column::numbers("Power limit", ""),
        Column::numbers("Highest clocks", "SM, memory"),
        Column::words("ECC"),
        Column::words("Persistence"),
        Column::words("MIG"),
        Column::words("Other processes at the start"),
    ];
    let found = by_part(run, |part| &part.meter.gpus);
    let rows = found.into_iter().map(|(parts, gpu)| gpu_row(run, &parts, gpu));
    let caption = "The GPUs in use, as they were found. Other processes: those that were already computing on them.";
    Table::unless_empty("table-gpus", caption, columns, rows)
}

fn gpu_row(run: &RunInfo, parts: &[usize], gpu: &GpuInfo) -> Vec<Cell> {
    let switch = |state: Option<bool>| state.map_or(format::UNKNOWN, |on| if on { "on" } else { "off" });
    let name = [gpu.uuid.as_deref(), gpu.pci_bus_id.as_deref()].into_iter().flatten().collect::<Vec<_>>().join(", ");
    let model = Cell::new(gpu.name.clone());
    let limit = gpu.power_limit_w.map_or(Cell::unknown(), |limit| Cell::new(format::watts(limit.0)));
    let limit = match gpu.default_power_limit_w {
        Some(default) if gpu.power_limit_w != Some(default) => {
            limit.toned(Some("warn")).with(format!("default {}", format::watts(default.0)))
        }
        Some(_) => limit.with("the default"),
        None => limit,
    };
    let clock = |mhz: Option<u32>| mhz.map_or(format::UNKNOWN.to_owned(), |mhz| format::megahertz(mhz.into()));
    let others: Vec<String> = gpu.foreign_processes.iter().map(u32::to_string).collect();
    let others = match others.len() {
        0 => Cell::new("none"),
        n => Cell::count(n).with(format!("pid {}", others.join(", "))).toned(Some("warn")),
    };
    vec![
        in_parts(run, Cell::new(gpu.domain.clone()), parts),
        if name.is_empty() { model } else { model.with(name) },
        Cell::new(known(gpu.driver.as_deref())),
        Cell::new(known(gpu.vbios.as_deref())),
        limit,
        Cell::new(format!("{}, {}", clock(gpu.max_sm_clock_mhz), clock(gpu.max_memory_clock_mhz))),
        Cell::new(switch(gpu.ecc)),
        Cell::new(switch(gpu.persistence)),
        if gpu.mig { Cell::new("on").toned(Some("warn")) } else { Cell::new("off") },
        others,
    ]
}

/// Every source that was looked for, and how fast it was found to be.
fn sources(run: &RunInfo) -> Option<Table> {
    let columns = vec![
        Column::words("Domain"),
        Column::words("Source"),
        Column::words("State"),
        Column::words("Use"),
        Column::numbers("Update interval", ""),
        Column::numbers("Time per reading", ""),
        Column::words("Remarks"),
    ];
    let found = by_part(run, |part| &part.meter.sources);
    let rows = found.into_iter().map(|(parts, source)| source_row(run, &parts, source));
    let caption = "The sources of energy and power that were looked for, with the update interval and the time per \
        reading as measured at the start.";
    Table::unless_empty("table-sources", caption, columns, rows)
}

fn source_row(run: &RunInfo, parts: &[usize], source: &SourceInfo) -> Vec<Cell> {
    let works = source.status == SourceStatus::Supported;
    let tick = source.tick_s.map_or(Cell::unknown(), |tick| Cell::new(format::duration(tick)));
    let tick = match source.tick_range_s {
        Some((from, to)) => tick.with(format!("{} to {}", format::duration(from), format::duration(to))),
        None => tick,
    };
    vec![
        in_parts(run, Cell::new(source.domain.clone()), parts),
        Cell::new(source.name.clone()),
        Cell::new(source.status.words()).toned((!works).then_some("warn")),
        Cell::new(source.role.words()),
        tick,
        source.call_s.map_or(Cell::unknown(), |call| Cell::new(format::duration(call))),
        Cell::new(source.detail.clone().unwrap_or_default()),
    ]
}

/// Each model as some part loaded it; equal ones appear once.
fn loaded(run: &RunInfo) -> Vec<(&str, &ModelInfo)> {
    let mut loaded: Vec<(&str, &ModelInfo)> = Vec::new();
    for (label, info) in run.parts.iter().flat_map(|part| &part.models) {
        if !loaded.contains(&(label.as_str(), info)) {
            loaded.push((label, info));
        }
    }
    loaded
}

fn models(run: &RunInfo) -> Option<Table> {
    let columns = vec![
        Column::words("Model"),
        Column::words("Architecture"),
        Column::numbers("Parameters", ""),
        Column::numbers("Weights", ""),
        Column::words("Data type"),
        Column::words("Device"),
        Column::words("Engine"),
        Column::words("Operations"),
        Column::words("Notes"),
    ];
    let rows = loaded(run).into_iter().map(|(label, info)| model_row(label, info));
    Table::unless_empty("table-models", "The models as loaded.", columns, rows)
}

fn model_row(label: &str, info: &ModelInfo) -> Vec<Cell> {
    let unknown = || format::UNKNOWN.to_owned();
    let dtype = match &info.stored_dtype {
        Some(stored) if *stored != info.dtype => Cell::new(info.dtype.clone()).with(format!("stored as {stored}")),
        _ => Cell::new(info.dtype.clone()),
    };
    let revision = info.revision.as_ref().map(|r| format!("revision {r}"));
    let fallback = info.fallback.iter().map(|why| format!("plain operations, since {why}"));
    let notes: Vec<String> = revision.into_iter().chain(fallback).chain(info.notes.iter().cloned()).collect();
    let operations = info.kernels.map_or(Cell::unknown(), |kernels| Cell::new(kernels.words()));
    vec![
        Cell::new(label),
        Cell::new(info.architecture.clone()),
        Cell::new(info.parameters.map_or_else(unknown, format::count)),
        Cell::new(info.weight_bytes.map_or_else(unknown, format::bytes)),
        dtype,
        Cell::new(info.device.clone()),
        Cell::new(info.engine.clone()),
        operations.toned((!info.fallback.is_empty()).then_some("warn")),
        Cell::new(notes.join("; ")),
    ]
}

fn files(run: &RunInfo) -> Option<Table> {
    let columns = vec![Column::words("Model"), Column::words("File"), Column::words("SHA-256")];
    let files = loaded(run).into_iter().flat_map(|(label, info)| info.files.iter().map(move |file| (label, file)));
    let rows =
        files.map(|(label, (file, hash))| vec![Cell::new(label), Cell::new(file.clone()), Cell::new(hash.clone())]);
    Table::unless_empty("table-files", "The files of the models.", columns, rows)
}
