//! The page as one self-contained HTML file.

use super::context::Page;
use crate::error::Result;
use crate::template;

/// Lays the page out as HTML.
pub fn render(page: &Page) -> Result<String> {
    template::render("report.html", page)
}
