//! What a command took, in a few lines for people.

use std::path::Path;

use super::record::Record;
use crate::child::printable;
use crate::format;
use crate::record::Reason;
use crate::units::{Joules, Seconds};

/// More stages than this are counted and not listed.
const LISTED: usize = 20;

/// Characters of the command that are shown.
const LONGEST: usize = 60;

/// The lines, in order.
pub(super) fn lines(record: &Record, out: Option<&Path>) -> Vec<String> {
    let mut lines = vec![headline(record)];
    lines.extend(ending(record));
    lines.extend(record.idle.as_ref().map(|idle| {
        let power = format::watts(idle.power_w.get());
        format!("  above the idle power of {power} before it: {}", format::joules(record.net_energy_j))
    }));
    let residual = record.energy.residual;
    lines.extend(residual.map(|share| format!("  the second source differs by {}", format::change(-share))));
    let host = record.energy.host.iter();
    let host = host.map(|part| format!("{} {}", part.domain, format::joules(Some(part.energy_j))));
    let host: Vec<String> = host.collect();
    if !host.is_empty() {
        lines.push(format!("  the processor next to it: {}", host.join(", ")));
    }
    lines.extend(stages(record));
    lines.extend(reasons("not valid", &record.validity.invalid_reasons));
    lines.extend(reasons("warning", &record.validity.warnings));
    lines.extend(record.meter.notes.iter().map(|note| format!("  note: {note}")));
    if record.ignored_marks > 0 {
        let ignored = format::plural(record.ignored_marks, "line");
        lines.push(format!("  {ignored} of marks ignored: too long, too many or unfinished"));
    }
    lines.extend(out.map(|path| format!("  written to {}", path.display())));
    lines
}

fn headline(record: &Record) -> String {
    let command = short(&printable(&record.command.join(" ")));
    let time = format::duration(record.duration_s);
    let energy = format::joules(record.energy_j);
    let method = record.energy_method.map_or(String::new(), |method| format!(" ({})", method.words()));
    let power = record.energy_j.filter(|_| record.duration_s > Seconds(0.0));
    let power = power.map(|energy| format!(", {} on average", format::watts((energy / record.duration_s).get())));
    format!("{command}: {energy}{method} in {time}{}; {}", power.unwrap_or_default(), record.device)
}

/// The beginning of a long text.
fn short(text: &str) -> String {
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn ending(record: &Record) -> Option<String> {
    match (record.exit_code, record.signal) {
        (Some(0), _) => None,
        (Some(code), _) => Some(format!("  ended with exit code {code}")),
        (None, Some(signal)) => Some(format!("  ended by signal {signal}")),
        (None, None) => None,
    }
}

/// Each stage and what is left, if there are any.
fn stages(record: &Record) -> Vec<String> {
    let rows = &record.stages.by_stage;
    if rows.is_empty() {
        return Vec::new();
    }
    let line = |name: &str, energy: Option<Joules>, time: Seconds| {
        format!("  {name}: {} in {}", format::joules(energy), format::duration(time))
    };
    let named = rows.iter().take(LISTED).map(|row| {
        let times = if row.times > 1 { format!(" ({} times)", row.times) } else { String::new() };
        let unknown = if row.energy_j.is_none() { "; too short or unknown" } else { "" };
        format!("{}{unknown}", line(&format!("stage {}{times}", row.name), row.energy_j, row.duration_s))
    });
    let mut lines: Vec<String> = named.collect();
    if rows.len() > LISTED {
        lines.push(format!("  and {} with other names", format::plural(rows.len() - LISTED, "stage")));
    }
    let outside = record.stages.outside;
    lines.push(line("outside of stages", outside.energy_j, outside.duration_s));
    lines
}

fn reasons(what: &str, reasons: &[Reason]) -> Option<String> {
    let words: Vec<&str> = reasons.iter().map(|reason| reason.words()).collect();
    (!words.is_empty()).then(|| format!("  {what}: {}", words.join(", ")))
}
