//! Everything that a report says, as a struct of finished strings: templates only lay it out.

use std::path::Path;

use serde::Serialize;

use super::glance::{self, Badge, Warning};
use super::headline;
use super::method::{self, Method};
use super::provenance::{self, Provenance};
use super::table::Table;
use super::tables::{accuracy, components, phases, results, savings, validity, windows};
use crate::analysis::Study;
use crate::error::Result;
use crate::figures::FigureFile;
use crate::record::RunInfo;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Page {
    pub title: String,
    pub question: Option<String>,
    /// When and where it was measured, and how much.
    pub byline: String,
    /// The answer in one sentence.
    pub headline: String,
    pub remarks: Vec<String>,
    /// Prose of the author of the sweep, a paragraph each.
    pub notes: Vec<String>,
    /// What a reader must know before anything else.
    pub warning: Option<Warning>,
    pub badges: Vec<Badge>,
    pub savings: Option<Table>,
    pub figures: Vec<Figure>,
    /// Every cell, and its energy by component if that was measured.
    pub results: Vec<Table>,
    pub phases: Option<PhaseSection>,
    /// Accuracy by model, and by category.
    pub accuracy: Vec<Table>,
    pub method: Method,
    /// Reasons, and cells that failed or were skipped.
    pub validity: Vec<Table>,
    /// The conditions of the windows, and another estimator compared with ours.
    pub windows: Vec<Table>,
    /// A sentence for a run in which nothing is wrong.
    pub all_valid: Option<String>,
    pub provenance: Provenance,
}

/// The section on prefill and decode.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PhaseSection {
    pub text: &'static str,
    /// The methods side by side.
    pub table: Table,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    /// Stem of its files, and its anchor.
    pub name: &'static str,
    pub number: String,
    pub title: &'static str,
    pub caption: String,
    /// For readers who can't see it.
    pub alt: String,
    /// The SVG itself.
    pub svg: String,
    /// Relative path of the SVG file.
    pub svg_href: String,
    /// Relative path of the PNG file.
    pub png_href: String,
}

impl Page {
    /// Everything that the report of a run says.
    ///
    /// # Errors
    /// A template of prose uses a name that it isn't given.
    pub fn new(run: &RunInfo, study: &Study, figures: &[FigureFile]) -> Result<Self> {
        let answer = headline::answer(run, study);
        let validity: Vec<Table> = validity::reasons(study).into_iter().chain(validity::failures(study)).collect();
        Ok(Self {
            title: run.name.clone(),
            question: run.question.clone(),
            byline: glance::byline(run, study),
            headline: answer.sentence,
            remarks: answer.remarks,
            notes: paragraphs(run.notes.as_deref()),
            warning: glance::warning(&study.methods),
            badges: glance::badges(run, study),
            savings: savings::savings(study),
            figures: figures.iter().enumerate().map(|(i, figure)| Figure::new(i + 1, figure)).collect(),
            results: std::iter::once(results::results(study)).chain(components::components(study)).collect(),
            phases: phases::phases(study).map(|table| PhaseSection { text: phases::TEXT, table }),
            accuracy: accuracy::accuracy(study),
            method: method::method(run, study)?,
            all_valid: validity.is_empty().then(|| glance::all_valid(study)),
            validity,
            windows: windows::windows(study).into_iter().chain(components::ept_bench_sum(study)).collect(),
            provenance: provenance::provenance(run),
        })
    }
}

impl Figure {
    fn new(number: usize, file: &FigureFile) -> Self {
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

/// The folder and the name of a file, as a link from the report next to that folder.
fn href(path: &Path) -> String {
    let parts: Vec<_> = path.iter().rev().take(2).map(|part| part.to_string_lossy().into_owned()).collect();
    parts.into_iter().rev().collect::<Vec<_>>().join("/")
}

fn paragraphs(text: Option<&str>) -> Vec<String> {
    let blocks = text.unwrap_or_default().split("\n\n");
    blocks.map(|block| block.split_whitespace().collect::<Vec<_>>().join(" ")).filter(|b| !b.is_empty()).collect()
}
