//! The page as a Markdown file beside its folder of figures.

use super::context::Page;
use crate::error::Result;
use crate::template;

/// Lays the page out as Markdown.
pub fn render(page: &Page) -> Result<String> {
    template::render("report.md", page)
}
