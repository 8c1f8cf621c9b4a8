//! How energy is measured, and how results are judged.

use super::file::File;
use crate::error::Result;
use crate::record::{MeterChoice, Order, OutputLength};
use crate::sweep::default::Auto;
use crate::sweep::model::{ModelSource, ModelSpec};
use crate::sweep::yaml::Step::Key;

/// The plan lists every repeat; more than this are probably a typo.
const MOST_REPEATS: u32 = 1000;

pub(super) fn measure(file: &File<'_>) -> Result<()> {
    let measure = &file.spec.measure;
    let at = |key| [Key("measure"), Key(key)];
    for (key, repeats) in [("repeats", measure.repeats), ("max_repeats", measure.max_repeats)] {
        match repeats {
            Auto::Value(0) => {
                let hint = "1 at least; 5 or more give an interval worth having";
                return Err(file.fail(&at(key), "0 repeats", hint));
            }
            Auto::Value(many) if many > MOST_REPEATS => {
                let hint = format!("{MOST_REPEATS} at most; 5 to 20 are enough");
                return Err(file.fail(&at(key), format!("{many} repeats"), hint));
            }
            _ => {}
        }
    }
    adaptive(file)?;
    duration(file, measure.window_s, "window_s", f64::MIN_POSITIVE)?;
    for (key, value) in [
        ("guard_s", measure.guard_s),
        ("warmup_s", measure.warmup_s),
        ("max_warmup_s", measure.max_warmup_s),
        ("idle_s", measure.idle_s),
    ] {
        duration(file, value, key, 0.0)?;
    }
    if let Auto::Value(share) = measure.steady
        && !(share > 0.0 && share < 0.5)
    {
        let hint = "a share of the energy, such as 0.005 for 0.5 %";
        return Err(file.fail(&at("steady"), format!("`steady: {share}` isn't a small share"), hint));
    }
    if measure.gpu_indices.as_ref().is_some_and(Vec::is_empty) {
        return Err(file.fail(&at("gpu_indices"), "no GPUs", "name at least one index, or leave it out"));
    }
    if let Some(coefficients) = &measure.modelled {
        let wrong = |watts: f64| !watts.is_finite() || watts < 0.0;
        if wrong(coefficients.watts_per_core) || wrong(coefficients.idle_w) {
            return Err(file.fail(&at("modelled"), "a negative or infinite power", "watts are 0 or more"));
        }
    }
    synthetic_pair(file)
}

fn adaptive(file: &File<'_>) -> Result<()> {
    let measure = &file.spec.measure;
    let at = |key| [Key("measure"), Key(key)];
    let repeats = measure.repeats();
    match measure.max_repeats {
        Auto::Value(most) if most < repeats => {
            let message = format!("`max_repeats: {most}` is less than the {repeats} repeats that are measured anyway");
            return Err(file.fail(&at("max_repeats"), message, "raise it, or lower `repeats`"));
        }
        _ => {}
    }
    if let Auto::Value(width) = measure.half_width {
        if !(width > 0.0 && width < 0.5) {
            let hint = "a share of the mean, such as 0.02 for ± 2 %";
            return Err(file.fail(&at("half_width"), format!("`half_width: {width}` isn't a small share"), hint));
        }
        if measure.adaptive().is_none() {
            let hint = "set `max_repeats` above `repeats`, or remove `half_width`";
            return Err(file.fail(&at("half_width"), "`half_width` without repeats to add", hint));
        }
    }
    if measure.adaptive().is_some() && repeats < 2 {
        let hint = "set `repeats: 5`: an interval needs two values, and stopping on fewer than five is too early";
        return Err(file.fail(&at("repeats"), "repeats that go on from a single one", hint));
    }
    if measure.adaptive().is_some() && measure.order == Order::ByModel {
        let hint = "remove `max_repeats`, or use `order: blocks`";
        return Err(file.fail(&at("order"), "adaptive repeats need blocks in which all models meet", hint));
    }
    if measure.prefill == Auto::Value(true) && file.spec.generation.length != OutputLength::Fixed {
        let hint = "set `generation.length: fixed`, or remove `prefill`";
        let message = "prefill and decode can be separated only if every length produces the same tokens";
        return Err(file.fail(&at("prefill"), message, hint));
    }
    Ok(())
}

fn duration(file: &File<'_>, value: Auto<f64>, key: &'static str, least: f64) -> Result<()> {
    match value {
        Auto::Value(seconds) if !seconds.is_finite() || seconds < least || seconds > 86_400.0 => {
            let message = format!("`{key}: {seconds:e}` isn't a valid waiting time");
            Err(file.fail(&[Key("measure"), Key(key)], message, "seconds, or `auto`"))
        }
        _ => Ok(()),
    }
}

/// A simulated model runs on a simulated clock: its energy can't be measured, and that of a real one can't be
/// simulated.
fn synthetic_pair(file: &File<'_>) -> Result<()> {
    let simulated = |model: &&ModelSpec| matches!(model.source, ModelSource::Synthetic(_));
    let synthetic = file.spec.models.iter().filter(simulated).count();
    let meter = file.spec.measure.meter;
    if synthetic > 0 && synthetic < file.spec.models.len() {
        let hint = "put the simulated models into a sweep of their own";
        return Err(file.fail(&[Key("models")], "simulated and real models in one sweep", hint));
    }
    if synthetic > 0 && !matches!(meter, MeterChoice::Synthetic | MeterChoice::Auto) {
        let message = format!("`meter: {meter}` can't measure a simulated model");
        return Err(file.fail(&[Key("measure"), Key("meter")], message, "use `meter: synthetic`"));
    }
    if synthetic == 0 && meter == MeterChoice::Synthetic {
        let hint = "use `meter: auto`; the synthetic meter goes with `source: { synthetic: … }`";
        return Err(file.fail(&[Key("measure"), Key("meter")], "a synthetic meter for real models", hint));
    }
    Ok(())
}

pub(super) fn report(file: &File<'_>) -> Result<()> {
    let floor = file.spec.report.floor;
    if !(0.0..0.5).contains(&floor) {
        let hint = "a share of the energy below which two cells count as equal, such as 0.01";
        return Err(file.fail(&[Key("report"), Key("floor")], format!("`floor: {floor}` isn't a small share"), hint));
    }
    Ok(())
}
