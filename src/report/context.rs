//! What a report says, as a serialisable struct of finished strings: templates only lay it out.

use std::collections::BTreeSet;

use serde::Serialize;

use super::{headline, method, provenance, tables, trust};
use crate::analysis::{CellSummary, Study};
use crate::figures::FigureFile;
use crate::format;
use crate::record::{Decoding, EnergyMethod, OutputLength, RunInfo};

/// A report.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Page {
    /// Name of the sweep.
    pub title: String,
    /// The question that it asks.
    pub question: Option<String>,
    /// When it was measured, and how much of it.
    pub byline: String,
    /// The answer in one sentence.
    pub headline: String,
    /// What belongs to the answer.
    pub remarks: Vec<String>,
    /// Prose of the author of the sweep, a paragraph each.
    pub notes: Vec<String>,
    /// What a reader must know before anything else.
    pub warning: Option<Warning>,
    /// The state of the run at a glance.
    pub badges: Vec<Badge>,
    /// Savings of each student and control.
    pub savings: Option<Table>,
    /// The figures.
    pub figures: Vec<Figure>,
    /// Every cell, and its energy by what drew it where that was measured.
    pub results: Vec<Table>,
    /// Prefill and decode apart, where something is known of them.
    pub phases: Option<Phases>,
    /// Accuracy by model, and by category.
    pub accuracy: Vec<Table>,
    /// How it was measured.
    pub method: method::Method,
    /// Reasons, and cells that failed or were skipped.
    pub validity: Vec<Table>,
    /// The conditions of the windows, and another estimator beside ours.
    pub windows: Vec<Table>,
    /// A sentence for a run in which nothing is wrong.
    pub all_valid: Option<String>,
    /// Where and with what it was measured.
    pub provenance: provenance::Provenance,
}

/// The section on prefill and decode.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Phases {
    /// What a reader must know of it.
    pub text: &'static str,
    /// The methods side by side.
    pub table: Table,
}

/// A box at the top of the page.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Warning {
    /// In a few words.
    pub title: String,
    /// In a sentence.
    pub text: String,
}

/// A fact with its name.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Badge {
    /// What it is.
    pub label: &'static str,
    /// What it says.
    pub value: String,
    /// `plain`, `good`, `warn` or `bad`.
    pub tone: &'static str,
}

/// A figure on the page.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    /// Stem of its files, and its anchor.
    pub name: &'static str,
    /// Its number on the page.
    pub number: String,
    /// A few words.
    pub title: &'static str,
    /// How to read it.
    pub caption: String,
    /// What to say where it can't be seen.
    pub alt: String,
    /// The SVG itself.
    pub svg: String,
    /// Relative path of the SVG file.
    pub svg_href: String,
    /// Relative path of the PNG file.
    pub png_href: String,
}

/// A table of finished strings; every row has as many cells as there are columns.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Table {
    /// Anchor on the page.
    pub id: &'static str,
    /// What it shows.
    pub caption: String,
    /// What has to stand on it where its energies aren't measured.
    pub caveat: Option<&'static str>,
    /// The columns.
    pub columns: Vec<Column>,
    /// The rows; the first cell of each names it.
    pub rows: Vec<Row>,
}

/// The head of a column.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Column {
    /// What it says.
    pub title: String,
    /// The unit of its numbers.
    pub unit: Option<String>,
    /// Numbers are set flush right.
    pub numeric: bool,
}

/// A row of a table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Its cells.
    pub cells: Vec<Cell>,
    /// It sums up the others.
    pub total: bool,
}

/// A cell of a table.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Cell {
    /// The value.
    pub text: String,
    /// Its interval, or what else belongs to it.
    pub detail: Option<String>,
    /// `good`, `warn`, `bad`, or nothing special.
    pub tone: Option<&'static str>,
}

impl Cell {
    /// A value without anything beside it.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    /// What isn't known.
    pub fn unknown() -> Self {
        Self::new(format::UNKNOWN)
    }

    /// Adds a detail.
    #[must_use]
    pub fn with(self, detail: impl Into<String>) -> Self {
        Self { detail: Some(detail.into()), ..self }
    }

    /// Sets the tone.
    #[must_use]
    pub fn toned(self, tone: Option<&'static str>) -> Self {
        Self { tone, ..self }
    }
}

impl Column {
    /// A column of words.
    pub fn words(title: impl Into<String>) -> Self {
        Self { title: title.into(), unit: None, numeric: false }
    }

    /// A column of numbers.
    pub fn numbers(title: impl Into<String>, unit: &str) -> Self {
        Self { title: title.into(), unit: (!unit.is_empty()).then(|| unit.to_owned()), numeric: true }
    }
}

impl Row {
    /// An ordinary row.
    pub fn new(cells: Vec<Cell>) -> Self {
        Self { cells, total: false }
    }
}

impl Page {
    /// Everything that the report of a run says.
    pub fn new(run: &RunInfo, study: &Study, figures: &[FigureFile]) -> Self {
        let validity: Vec<Table> = [tables::reasons(study), tables::failures(study)].into_iter().flatten().collect();
        let answer = headline::answer(run, study);
        Self {
            title: run.name.clone(),
            question: run.question.clone(),
            byline: byline(run, study),
            headline: answer.sentence,
            remarks: answer.remarks,
            notes: paragraphs(run.notes.as_deref()),
            warning: warning(&study.methods),
            badges: badges(run, study),
            savings: tables::savings(study),
            figures: figures.iter().enumerate().map(|(i, figure)| Figure::new(i + 1, figure)).collect(),
            results: std::iter::once(tables::results(study)).chain(trust::domains(study)).collect(),
            phases: trust::phases(study).map(|table| Phases { text: trust::PHASES, table }),
            accuracy: tables::accuracy(study),
            method: method::method(run, study),
            all_valid: validity.is_empty().then(|| all_valid(study)),
            validity,
            windows: [trust::windows(study), trust::ept_bench_sum(study)].into_iter().flatten().collect(),
            provenance: provenance::provenance(run),
        }
    }
}

impl Figure {
    fn new(number: usize, file: &FigureFile) -> Self {
        let href = |path: &std::path::Path| {
            let parts: Vec<_> = path.iter().rev().take(2).map(|part| part.to_string_lossy().into_owned()).collect();
            parts.into_iter().rev().collect::<Vec<_>>().join("/")
        };
        Self {
            name: file.name,
            number: number.to_string(),
            title: file.title,
            caption: file.caption.clone(),
            alt: file.alt.clone(),
            svg: file.svg.clone(),
            svg_href: href(&file.svg_path),
            png_href: href(&file.png_path),
        }
    }
}

fn paragraphs(text: Option<&str>) -> Vec<String> {
    let blocks = text.unwrap_or_default().split("\n\n");
    blocks.map(|block| block.split_whitespace().collect::<Vec<_>>().join(" ")).filter(|b| !b.is_empty()).collect()
}

/// The number of trials in all cells, by one of their counts.
pub(super) fn total(study: &Study, of: fn(&CellSummary) -> usize) -> usize {
    study.cells.iter().map(of).sum()
}

fn byline(run: &RunInfo, study: &Study) -> String {
    let models = format::plural(run.models.len(), "model");
    let cells = format::plural(study.cells.len(), "cell");
    let date = run.parts.first().and_then(|part| part.started_at.split('T').next());
    let host = run.parts.first().and_then(|part| part.host.hostname.as_deref());
    let on = host.map_or(String::new(), |name| format!(" on {name}"));
    let when = date.map_or(String::new(), |date| format!("Measured {date}{on}. "));
    format!("{when}{models}, {cells}, {} each.", repeats(run, study))
}

/// `5 repeats`, or `5 to 9 repeats` where they went on.
fn repeats(run: &RunInfo, study: &Study) -> String {
    let fewest = run.blocks as usize;
    let most = study.stopping.as_ref().map_or(fewest, |stopping| stopping.repeats);
    let all = format::plural(most.max(fewest), "repeat");
    if most > fewest { format!("{} to {all}", format::count(fewest as u64)) } else { all }
}

fn warning(methods: &[EnergyMethod]) -> Option<Warning> {
    let caveat = format::caveat(methods)?;
    let simulated = "Energies come from a simulated device with known power: they test the tool and say nothing about \
        any hardware.";
    let modelled = "Energies are computed from processor time and stated coefficients: good for trying the tool, \
        never for a claim.";
    let text = if methods.contains(&EnergyMethod::Modelled) { modelled } else { simulated };
    Some(Warning { title: capitalised(caveat), text: text.to_owned() })
}

/// With a capital letter at its start.
pub(super) fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |first| first.to_uppercase().chain(chars).collect())
}

fn badges(run: &RunInfo, study: &Study) -> Vec<Badge> {
    let plain = |label, value| Badge { label, value, tone: "plain" };
    let mut badges = vec![valid_badge(study), method_badge(study)];
    let most = study.stopping.as_ref().map_or(0, |stopping| stopping.repeats as u64).max(run.blocks.into());
    badges.push(plain("Repeats", format::count(most)));
    badges.push(plain("Preset", run.protocol.preset.words().to_owned()));
    badges.push(plain("Prompts", format::count(run.prompts.count as u64)));
    badges.push(plain("Output length", output_lengths(run)));
    let decoding = run.cells.first().map(|cell| cell.decoding).filter(|decoding| *decoding != Decoding::Greedy);
    badges.extend(decoding.map(|decoding| plain("Decoding", decoding.to_string())));
    let made_up: BTreeSet<&str> =
        run.cells.iter().filter(|cell| cell.dummy_weights).map(|cell| cell.model.as_str()).collect();
    if !made_up.is_empty() {
        let value = made_up.into_iter().collect::<Vec<_>>().join(", ");
        badges.push(Badge { label: "Dummy weights", value, tone: "warn" });
    }
    badges
}

fn valid_badge(study: &Study) -> Badge {
    let (valid, planned) = (total(study, |c| c.counts.valid), total(study, |c| c.counts.planned));
    let tone = match valid {
        0 => "bad",
        _ if valid < planned => "warn",
        _ => "good",
    };
    let value = format!("{} of {}", format::count(valid as u64), format::count(planned as u64));
    Badge { label: "Valid trials", value, tone }
}

fn method_badge(study: &Study) -> Badge {
    let names: Vec<&str> = study.methods.iter().map(|m| m.words()).collect();
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

fn all_valid(study: &Study) -> String {
    match total(study, |c| c.counts.planned) {
        0 => "No trial was planned.".to_owned(),
        n if n == total(study, |c| c.counts.valid) => {
            format!("All {} are valid, without warnings.", format::plural(n, "trial"))
        }
        n => format!(
            "{} of {} are valid so far; none was found invalid, and none failed.",
            format::count(total(study, |c| c.counts.valid) as u64),
            format::plural(n, "trial")
        ),
    }
}
