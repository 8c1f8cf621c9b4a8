//! The one door to Parquet and CSV files: writes whole tables atomically and reads them back.
//!
//! Knows the columns of power samples, and no other columns.

use std::fs;
use std::io::Cursor;
use std::path::Path;

use crate::error::{Context as _, Error, Result};
use crate::file::write_atomically;
use crate::record::{EnergyMethod, Quantity, Sample, SourceTrace, Trace};
use crate::units::Seconds;
use polars::prelude::{
    Column, CsvParseOptions, CsvReadOptions, CsvWriter, DataFrame, ParquetCompression, ParquetReader, ParquetWriter,
    PolarsResult, SchemaRef, SerReader as _, SerWriter as _,
};

/// Writes `table` as Parquet with Zstandard compression. The file appears whole or not at all.
///
/// # Errors
/// The file can't be written.
pub fn write_parquet(path: &Path, table: &DataFrame) -> Result<()> {
    write_atomically(path, |file| {
        let writer = ParquetWriter::new(file).with_compression(ParquetCompression::Zstd(None));
        writer.finish(&mut table.clone()).map(drop)
    })
}

/// Reads a Parquet file.
///
/// # Errors
/// The file can't be read or isn't Parquet.
pub fn read_parquet(path: &Path) -> Result<DataFrame> {
    let bytes = fs::read(path).context(|| cant_read(path))?;
    ParquetReader::new(Cursor::new(bytes)).finish().context(|| cant_read(path))
}

/// Writes `table` as CSV with a header. Floating-point numbers have as many digits as it takes to read the same
/// number back, null is an empty field, and an empty string is `""`. The file appears whole or not at all.
///
/// # Errors
/// The file can't be written.
pub fn write_csv(path: &Path, table: &DataFrame) -> Result<()> {
    write_atomically(path, |file| CsvWriter::new(file).finish(&mut table.clone()))
}

/// Reads a CSV file that [`write_csv`] wrote, with the types of `schema` (without it they are inferred, and a column
/// of nulls becomes text).
///
/// # Errors
/// The file can't be read or doesn't fit the schema.
pub fn read_csv(path: &Path, schema: Option<SchemaRef>) -> Result<DataFrame> {
    let bytes = fs::read(path).context(|| cant_read(path))?;
    let options = CsvReadOptions::default()
        .with_has_header(true)
        .with_schema(schema)
        .with_infer_schema_length(None)
        .with_parse_options(CsvParseOptions::default().with_missing_is_null(true));
    options.into_reader_with_file_handle(Cursor::new(bytes)).finish().context(|| cant_read(path))
}

/// Writes the readings of every source as Parquet: one row a reading, with the source's number, domain, quantity,
/// method, tick and lag (seconds), the time (seconds on the run's clock) and the value (joules, watts, °C, MHz …). A
/// source without readings is one row whose time and value are null.
///
/// # Errors
/// The file can't be written.
pub(crate) fn write_samples(path: &Path, trace: &Trace) -> Result<()> {
    write_parquet(path, &samples_table(trace).context(|| cant_write(path))?)
}

/// Reads the readings that [`write_samples`] wrote: exactly the same trace.
///
/// # Errors
/// The file can't be read or has other columns.
pub(crate) fn read_samples(path: &Path) -> Result<Trace> {
    let table = read_parquet(path)?;
    trace_of(&table).map_err(|error| error.at(cant_read(path)))
}

fn samples_table(trace: &Trace) -> PolarsResult<DataFrame> {
    let rows: Vec<SampleRow> =
        trace.sources.iter().enumerate().flat_map(|(number, source)| sample_rows(number, source)).collect();
    let f64s = |get: fn(&SampleRow) -> Option<f64>| rows.iter().map(get).collect::<Vec<_>>();
    let texts = |get: fn(&SampleRow) -> String| rows.iter().map(get).collect::<Vec<_>>();
    DataFrame::new(
        rows.len(),
        vec![
            Column::new("source".into(), rows.iter().map(|row| row.number).collect::<Vec<u32>>()),
            Column::new("domain".into(), texts(|row| row.source.domain.clone())),
            Column::new("quantity".into(), texts(|row| row.source.quantity.code().to_owned())),
            Column::new("method".into(), texts(|row| row.source.method.code().to_owned())),
            Column::new("tick_s".into(), f64s(|row| row.source.tick.map(Seconds::get))),
            Column::new("lag_s".into(), f64s(|row| Some(row.source.lag.get()))),
            Column::new("t_s".into(), f64s(|row| row.sample.map(|sample| sample.t.get()))),
            Column::new("value".into(), f64s(|row| row.sample.map(|sample| sample.value))),
        ],
    )
}

struct SampleRow<'a> {
    number: u32,
    source: &'a SourceTrace,
    sample: Option<&'a Sample>,
}

fn sample_rows(number: usize, source: &SourceTrace) -> Vec<SampleRow<'_>> {
    let row = |sample| SampleRow { number: number as u32, source, sample };
    if source.samples.is_empty() { vec![row(None)] } else { source.samples.iter().map(|s| row(Some(s))).collect() }
}

fn trace_of(table: &DataFrame) -> Result<Trace> {
    let mut trace = Trace::default();
    let mut current = None;
    let cells = Cells(table);
    for row in 0..table.height() {
        let number = table.column("source").and_then(|column| column.u32()).context(|| "`source`")?.get(row);
        if number != current || row == 0 {
            current = number;
            trace.sources.push(source_at(&cells, row)?);
        }
        if let (Some(t), Some(value), Some(source)) =
            (cells.f64("t_s", row)?, cells.f64("value", row)?, trace.sources.last_mut())
        {
            source.samples.push(Sample { t: Seconds(t), value });
        }
    }
    Ok(trace)
}

fn source_at(cells: &Cells<'_>, row: usize) -> Result<SourceTrace> {
    Ok(SourceTrace {
        domain: cells.required_text("domain", row)?.to_owned(),
        quantity: quantity_from(cells.required_text("quantity", row)?)?,
        method: method_from(cells.required_text("method", row)?)?,
        tick: cells.f64("tick_s", row)?.map(Seconds),
        // runs of format 1 have no such column, and no source that lags
        lag: Seconds(if cells.has("lag_s") { cells.f64("lag_s", row)?.unwrap_or_default() } else { 0.0 }),
        samples: Vec::new(),
    })
}

fn method_from(text: &str) -> Result<EnergyMethod> {
    EnergyMethod::from_code(text).ok_or_else(|| Error::new(format!("unknown energy method `{text}`")))
}

fn quantity_from(text: &str) -> Result<Quantity> {
    Quantity::from_code(text).ok_or_else(|| Error::new(format!("unknown quantity `{text}`")))
}

/// Typed access to single cells of a table, with the column's name in every error.
pub struct Cells<'a>(pub &'a DataFrame);

impl<'a> Cells<'a> {
    /// Whether there is such a column.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.schema().contains(name)
    }

    /// A number; `None` if it is null.
    ///
    /// # Errors
    /// The column is missing or has another type.
    pub fn f64(&self, name: &str, row: usize) -> Result<Option<f64>> {
        Ok(self.0.column(name).and_then(|column| column.f64()).context(|| column(name))?.get(row))
    }

    /// An integer; `None` if it is null.
    ///
    /// # Errors
    /// The column is missing or has another type.
    pub fn i64(&self, name: &str, row: usize) -> Result<Option<i64>> {
        Ok(self.0.column(name).and_then(|column| column.i64()).context(|| column(name))?.get(row))
    }

    /// A truth value; `None` if it is null.
    ///
    /// # Errors
    /// The column is missing or has another type.
    pub fn bool(&self, name: &str, row: usize) -> Result<Option<bool>> {
        Ok(self.0.column(name).and_then(|column| column.bool()).context(|| column(name))?.get(row))
    }

    /// A text; `None` if it is null.
    ///
    /// # Errors
    /// The column is missing or has another type.
    pub fn text(&self, name: &str, row: usize) -> Result<Option<&'a str>> {
        Ok(self.0.column(name).and_then(|column| column.str()).context(|| column(name))?.get(row))
    }

    /// A text that must be there.
    ///
    /// # Errors
    /// The column is missing, has another type, or is null in this row.
    pub(crate) fn required_text(&self, name: &str, row: usize) -> Result<&'a str> {
        self.text(name, row)?.ok_or_else(|| Error::new(format!("column `{name}` is null in row {row}")))
    }
}

fn column(name: &str) -> String {
    format!("column `{name}`")
}

fn cant_read(path: &Path) -> String {
    format!("can't read `{}`", path.display())
}

fn cant_write(path: &Path) -> String {
    format!("can't write `{}`", path.display())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("ept-sweep-table-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn source(domain: &str, quantity: Quantity, tick: Option<f64>, samples: &[(f64, f64)]) -> SourceTrace {
        SourceTrace {
            domain: domain.to_owned(),
            quantity,
            method: EnergyMethod::Counter,
            tick: tick.map(Seconds),
            lag: Seconds(0.0),
            samples: samples.iter().map(|&(t, value)| Sample { t: Seconds(t), value }).collect(),
        }
    }

    #[test]
    fn samples_come_back_bit_for_bit_even_from_empty_and_equal_sources() {
        let trace = Trace {
            sources: vec![
                source("gpu0", Quantity::EnergyCounter, Some(0.1), &[(0.1 + 0.2, 1e300), (1.0 / 3.0, 5e-324)]),
                source("gpu0", Quantity::Power, None, &[]),
                source("gpu0", Quantity::Power, None, &[]),
                source("gpu,\"1\"\n", Quantity::Power, Some(0.02), &[(-0.0, f64::MAX)]),
                source("gpu,\"1\"\n", Quantity::Power, Some(0.02), &[(2.0, 3.0)]),
            ],
        };
        let path = folder("samples").join("a.parquet");
        write_samples(&path, &trace).unwrap();
        assert_eq!(read_samples(&path).unwrap(), trace);
    }

    #[test]
    fn a_trace_without_sources_comes_back_empty() {
        let path = folder("empty").join("a.parquet");
        write_samples(&path, &Trace::default()).unwrap();
        assert_eq!(read_samples(&path).unwrap(), Trace::default());
    }

    #[test]
    fn a_csv_comes_back_with_full_precision_and_tells_null_from_empty() {
        let table = DataFrame::new(
            3,
            vec![
                Column::new("x_j".into(), vec![Some(0.1 + 0.2), None, Some(1.0 / 3.0)]),
                Column::new("n".into(), vec![Some(1i64), Some(-7), None]),
                Column::new("text".into(), vec![Some("a,\"b\"\nc"), Some(""), None]),
                Column::new("nothing".into(), vec![None::<f64>, None, None]),
            ],
        )
        .unwrap();
        let path = folder("csv").join("a.csv");
        write_csv(&path, &table).unwrap();
        let back = read_csv(&path, Some(table.schema().clone())).unwrap();
        assert!(back.equals_missing(&table), "{}", fs::read_to_string(&path).unwrap());
    }

    #[test]
    fn writing_leaves_no_temporary_file_and_replaces_the_old_one() {
        let folder = folder("atomic");
        let path = folder.join("a.csv");
        let table = |x: f64| DataFrame::new(1, vec![Column::new("x".into(), vec![x])]).unwrap();
        write_csv(&path, &table(1.0)).unwrap();
        write_csv(&path, &table(2.5)).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "x\n2.5\n");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    }

    #[test]
    fn an_error_names_the_file() {
        let error = read_parquet(Path::new("/nowhere/a.parquet")).unwrap_err();
        assert!(error.message().starts_with("can't read `/nowhere/a.parquet`"), "{error}");
        let error = write_csv(Path::new("/nowhere/a.csv"), &DataFrame::empty()).unwrap_err();
        assert!(error.message().starts_with("can't write `/nowhere/a.csv`"), "{error}");
    }
}
