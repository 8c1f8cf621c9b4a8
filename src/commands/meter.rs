//! `ept-sweep meter`: what this machine can measure energy with, and how to get what is missing.

use crate::cli::exit::Exit;
use crate::cli::{Format, MeterArgs};
use crate::engine::load::{self, DeviceChoice};
use crate::error::{Context, Result};
use crate::format;
use crate::meter::{self, EngineGpu, MeterOptions, SourceReport};

/// Prints the sources, best first.
///
/// # Errors
/// Standard output is closed.
pub fn meter(arguments: &MeterArgs) -> Result<Exit> {
    let gpu = DeviceChoice::Auto.gpu_index();
    let engine_gpus = gpu.map(|ordinal| EngineGpu { ordinal, uuid: load::uuid(ordinal) }).into_iter().collect();
    let options = MeterOptions { engine_gpus, ..MeterOptions::default() };
    let sources = meter::probe(&options);
    match arguments.format {
        Format::Json => {
            println!("{}", serde_json::to_string_pretty(&sources).context(|| "can't write the sources as JSON")?);
        }
        Format::Text => print_text(&sources, !options.engine_gpus.is_empty()),
    }
    Ok(Exit::Done)
}

fn print_text(sources: &[SourceReport], on_gpu: bool) {
    for source in sources {
        let state = if source.available { "available" } else { "not available" };
        println!("{}: {state} ({})", source.name, format::method(source.method));
        for domain in &source.domains {
            println!("  {}: {}", domain.name, domain.description);
        }
        if let Some(tick) = source.tick_s {
            println!("  tick: {}", format::duration(tick));
        }
        for line in &source.detail {
            println!("  {line}");
        }
        if let Some(how) = &source.how_to_get_it {
            println!("  hint: {how}");
        }
        println!();
    }
    let usable = |source: &&SourceReport| source.available && (on_gpu || source.name != meter::MeterChoice::Nvml);
    match sources.iter().find(usable) {
        Some(source) => println!("`meter: auto` takes {} here", source.name),
        None => println!("`meter: auto` finds nothing here"),
    }
}
