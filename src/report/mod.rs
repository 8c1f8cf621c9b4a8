//! The report of a run: a page of finished strings, and the templates that lay it out as HTML and Markdown.
//!
//! Decides no number and no verdict; those come from `analysis`, and their digits from `format`.

use crate::analysis::Study;
use crate::error::Result;
use crate::figures::FigureFile;
use crate::record::RunInfo;
use crate::template;

mod glance;
mod headline;
mod method;
mod page;
mod provenance;
mod table;
mod tables;

/// A report in both of its forms.
#[derive(Debug, Clone, PartialEq)]
pub struct Rendered {
    /// One self-contained file: style and figures are inside it, and it loads nothing.
    pub html: String,
    /// The same content; figures are linked from `figures/`.
    pub markdown: String,
}

/// Renders the report of a run.
///
/// # Errors
/// A template uses a name that the page doesn't have: a defect of the program.
pub fn render(run: &RunInfo, study: &Study, figures: &[FigureFile]) -> Result<Rendered> {
    let page = page::Page::new(run, study, figures)?;
    Ok(Rendered { html: template::render("report.html", &page)?, markdown: template::render("report.md", &page)? })
}
