//! `ept-sweep plan --budget`: how long the sweep takes under each preset, and the best design that fits a given time.

use crate::analysis::detectable::{ASSUMED_SPREAD, smallest_difference};
use crate::commands::run::default_root;
use crate::error::{Error, Result};
use crate::format;
use crate::record::{MeterInfo, Preset};
use crate::run::earlier::Earlier;
use crate::run::prepare::Prepared;
use crate::sweep::SweepSpec;
use crate::sweep::budget::{Design, best, by_preset, least};
use crate::units::Seconds;

/// Prints what fits.
///
/// # Errors
/// Not even the smallest design fits.
pub(crate) fn show(prepared: &Prepared, meter: &MeterInfo, budget: Seconds) -> Result<()> {
    let spec = &prepared.spec;
    let earlier = Earlier::find(&default_root(&spec.name), meter);
    let spread = earlier.spread.unwrap_or(ASSUMED_SPREAD);
    println!(
        "`{}` on meter `{}`: {}, budget {}\n",
        spec.name,
        meter.name,
        format::plural(spec.models.len(), "model"),
        format::duration(budget)
    );
    print_presets(&by_preset(spec, meter, &earlier.known)?, spec.measure.preset, spread, budget);
    print_basis(prepared, &earlier, spread);
    let Some(design) = best(spec, meter, &earlier.known, budget)? else {
        return Err(nothing_fits(&least(spec, meter, &earlier.known)?, budget));
    };
    let written = Design::of(spec, meter, &earlier.known)?.cells;
    print_best(&design, spec, written, spread)
}

fn print_presets(designs: &[Design], written: Preset, spread: f64, budget: Seconds) {
    println!(
        "{:<18} {:>6} {:>8} {:>8} {:>8} {:>13} {:>13} {:>8}  fits",
        "preset", "cells", "repeats", "window", "warm-up", "time", "at most", "detects"
    );
    for design in designs {
        let name = design.protocol.preset.words();
        let name = if design.protocol.preset == written { format!("{name} (written)") } else { name.to_owned() };
        print_row(&name, design, spread, design.times.typical <= budget);
    }
    println!();
}

fn print_row(name: &str, design: &Design, spread: f64, fits: bool) {
    let protocol = &design.protocol;
    let repeats = match protocol.adaptive {
        Some(adaptive) => format!("{}–{}", design.repeats, adaptive.max_repeats),
        None => design.repeats.to_string(),
    };
    println!(
        "{:<18} {:>6} {:>8} {:>8} {:>8} {:>13} {:>13} {:>8}  {}",
        name,
        design.cells,
        repeats,
        format::duration(protocol.min_window_s),
        format::duration(protocol.warmup_s),
        format::duration(design.times.typical),
        format::duration(design.times.longest),
        detects(design, spread),
        if fits { "yes" } else { "no" }
    );
}

fn detects(design: &Design, spread: f64) -> String {
    smallest_difference(spread, design.repeats).map_or_else(|| format::UNKNOWN.to_owned(), format::fraction)
}

/// Says where the times and the spread come from, and what the times leave out.
fn print_basis(prepared: &Prepared, earlier: &Earlier, spread: f64) {
    match &earlier.source {
        Ok(root) => {
            println!("Loading and passes over the prompts: as in the run in `{}`.", root.display());
            let labels = prepared.spec.models.iter().map(|model| model.label.as_str());
            let missing: Vec<&str> = labels.filter(|label| !earlier.known.load_s.contains_key(*label)).collect();
            if !missing.is_empty() {
                println!("Not included: loading {}.", missing.join(", "));
            }
        }
        Err(why) => println!("Not included: loading, and passes that take longer than a window ({why})."),
    }
    if prepared.accuracy.is_some() {
        println!("Not included: scoring the accuracy.");
    }
    let source = if earlier.spread.is_some() { "as in that run" } else { "an assumption" };
    println!(
        "Detects: the smallest saving that a comparison of two cells finds (two-sided 5 %, power 80 %),\n\
         for a spread of {} between repeats ({source}).",
        format::fraction(spread)
    );
}

fn nothing_fits(least: &Design, budget: Seconds) -> Error {
    let message = format!(
        "nothing fits {}: the least is {} × {} repeats with windows of {}, which takes {}",
        format::duration(budget),
        format::plural(least.cells, "cell"),
        least.repeats,
        format::duration(least.protocol.min_window_s),
        format::duration(least.times.typical)
    );
    Error::input(message).with_hint("raise `--budget`, or measure fewer models in one sweep")
}

fn print_best(design: &Design, spec: &SweepSpec, written: usize, spread: f64) -> Result<()> {
    println!(
        "\nThe best that fits: {} of {written} cells, {} repeats, windows of {}.",
        design.cells,
        design.repeats,
        format::duration(design.protocol.min_window_s),
    );
    println!(
        "It takes {}, {} at most, and detects {}.",
        format::duration(design.times.typical),
        format::duration(design.times.longest),
        detects(design, spread)
    );
    println!("In the sweep file:\n\n{}", design.yaml(spec)?.trim_end());
    Ok(())
}
