//! `ept-sweep plan --budget`: how long the sweep takes under each preset, and the best design that fits a given time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::analysis::detectable::{ASSUMED_SPREAD, pooled_spread, smallest_difference};
use crate::commands::run::default_root;
use crate::error::{Error, Result};
use crate::format;
use crate::record::{MeterInfo, Outcome};
use crate::run::prepare::Prepared;
use crate::store::{self, Stored};
use crate::sweep::budget::{Design, Known, best, by_preset, least};
use crate::units::Seconds;

/// What an earlier run of the sweep tells, and how sure that is.
struct Earlier {
    known: Known,
    spread: Option<f64>,
    /// Where it is, or why there is none.
    source: Result<PathBuf, String>,
}

/// Prints what fits.
///
/// # Errors
/// Not even the smallest design fits.
pub fn show(prepared: &Prepared, meter: &MeterInfo, budget: Seconds) -> Result<()> {
    let spec = &prepared.spec;
    let earlier = Earlier::find(&default_root(&spec.name), meter);
    let (spread, known) = (earlier.spread.unwrap_or(ASSUMED_SPREAD), &earlier.known);
    println!(
        "`{}` on meter `{}`: {}, budget {}\n",
        spec.name,
        meter.name,
        format::plural(spec.models.len(), "model"),
        format::duration(budget)
    );
    println!(
        "{:<18} {:>6} {:>8} {:>8} {:>8} {:>13} {:>13} {:>8}  fits",
        "preset", "cells", "repeats", "window", "warm-up", "time", "at most", "detects"
    );
    for design in by_preset(spec, meter, known)? {
        let preset = design.protocol.preset;
        let name = if preset == spec.measure.preset { format!("{preset} (written)") } else { preset.code().to_owned() };
        print_row(&name, &design, spread, design.times.typical <= budget);
    }
    println!();
    earlier.explain(prepared, spread);
    let Some(design) = best(spec, meter, known, budget)? else {
        let least = least(spec, meter, known)?;
        let message = format!(
            "nothing fits {}: the least is {} × {} repeats with windows of {}, which takes {}",
            format::duration(budget),
            format::plural(least.cells, "cell"),
            least.repeats,
            format::duration(least.protocol.min_window_s),
            format::duration(least.times.typical)
        );
        return Err(Error::input(message).hint("raise `--budget`, or measure fewer models in one sweep"));
    };
    let written = Design::of(spec, meter, known)?.cells;
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
        detects(&design, spread)
    );
    println!("In the sweep file:\n\n{}", design.yaml(spec)?.trim_end());
    Ok(())
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

impl Earlier {
    /// The run in the directory that this sweep would be run in, where it was measured by the same meter.
    fn find(root: &Path, meter: &MeterInfo) -> Self {
        let none = |why: String| Self { known: Known::default(), spread: None, source: Err(why) };
        if !root.join("run.json").exists() {
            return none(format!("no earlier run in `{}`", root.display()));
        }
        match store::read(root) {
            Ok(stored) if stored.info.parts.iter().any(|part| part.meter.name == meter.name) => {
                Self { known: known(&stored), spread: spread(&stored), source: Ok(root.to_owned()) }
            }
            Ok(_) => none(format!("the run in `{}` was measured by another meter", root.display())),
            Err(error) => none(format!("the run in `{}` can't be read: {}", root.display(), error.message())),
        }
    }

    /// Says what the figures rest on.
    fn explain(&self, prepared: &Prepared, spread: f64) {
        let labels = || prepared.spec.models.iter().map(|model| &model.label);
        let missing: Vec<&str> =
            labels().filter(|label| !self.known.load_s.contains_key(*label)).map(String::as_str).collect();
        match &self.source {
            Ok(root) => println!("Loading and passes over the prompts: as in the run in `{}`.", root.display()),
            Err(why) => {
                println!("Not included: loading, and passes that take longer than a window ({why}).")
            }
        }
        if self.source.is_ok() && !missing.is_empty() {
            println!("Not included: loading {}.", missing.join(", "));
        }
        if prepared.accuracy.is_some() {
            println!("Not included: scoring the accuracy.");
        }
        let source = if self.spread.is_some() { "as in that run" } else { "an assumption" };
        println!(
            "Detects: the smallest saving that a comparison of two cells finds (two-sided 5 %, power 80 %),\n\
             for a spread of {} between repeats ({source}).",
            format::fraction(spread)
        );
    }
}

fn known(stored: &Stored) -> Known {
    let (mut loads, mut passes): (BTreeMap<String, Vec<f64>>, BTreeMap<_, Vec<f64>>) = Default::default();
    for trial in &stored.trials {
        if let Outcome::Measured(measurement) = &trial.outcome {
            loads.entry(trial.cell.model.clone()).or_default().push(measurement.load.duration_s.0);
            let window = &measurement.window;
            passes
                .entry(trial.cell.id.clone())
                .or_default()
                .push(window.duration().0 / f64::from(window.passes.max(1)));
        }
    }
    let mean = |values: Vec<f64>| Seconds(values.iter().sum::<f64>() / values.len() as f64);
    Known {
        load_s: loads.into_iter().map(|(label, values)| (label, mean(values))).collect(),
        pass_s: passes.into_iter().map(|(cell, values)| (cell, mean(values))).collect(),
    }
}

/// Spread of the cells' repeats; a device that doesn't vary at all is a simulated one and says nothing.
fn spread(stored: &Stored) -> Option<f64> {
    const NONE: f64 = 1e-6;
    let mut cells: BTreeMap<_, Vec<f64>> = BTreeMap::new();
    for trial in &stored.trials {
        let Outcome::Measured(measurement) = &trial.outcome else { continue };
        if let Some(ept) = measurement.ept_out().filter(|_| measurement.validity.is_valid() && !trial.cell.probe) {
            cells.entry(&trial.cell.id).or_default().push(ept.get());
        }
    }
    pooled_spread(&cells.into_values().collect::<Vec<_>>()).filter(|spread| *spread > NONE)
}
