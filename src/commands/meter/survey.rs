//! What this machine can measure energy with, how well, and how to get what is missing.

use serde::Serialize;

use crate::cli::Format;
use crate::cli::exit::Exit;
use crate::engine::load::{self, DeviceChoice};
use crate::error::{Context, Result};
use crate::format;
use crate::meter::{self, Capabilities, EngineGpu, MeterOptions};
use crate::record::{GpuInfo, MeterChoice, MeterInfo, Preset, Protocol, SourceInfo};
use crate::sweep::measure::MeasureSpec;
use crate::units::{Seconds, Watts};

/// A meter, and what the presets mean on it. The names are the keys of the JSON output.
#[derive(Debug, Serialize)]
struct Report {
    #[serde(flatten)]
    meter: Capabilities,
    presets: Vec<PresetReport>,
}

/// What a preset means on a meter.
#[derive(Debug, Serialize)]
struct PresetReport {
    preset: Preset,
    /// Blocks that are measured in any case.
    repeats: u32,
    /// Most blocks, if repeats go on until the interval is narrow.
    max_repeats: u32,
    /// Shortest window.
    window_s: Seconds,
    warmup_s: Seconds,
    max_warmup_s: Seconds,
    guard_s: Seconds,
    /// Before and after the trials of each load of a model.
    idle_s: Seconds,
    /// Shortest time that one repeat of one cell takes.
    per_repeat_s: Seconds,
}

/// Prints the meters, best first.
///
/// # Errors
/// Standard output is closed.
pub(super) fn survey(format: Format) -> Result<Exit> {
    let gpu = DeviceChoice::Auto.gpu_index();
    let engine_gpus = gpu.map(|ordinal| EngineGpu { ordinal, uuid: load::uuid(ordinal) }).into_iter().collect();
    let options = MeterOptions { engine_gpus, ..MeterOptions::default() };
    let reports: Vec<Report> = meter::probe(&options).into_iter().map(Report::new).collect();
    match format {
        Format::Json => {
            println!("{}", serde_json::to_string_pretty(&reports).context(|| "can't write the meters as JSON")?);
        }
        Format::Text => print_text(&reports, !options.engine_gpus.is_empty()),
    }
    Ok(Exit::Done)
}

impl Report {
    fn new(meter: Capabilities) -> Self {
        let presets =
            meter.info.iter().flat_map(|info| Preset::ALL.map(|preset| PresetReport::new(preset, info))).collect();
        Self { meter, presets }
    }
}

impl PresetReport {
    fn new(preset: Preset, meter: &MeterInfo) -> Self {
        let spec = MeasureSpec { preset, ..MeasureSpec::default() };
        let Protocol { min_window_s, guard_s, warmup_s, max_warmup_s, idle_s, adaptive, .. } = spec.protocol(meter);
        Self {
            preset,
            repeats: spec.repeats(),
            max_repeats: adaptive.map_or(spec.repeats(), |adaptive| adaptive.max_repeats),
            window_s: min_window_s,
            warmup_s,
            max_warmup_s,
            guard_s,
            idle_s,
            per_repeat_s: warmup_s + guard_s * 2.0 + min_window_s,
        }
    }
}

fn print_text(reports: &[Report], on_gpu: bool) {
    reports.iter().for_each(print_report);
    let usable = |report: &&Report| report.meter.available && (on_gpu || report.meter.name != MeterChoice::Nvml);
    match reports.iter().find(usable) {
        Some(report) => println!("`meter: auto` takes {} here", report.meter.name),
        None => println!("`meter: auto` finds nothing here"),
    }
}

/// A meter: its domains, then its sources, presets and details, each part after a blank line.
fn print_report(Report { meter, presets }: &Report) {
    let state = if meter.available { "available" } else { "not available" };
    println!("{}: {state} ({})", meter.name, meter.method.words());
    for domain in &meter.domains {
        println!("  {}: {}", domain.name, domain.description);
        for line in meter.gpus.iter().filter(|gpu| gpu.domain == domain.name).flat_map(gpu_lines) {
            println!("    {line}");
        }
    }
    let mut sources = source_table(&meter.sources);
    if !sources.is_empty() {
        sources.insert(0, String::new());
        sources.push(String::new());
    }
    let gap = (!presets.is_empty() && !meter.detail.is_empty()).then(String::new);
    let lines = sources.into_iter().chain(presets.iter().map(preset_line)).chain(gap).chain(meter.detail.clone());
    for line in lines {
        println!("{}", format!("  {line}").trim_end());
    }
    if let Some(how) = &meter.how_to_get_it {
        println!("  hint: {how}");
    }
    println!();
}

/// The facts about a GPU that a reader of a paper would ask for.
fn gpu_lines(gpu: &GpuInfo) -> [String; 3] {
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| format::UNKNOWN.to_owned());
    let watts = |value: Option<Watts>| value.map_or(format::UNKNOWN.to_owned(), |w| format::watts(w.0));
    let clock = |mhz: Option<u32>| mhz.map_or(format::UNKNOWN.to_owned(), |mhz| format!("{mhz} MHz"));
    let switch = |on: Option<bool>| on.map_or(format::UNKNOWN, |on| if on { "on" } else { "off" });
    let bandwidth = gpu.bandwidth.map_or(format::UNKNOWN.to_owned(), |bytes| format::number(bytes / 1e9, None));
    let others = match gpu.foreign_processes.as_slice() {
        [] => "no other compute process".to_owned(),
        pids => {
            let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
            format!("other compute processes: {} (their energy would be charged too)", pids.join(", "))
        }
    };
    [
        format!("PCI {}, driver {}, VBIOS {}", text(&gpu.pci_bus_id), text(&gpu.driver), text(&gpu.vbios)),
        format!(
            "power limit {} (default {}), SM up to {}, memory up to {}, {bandwidth} GB/s",
            watts(gpu.power_limit_w),
            watts(gpu.default_power_limit_w),
            clock(gpu.max_sm_clock_mhz),
            clock(gpu.max_memory_clock_mhz)
        ),
        format!(
            "persistence {}, ECC {}, MIG {}, {others}",
            switch(gpu.persistence),
            switch(gpu.ecc),
            switch(Some(gpu.mig))
        ),
    ]
}

/// The sources as a table, each with its details at the end.
fn source_table(sources: &[SourceInfo]) -> Vec<String> {
    if sources.is_empty() {
        return Vec::new();
    }
    let header = ["domain", "source", "status", "role", "updates every", "a reading takes"].map(str::to_owned);
    let rows: Vec<[String; 6]> = std::iter::once(header).chain(sources.iter().map(source_row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..6).map(width).collect();
    let details = std::iter::once(None).chain(sources.iter().map(|source| source.detail.as_deref()));
    let lines = rows.iter().zip(details).map(|(row, detail)| {
        let padded = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        let cells: Vec<String> = padded.chain(detail.map(str::to_owned)).collect();
        cells.join("  ").trim_end().to_owned()
    });
    lines.collect()
}

fn source_row(source: &SourceInfo) -> [String; 6] {
    let time = |time: Option<Seconds>| time.map_or(format::UNKNOWN.to_owned(), format::duration);
    let tick = match source.tick_range_s {
        Some((low, high)) => {
            format!("{} ({} to {})", time(source.tick_s), format::duration(low), format::duration(high))
        }
        None => time(source.tick_s),
    };
    let (status, role) = (source.status.words().to_owned(), source.role.words().to_owned());
    [source.domain.clone(), source.name.clone(), status, role, tick, time(source.call_s)]
}

fn preset_line(preset: &PresetReport) -> String {
    let repeats = match preset.max_repeats {
        most if most > preset.repeats => format!("{} to {most} repeats", preset.repeats),
        _ => format::plural(preset.repeats as usize, "repeat"),
    };
    let [window, warmup, longest, idle, whole] =
        [preset.window_s, preset.warmup_s, preset.max_warmup_s, preset.idle_s, preset.per_repeat_s]
            .map(format::duration);
    format!(
        "preset {}: {repeats}, window {window}, warm-up {warmup} to {longest}, idle {idle} before and after; a \
         repeat of a cell takes {whole} or more",
        preset.preset
    )
}
