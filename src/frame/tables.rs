//! A run as tables: built once from its records, grouped and counted by polars.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use polars::prelude::{BooleanChunked, Column, DataFrame, ExplodeOptions, PolarsResult};

use super::columns::COLUMNS;
use super::join::{Row, rows};
use super::view::{self, CellTrials, Course, TrialRow};
use crate::error::{Context as _, Error, Result};
use crate::record::{Baseline, CellSpec, EnergyMethod, Evaluation, Reason, RunInfo, Trial};
use crate::table::Cells;

/// A run as tables: its planned cells, and its trials with everything that belongs to them.
#[derive(Debug, Clone)]
pub struct Frame {
    /// One row for each cell of the plan.
    pub(super) plan: DataFrame,
    /// One row for each trial, with the columns of [`COLUMNS`].
    pub(super) trials: DataFrame,
    /// The warm-ups of the valid trials, where they were recorded: a curve each, which no column holds.
    courses: Vec<Course>,
}

impl Frame {
    /// Trials are in the order of the plan and then of the blocks, measured, failed or skipped.
    ///
    /// # Errors
    /// A trial belongs to no cell of the plan, two valid trials of a cell are in one block, or a table can't be built.
    pub fn build(run: &RunInfo, trials: &[Trial], evaluations: &[Evaluation], baselines: &[Baseline]) -> Result<Self> {
        let rows = rows(run, trials, evaluations, baselines);
        refuse_strangers(run, &rows)?;
        refuse_doubles(&rows)?;
        let columns: PolarsResult<Vec<Column>> = COLUMNS.iter().map(|column| column.of(&rows)).collect();
        let trials = columns.and_then(|columns| DataFrame::new(rows.len(), columns));
        let courses = rows.iter().filter_map(course).collect();
        Ok(Self { plan: plan(&run.cells).context(cant_build)?, trials: trials.context(cant_build)?, courses })
    }

    /// The warm-ups of the valid trials, in the order of the trials.
    pub(crate) fn courses(&self) -> &[Course] {
        &self.courses
    }

    /// The trials, as stored in `results.parquet`.
    pub fn trials(&self) -> &DataFrame {
        &self.trials
    }

    /// The cells of the plan in its order, each with its trials.
    ///
    /// # Errors
    /// The table lacks a column.
    pub(crate) fn cells<'a>(&self, run: &'a RunInfo) -> Result<Vec<CellTrials<'a>>> {
        let groups = self.trials.partition_by_stable(["cell"], true).context(cant_group)?;
        let id = |group: &DataFrame| Ok::<_, Error>(Cells(group).required_text("cell", 0)?.to_owned());
        let named = groups.iter().map(|group| Ok((id(group)?, view::trials(group)?)));
        let mut of_cell: HashMap<String, Vec<TrialRow>> = named.collect::<Result<_>>()?;
        let cell = |spec: &'a CellSpec| CellTrials {
            spec,
            model: run.models.iter().find(|model| model.label == spec.model),
            trials: of_cell.remove(&spec.id.0).unwrap_or_default(),
        };
        Ok(run.cells.iter().map(cell).collect())
    }

    /// How many trials each reason makes unusable, and how many it only warns of.
    ///
    /// # Errors
    /// The table lacks a column.
    pub(crate) fn reasons(&self) -> Result<BTreeMap<Reason, (usize, usize)>> {
        let mut counts: BTreeMap<Reason, (usize, usize)> = BTreeMap::new();
        for (reason, n) in self.occurrences("invalid_reasons")? {
            counts.entry(reason).or_default().0 = n;
        }
        for (reason, n) in self.occurrences("warnings")? {
            counts.entry(reason).or_default().1 = n;
        }
        Ok(counts)
    }

    /// How often each code is in a column of lists.
    fn occurrences(&self, name: &str) -> Result<Vec<(Reason, usize)>> {
        let each = ExplodeOptions { empty_as_null: false, keep_nulls: false };
        let exploded =
            self.trials.select([name]).and_then(|column| column.explode([name], each)).context(cant_group)?;
        let groups = exploded.partition_by_stable([name], true).context(cant_group)?;
        let count = |group: &DataFrame| Ok((view::reason(name, Cells(group).required_text(name, 0)?)?, group.height()));
        groups.iter().filter(|group| group.height() > 0).map(count).collect()
    }

    /// Methods of the energies of valid trials in compared cells; more than one is a mixture that is never pooled.
    ///
    /// # Errors
    /// The table lacks a column.
    pub(crate) fn methods(&self) -> Result<BTreeSet<EnergyMethod>> {
        let energies = self.energies()?;
        let cells = Cells(&energies);
        (0..energies.height()).filter_map(|row| view::method(&cells, row).transpose()).collect()
    }

    /// Valid trials with an energy, probes left out.
    pub(super) fn energies(&self) -> Result<DataFrame> {
        let usable = || -> PolarsResult<DataFrame> {
            let valid: &BooleanChunked = self.trials.column("valid")?.bool()?;
            let compared = !self.trials.column("probe")?.bool()?;
            let known = self.trials.column("E_run_J")?.is_not_null();
            self.trials.filter(&(valid & &compared & known))
        };
        usable().context(cant_group)
    }
}

fn course(row: &Row<'_>) -> Option<Course> {
    let valid = row.validity.as_ref().is_some_and(|validity| validity.is_valid());
    let heat = row.measurement()?.heat.as_ref().filter(|_| valid)?;
    Some(Course(heat.cycles.clone()))
}

/// The axes of planned cells, as polars joins them.
fn plan(cells: &[CellSpec]) -> PolarsResult<DataFrame> {
    let texts = |get: fn(&CellSpec) -> String| cells.iter().map(get).collect::<Vec<_>>();
    let wholes = |get: fn(&CellSpec) -> usize| cells.iter().map(|cell| get(cell) as i64).collect::<Vec<_>>();
    let columns = vec![
        Column::new("cell".into(), texts(|cell| cell.id.0.clone())),
        Column::new("model".into(), texts(|cell| cell.model.clone())),
        Column::new("batch_size".into(), wholes(|cell| cell.batch_size)),
        Column::new("max_new_tokens".into(), wholes(|cell| cell.max_new_tokens)),
        Column::new("output_length".into(), texts(|cell| cell.output_length.code().to_owned())),
        Column::new("dtype".into(), texts(|cell| cell.dtype.clone())),
        Column::new("probe".into(), cells.iter().map(|cell| cell.probe).collect::<Vec<_>>()),
    ];
    DataFrame::new(cells.len(), columns)
}

fn refuse_strangers(run: &RunInfo, rows: &[Row<'_>]) -> Result<()> {
    let planned: BTreeSet<_> = run.cells.iter().map(|cell| &cell.id).collect();
    match rows.iter().map(|row| &row.trial.cell.id).find(|id| !planned.contains(id)) {
        None => Ok(()),
        Some(id) => Err(Error::new(format!("the results have a trial of cell `{id}`, which isn't in the run's plan"))),
    }
}

fn refuse_doubles(rows: &[Row<'_>]) -> Result<()> {
    let mut seen = BTreeSet::new();
    let valid = rows.iter().filter(|row| row.validity.as_ref().is_some_and(|validity| validity.is_valid()));
    for key in valid.map(|row| row.trial.key()) {
        if !seen.insert(key.clone()) {
            let message = format!("cell `{}` has two valid trials in block {}", key.cell, key.block);
            return Err(Error::new(message).with_hint("the same run may have been merged twice"));
        }
    }
    Ok(())
}

fn cant_build() -> String {
    "can't build the table of results".to_owned()
}

fn cant_group() -> String {
    "can't group the table of results".to_owned()
}
