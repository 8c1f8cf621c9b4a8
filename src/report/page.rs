//! Everything that a report says, as a struct of finished strings: templates only lay it out.

use std::path::Path;

use serde::Serialize;

use super::glance::{self, Badge, Warning};
use super::headline;
use super::method::{self, Method};
use super::provenance::{self, Provenance};
use super::table::Table;
use super::tables::{accuracy, components, conditions, engine, phases, results, savings, validity, windows};
use crate::analysis::Study;
use crate::error::Result;
use crate::figures::FigureFile;
use crate::record::RunInfo;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Page {
    pub(crate) title: String,
    pub(crate) question: Option<String>,
    /// When and where it was measured, and how much.
    pub(crate) byline: String,
    /// The answer in one sentence.
    pub(crate) headline: String,
    pub(crate) remarks: Vec<String>,
    /// Prose of the author of the sweep, a paragraph each.
    pub(crate) notes: Vec<String>,
    /// What a reader must know before anything else.
    pub(crate) warning: Option<Warning>,
    pub(crate) badges: Vec<Badge>,
    pub(crate) savings: Option<Table>,
    /// The conditions of the compared cells.
    pub(crate) conditions: Option<Table>,
    pub(crate) figures: Vec<Figure>,
    /// Every cell, and its energy by component if that was measured.
    pub(crate) results: Vec<Table>,
    pub(crate) phases: Option<PhaseSection>,
    /// Accuracy by model, and by category.
    pub(crate) accuracy: Vec<Table>,
    pub(crate) method: Method,
    /// Reasons, and cells that failed or were skipped.
    pub(crate) validity: Vec<Table>,
    /// The conditions of the windows, and another estimator compared with ours.
    pub(crate) windows: Vec<Table>,
    /// A sentence for a run in which nothing is wrong.
    pub(crate) all_valid: Option<String>,
    pub(crate) provenance: Provenance,
}

/// The section on prefill and decode.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct PhaseSection {
    pub(crate) text: &'static str,
    /// The methods side by side.
    pub(crate) table: Table,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Figure {
    /// Stem of its files, and its anchor.
    pub(crate) name: &'static str,
    pub(crate) number: String,
    pub(crate) title: &'static str,
    pub(crate) caption: String,
    /// For readers who can't see it.
    pub(crate) alt: String,
    /// The SVG itself.
    pub(crate) svg: String,
    /// Relative path of the SVG file.
    pub(crate) svg_href: String,
    /// Relative path of the PNG file.
    pub(crate) png_href: String,
}

impl Page {
    /// Everything that the report of a run says.
    ///
    /// # Errors
    /// A template of prose uses a name that it isn't given.
    pub(super) fn new(run: &RunInfo, study: &Study, figures: &[FigureFile]) -> Result<Self> {
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
            conditions: conditions::conditions(study, run.floor),
            figures: figures.iter().enumerate().map(|(i, figure)| Figure::new(i + 1, figure)).collect(),
            results: std::iter::once(results::results(study))
                .chain(components::components(study))
                .chain(components::memory(study))
                .chain(engine::engine(study))
                .chain(engine::calibrations(study))
                .collect(),
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
