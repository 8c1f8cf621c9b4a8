//! The table of results for CSV, which has neither lists nor structures.

use polars::prelude::{Column, DataFrame, DataType, PolarsResult, Series};

use super::tables::Frame;
use crate::error::{Context as _, Result};

impl Frame {
    /// The trials, as stored in `results.csv`: a list is its entries joined by commas, and of a structure only the
    /// fields above 0 are named, as `code:value`. Null stays null, and empty is an empty text.
    ///
    /// # Errors
    /// The table can't be built.
    pub fn flat(&self) -> Result<DataFrame> {
        let columns = self.trials.columns().iter().map(|column| flat(column).context(|| cant_flatten(column)));
        DataFrame::new(self.trials.height(), columns.collect::<Result<_>>()?).context(|| "can't build the CSV table")
    }
}

fn flat(column: &Column) -> PolarsResult<Column> {
    let texts: Vec<Option<String>> = match column.dtype() {
        DataType::List(_) => {
            let lists = column.list()?;
            (0..column.len())
                .map(|row| lists.get_as_series(row).map(|list| joined(&list)).transpose())
                .collect::<Result<_, _>>()?
        }
        DataType::Struct(_) => {
            let fields = column.struct_()?.fields_as_series();
            (0..column.len()).map(|row| shares(&fields, row)).collect::<Result<_, _>>()?
        }
        _ => return Ok(column.clone()),
    };
    Ok(Column::new(column.name().clone(), texts))
}

fn joined(list: &Series) -> PolarsResult<String> {
    Ok(list.str()?.iter().flatten().collect::<Vec<_>>().join(","))
}

fn shares(fields: &[Series], row: usize) -> PolarsResult<Option<String>> {
    let mut named = Vec::new();
    for field in fields {
        let Some(share) = field.f64()?.get(row) else { return Ok(None) };
        if share > 0.0 {
            named.push(format!("{}:{share}", field.name()));
        }
    }
    Ok(Some(named.join(",")))
}

fn cant_flatten(column: &Column) -> String {
    format!("can't write column `{}` as text", column.name())
}
