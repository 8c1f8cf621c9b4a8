//! Recomputed energies next to the stored ones: by window, and by cell over its repeats. Pure: the caller recomputes.

use polars::prelude::{Column, DataFrame};
use serde::Serialize;

use crate::error::{Context, Result};
use crate::record::{Reason, TrialKey, Validity};
use crate::stats::Contrast;
use crate::units::{Joules, Seconds, Watts};

/// The energy of a window, or of a part of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Drawn {
    /// `None` if the source of the method has no readings.
    pub(crate) energy: Option<Joules>,
    /// How long the window, or the part, is.
    pub(crate) duration: Seconds,
}

/// A window as stored and as recomputed. The names are the keys of the JSON output.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct WindowRow {
    pub(crate) cell: String,
    pub(crate) block: u32,
    pub(crate) stored_j: Option<Joules>,
    pub(crate) recomputed_j: Option<Joules>,
    /// (recomputed − stored) / stored.
    pub(crate) difference: Option<f64>,
    /// Of what was recomputed.
    pub(crate) duration_s: Seconds,
    /// Mean power of the stored window.
    pub(crate) stored_w: Option<Watts>,
    /// Mean power of what was recomputed.
    pub(crate) recomputed_w: Option<Watts>,
    /// Disagreement of the two sources, as a share.
    pub(crate) residual: Option<f64>,
    pub(crate) valid: bool,
    pub(crate) invalid_reasons: Vec<Reason>,
    pub(crate) warnings: Vec<Reason>,
    /// Fields of the record that come out differently.
    pub(crate) differs: Vec<String>,
}

/// A cell over its repeats, in joules or in watts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct CellRow {
    pub(crate) cell: String,
    /// Repeats with both figures.
    pub(crate) n: usize,
    pub(crate) stored_mean: f64,
    /// Standard deviation; `None` at n = 1.
    pub(crate) stored_sd: Option<f64>,
    pub(crate) recomputed_mean: f64,
    pub(crate) recomputed_sd: Option<f64>,
    /// (recomputed − stored) / stored of the means.
    pub(crate) difference: f64,
}

/// The figure that is compared over the repeats of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum Unit {
    /// Energy of the whole window.
    #[serde(rename = "J")]
    Joules,
    /// Mean power: parts of windows have different lengths.
    #[serde(rename = "W")]
    Watts,
}

impl WindowRow {
    /// Compares a window with itself, recomputed.
    pub(crate) fn new(
        key: &TrialKey,
        stored: Drawn,
        recomputed: Drawn,
        residual: Option<f64>,
        validity: Validity,
    ) -> Self {
        let power = |drawn: Drawn| drawn.energy.map(|energy| energy / drawn.duration);
        let energies = stored.energy.zip(recomputed.energy);
        Self {
            cell: key.cell.0.clone(),
            block: key.block,
            stored_j: stored.energy,
            recomputed_j: recomputed.energy,
            difference: energies.and_then(|(before, after)| change(before.get(), after.get())),
            duration_s: recomputed.duration,
            stored_w: power(stored),
            recomputed_w: power(recomputed),
            residual,
            valid: validity.is_valid(),
            invalid_reasons: validity.invalid_reasons,
            warnings: validity.warnings,
            differs: Vec::new(),
        }
    }

    /// Change of the mean power, (recomputed − stored) / stored.
    pub(crate) fn power_difference(&self) -> Option<f64> {
        self.stored_w.zip(self.recomputed_w).and_then(|(before, after)| change(before.get(), after.get()))
    }

    /// Whether the energy is the stored one to the last bit, with all its domains and sources.
    pub(crate) fn is_same_energy(&self) -> bool {
        !self.differs.iter().any(|field| field.starts_with("energy"))
    }

    fn figures(&self, unit: Unit) -> Option<(f64, f64)> {
        match unit {
            Unit::Joules => Some((self.stored_j?.get(), self.recomputed_j?.get())),
            Unit::Watts => Some((self.stored_w?.get(), self.recomputed_w?.get())),
        }
    }
}

/// Means and standard deviations of the cells, over the repeats that have both figures. The rows of a cell follow one
/// another.
pub(crate) fn by_cell(rows: &[WindowRow], unit: Unit) -> Vec<CellRow> {
    let cell = |rows: &[WindowRow]| {
        let (stored, recomputed): (Vec<f64>, Vec<f64>) = rows.iter().filter_map(|row| row.figures(unit)).unzip();
        let (stored_mean, stored_sd) = mean_and_deviation(&stored)?;
        let (recomputed_mean, recomputed_sd) = mean_and_deviation(&recomputed)?;
        let difference = change(stored_mean, recomputed_mean)?;
        let (cell, n) = (rows.first()?.cell.clone(), stored.len());
        Some(CellRow { cell, n, stored_mean, stored_sd, recomputed_mean, recomputed_sd, difference })
    };
    rows.chunk_by(|a, b| a.cell == b.cell).filter_map(cell).collect()
}

/// One row for each window, with the unit in each column's name; unknown is null. `method` names the estimate.
///
/// # Errors
/// The table can't be built.
pub(crate) fn table(rows: &[WindowRow], method: &str) -> Result<DataFrame> {
    let numbers = |get: fn(&WindowRow) -> Option<f64>| rows.iter().map(get).collect::<Vec<_>>();
    let texts = |get: fn(&WindowRow) -> String| rows.iter().map(get).collect::<Vec<_>>();
    let columns = vec![
        Column::new("cell".into(), texts(|row| row.cell.clone())),
        Column::new("block".into(), rows.iter().map(|row| row.block).collect::<Vec<u32>>()),
        Column::new("method".into(), vec![method; rows.len()]),
        Column::new("duration_s".into(), numbers(|row| Some(row.duration_s.get()))),
        Column::new("stored_J".into(), numbers(|row| row.stored_j.map(Joules::get))),
        Column::new("recomputed_J".into(), numbers(|row| row.recomputed_j.map(Joules::get))),
        Column::new("difference".into(), numbers(|row| row.difference)),
        Column::new("stored_W".into(), numbers(|row| row.stored_w.map(Watts::get))),
        Column::new("recomputed_W".into(), numbers(|row| row.recomputed_w.map(Watts::get))),
        Column::new("residual".into(), numbers(|row| row.residual)),
        Column::new("valid".into(), rows.iter().map(|row| row.valid).collect::<Vec<bool>>()),
        Column::new("invalid_reasons".into(), texts(|row| codes(&row.invalid_reasons))),
        Column::new("warnings".into(), texts(|row| codes(&row.warnings))),
        Column::new("differs".into(), texts(|row| row.differs.join(" "))),
    ];
    DataFrame::new(rows.len(), columns).context(|| "can't build the table of recomputed windows")
}

fn codes(reasons: &[Reason]) -> String {
    reasons.iter().map(|reason| reason.code()).collect::<Vec<_>>().join(" ")
}

/// (after − before) / before.
fn change(before: f64, after: f64) -> Option<f64> {
    (before != 0.0).then(|| (after - before) / before)
}

fn mean_and_deviation(values: &[f64]) -> Option<(f64, Option<f64>)> {
    let mean = Contrast::of_mean(values)?;
    Some((mean.value, mean.spread.map(|spread| spread.standard_error * (values.len() as f64).sqrt())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::CellId;

    fn row(cell: &str, block: u32, stored: Option<f64>, recomputed: Option<f64>) -> WindowRow {
        let drawn = |energy: Option<f64>, seconds| Drawn { energy: energy.map(Joules), duration: Seconds(seconds) };
        let key = TrialKey { cell: CellId(cell.into()), block };
        WindowRow::new(&key, drawn(stored, 10.0), drawn(recomputed, 5.0), None, Validity::default())
    }

    #[test]
    fn a_part_of_a_window_is_compared_by_its_power() {
        let row = row("a", 0, Some(1000.0), Some(550.0));
        assert_eq!((row.stored_w, row.recomputed_w), (Some(Watts(100.0)), Some(Watts(110.0))));
        assert_eq!((row.difference, row.power_difference()), (Some(-0.45), Some(0.1)));
    }

    #[test]
    fn a_change_from_nothing_or_to_nothing_known_is_unknown() {
        for (stored, recomputed) in [(None, Some(1.0)), (Some(1.0), None), (Some(0.0), Some(1.0))] {
            let row = row("a", 0, stored, recomputed);
            assert_eq!((row.difference, row.power_difference()), (None, None));
        }
    }

    #[test]
    fn cells_are_means_and_standard_deviations_of_the_repeats_that_have_both_figures() {
        let rows = [
            row("a", 0, Some(9.0), Some(19.0)),
            row("a", 1, Some(11.0), Some(21.0)),
            row("a", 2, Some(1e9), None),
            row("b", 0, Some(4.0), Some(5.0)),
        ];
        let cells = by_cell(&rows, Unit::Joules);
        assert_eq!(
            (cells[0].n, cells[0].stored_mean, cells[0].recomputed_mean, cells[0].difference),
            (2, 10.0, 20.0, 1.0)
        );
        // s² of two values 2 apart is 2
        assert!((cells[0].stored_sd.unwrap() - 2f64.sqrt()).abs() < 1e-12);
        assert_eq!((cells[1].n, cells[1].stored_sd, cells[1].difference), (1, None, 0.25));
        let watts = by_cell(&rows[3..], Unit::Watts);
        assert_eq!((watts[0].stored_mean, watts[0].recomputed_mean), (0.4, 1.0));
    }

    #[test]
    fn only_a_field_of_the_energy_makes_another_energy() {
        let mut row = row("a", 0, Some(1.0), Some(1.0));
        row.differs = vec!["validity.warnings".into()];
        assert!(row.is_same_energy());
        row.differs.push("energy.domains[0].integral_j".into());
        assert!(!row.is_same_energy());
    }
}
