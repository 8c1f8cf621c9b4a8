//! Tables of finished strings. Each has as many cells in a row as it has columns.

use serde::Serialize;

use crate::analysis::Estimate;
use crate::format::{self, Scale};

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Table {
    /// Anchor on the page.
    pub(crate) id: &'static str,
    pub(crate) caption: String,
    /// Goes in front of the caption if energies in the table aren't measured.
    pub(crate) caveat: Option<&'static str>,
    pub(crate) columns: Vec<Column>,
    /// The first cell of each names the row.
    pub(crate) rows: Vec<TableRow>,
}

/// The head of a column.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Column {
    pub(crate) title: String,
    /// The unit of its numbers, or how they were picked: `worst`.
    pub(crate) unit: Option<String>,
    /// Numbers are set flush right.
    pub(crate) numeric: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct TableRow {
    pub(crate) cells: Vec<Cell>,
    /// It sums up the others.
    pub(crate) total: bool,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub(crate) struct Cell {
    pub(crate) text: String,
    /// An interval or a remark below the text.
    pub(crate) detail: Option<String>,
    /// `good`, `warn` or `bad`.
    pub(crate) tone: Option<&'static str>,
}

impl Table {
    /// A table without a caveat; `None` without rows.
    pub(crate) fn unless_empty(
        id: &'static str,
        caption: &str,
        columns: Vec<Column>,
        rows: impl IntoIterator<Item = Vec<Cell>>,
    ) -> Option<Self> {
        let rows: Vec<TableRow> = rows.into_iter().map(TableRow::new).collect();
        (!rows.is_empty()).then(|| Self { id, caption: caption.to_owned(), caveat: None, columns, rows })
    }

    /// A table of the columns in which something is known, whose notes follow the caption; `None` without rows.
    pub(crate) fn of_known(id: &'static str, caption: &str, columns: Vec<FilledColumn>) -> Option<Self> {
        let known: Vec<FilledColumn> = columns.into_iter().filter(FilledColumn::is_known).collect();
        let height = known.iter().map(|column| column.cells.len()).max().unwrap_or_default();
        let cell = |column: &FilledColumn, row: usize| column.cells[row].clone().unwrap_or_else(Cell::unknown);
        let rows: Vec<_> = (0..height).map(|row| known.iter().map(|column| cell(column, row)).collect()).collect();
        let notes = known.iter().filter_map(|column| column.note);
        let caption = std::iter::once(caption).chain(notes).collect::<Vec<_>>().join(" ");
        Self::unless_empty(id, &caption, known.into_iter().map(|column| column.head).collect(), rows)
    }

    /// Puts the caveat in front of the caption.
    #[must_use]
    pub(crate) fn with_caveat(self, caveat: Option<&'static str>) -> Self {
        Self { caveat, ..self }
    }
}

impl Column {
    pub(crate) fn words(title: impl Into<String>) -> Self {
        Self { title: title.into(), unit: None, numeric: false }
    }

    /// An empty unit is none.
    pub(crate) fn numbers(title: impl Into<String>, unit: &str) -> Self {
        Self { title: title.into(), unit: (!unit.is_empty()).then(|| unit.to_owned()), numeric: true }
    }
}

impl TableRow {
    pub(super) fn new(cells: Vec<Cell>) -> Self {
        Self { cells, total: false }
    }
}

impl Cell {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    pub(super) fn unknown() -> Self {
        Self::new(format::UNKNOWN)
    }

    pub(crate) fn count(n: usize) -> Self {
        Self::new(format::count(n as u64))
    }

    /// A number with its interval below it.
    pub(crate) fn estimate(of: Option<&Estimate>, scale: Scale) -> Self {
        match of {
            Some(e) if e.value.is_finite() => Self::new(format::value(e, scale)).with(format::interval(e, scale)),
            _ => Self::unknown(),
        }
    }

    #[must_use]
    pub(crate) fn with(self, detail: impl Into<String>) -> Self {
        Self { detail: Some(detail.into()), ..self }
    }

    #[must_use]
    pub(crate) fn toned(self, tone: Option<&'static str>) -> Self {
        Self { tone, ..self }
    }
}

/// A column with its cells, which a table leaves out if none of them is known.
pub(crate) struct FilledColumn {
    head: Column,
    cells: Vec<Option<Cell>>,
    note: Option<&'static str>,
}

impl FilledColumn {
    pub(super) fn new<T>(head: Column, rows: &[T], cell: impl Fn(&T) -> Option<Cell>) -> Self {
        Self { head, cells: rows.iter().map(cell).collect(), note: None }
    }

    /// Explains the column in the table's caption.
    #[must_use]
    pub(crate) fn explained(self, note: &'static str) -> Self {
        Self { note: Some(note), ..self }
    }

    fn is_known(&self) -> bool {
        self.cells.iter().any(Option::is_some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_of_which_nothing_is_known_is_left_out_with_its_note() {
        let rows = [1, 2];
        let names = FilledColumn::new(Column::words("Name"), &rows, |n| Some(Cell::count(*n)));
        let some = FilledColumn::new(Column::numbers("Some", ""), &rows, |n| (*n > 1).then(|| Cell::new("x")));
        let nothing = FilledColumn::new(Column::numbers("None", ""), &rows, |_| None).explained("None: nothing.");
        let table = Table::of_known("id", "A table.", vec![names, some.explained("Some: x."), nothing]).unwrap();
        assert_eq!(table.caption, "A table. Some: x.");
        let text: Vec<Vec<&str>> =
            table.rows.iter().map(|row| row.cells.iter().map(|cell| cell.text.as_str()).collect()).collect();
        assert_eq!(text, [["1", "–"], ["2", "x"]]);
    }

    #[test]
    fn a_table_without_rows_is_none() {
        assert_eq!(Table::unless_empty("id", "A table.", vec![Column::words("Name")], []), None);
    }
}
