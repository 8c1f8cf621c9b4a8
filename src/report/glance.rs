//! The state of a run at a glance: byline, warning and badges.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::analysis::Study;
use crate::format;
use crate::record::{Decoding, EnergyMethod, OutputLength, RunInfo};

/// A box at the top of the page.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Warning {
    pub(crate) title: String,
    pub(crate) text: &'static str,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Badge {
    pub(crate) label: &'static str,
    pub(crate) value: String,
    /// `plain`, `good`, `warn` or `bad`.
    pub(crate) tone: &'static str,
}

pub(crate) fn byline(run: &RunInfo, study: &Study) -> String {
    let models = format::plural(run.models.len(), "model");
    let cells = format::plural(study.cells.len(), "cell");
    let date = run.parts.first().and_then(|part| part.started_at.split('T').next());
    let host = run.parts.first().and_then(|part| part.host.hostname.as_deref());
    let on = host.map_or(String::new(), |name| format!(" on {name}"));
    let when = date.map_or(String::new(), |date| format!("Measured {date}{on}. "));
    format!("{when}{models}, {cells}, {} each.", repeats(run, study))
}

/// `5 repeats`, or `5 to 9 repeats` if more were added.
fn repeats(run: &RunInfo, study: &Study) -> String {
    let (fewest, most) = (run.blocks as usize, most_repeats(run, study));
    let all = format::plural(most, "repeat");
    if most > fewest { format!("{} to {all}", format::count(fewest as u64)) } else { all }
}

fn most_repeats(run: &RunInfo, study: &Study) -> usize {
    study.stopping.as_ref().map_or(0, |stopping| stopping.repeats).max(run.blocks as usize)
}

/// The warning on a page whose energies aren't all measured.
pub(crate) fn warning(methods: &[EnergyMethod]) -> Option<Warning> {
    let title = format::capitalised(format::caveat(methods)?);
    let text = if methods.contains(&EnergyMethod::Modelled) {
        "Energies are computed from processor time and stated coefficients: suitable for trying the tool, not for \
         publication."
    } else {
        "Energies come from a simulated device with known power: they test the tool and say nothing about real \
         hardware."
    };
    Some(Warning { title, text })
}

pub(crate) fn badges(run: &RunInfo, study: &Study) -> Vec<Badge> {
    let plain = |label, value| Badge { label, value, tone: "plain" };
    let mut badges = vec![
        valid_trials(study),
        energy_methods(study),
        plain("Repeats", format::count(most_repeats(run, study) as u64)),
        plain("Preset", run.protocol.preset.words().to_owned()),
        plain("Prompts", format::count(run.prompts.count as u64)),
        plain("Output length", output_lengths(run)),
    ];
    let decoding = run.cells.first().map(|cell| cell.decoding).filter(|decoding| *decoding != Decoding::Greedy);
    badges.extend(decoding.map(|decoding| plain("Decoding", decoding.to_string())));
    badges.extend(dummy_weights(run));
    badges
}

fn valid_trials(study: &Study) -> Badge {
    let counts = study.counts();
    let tone = match counts.valid {
        0 => "bad",
        valid if valid < counts.planned => "warn",
        _ => "good",
    };
    let value = format!("{} of {}", format::count(counts.valid as u64), format::count(counts.planned as u64));
    Badge { label: "Valid trials", value, tone }
}

fn energy_methods(study: &Study) -> Badge {
    let names: Vec<&str> = study.methods.iter().map(|method| method.words()).collect();
    let value = if names.is_empty() { format::UNKNOWN.to_owned() } else { names.join(", ") };
    let tone = if format::caveat(&study.methods).is_some() { "warn" } else { "plain" };
    Badge { label: "Energy", value, tone }
}

fn output_lengths(run: &RunInfo) -> String {
    let has = |length| run.cells.iter().any(|cell| cell.output_length == length);
    match (has(OutputLength::Natural), has(OutputLength::Fixed)) {
        (true, true) => "natural and fixed",
        (false, true) => "fixed",
        (true, false) => "natural",
        (false, false) => format::UNKNOWN,
    }
    .to_owned()
}

fn dummy_weights(run: &RunInfo) -> Option<Badge> {
    let models: BTreeSet<&str> =
        run.cells.iter().filter(|cell| cell.dummy_weights).map(|cell| cell.model.as_str()).collect();
    let value = models.into_iter().collect::<Vec<_>>().join(", ");
    (!value.is_empty()).then_some(Badge { label: "Dummy weights", value, tone: "warn" })
}

/// How many trials are valid, for a run in which none is invalid or failed.
pub(crate) fn all_valid(study: &Study) -> String {
    let counts = study.counts();
    match counts.planned {
        0 => "No trial was planned.".to_owned(),
        n if n == counts.valid => format!("All {} are valid and without warnings.", format::plural(n, "trial")),
        n => format!(
            "{} of {} are valid so far; none is invalid and none failed.",
            format::count(counts.valid as u64),
            format::plural(n, "trial")
        ),
    }
}
