//! Comparing two models of one run, or the same models across runs.
//!
//! Within a run both sides met in every block, and the block is the unit. Across runs everything that differs
//! between two runs (temperature, other load, driver) is in the difference, and no number of repeats inside a run
//! shows how large it is: the run is the unit, and with one run a side no verdict is given.

use std::collections::BTreeSet;

use polars::prelude::DataFrame;

use super::accuracy::{Scores, exact_match_difference, of_compared_cells, rouge_l_difference};
use super::comparison::{Design, Effect, Unit, Units, compare_family, compare_one, effect, over_cells};
use super::trials::{CellTrials, Trials};
use super::{Comparison, Estimate, Verdict};
use crate::error::{Error, Result};
use crate::record::{CellSpec, Decoding, EnergyMethod, Evaluation, OutputLength, RunInfo};
use crate::stats::mean;

/// What is known of one run.
#[derive(Debug, Clone, Copy)]
pub struct Measured<'a> {
    /// What was asked for.
    pub run: &'a RunInfo,
    /// The tidy frame.
    pub frame: &'a DataFrame,
    /// The evaluations.
    pub evaluations: &'a [Evaluation],
}

/// Which models of two sides are compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Labels {
    /// One model of each side.
    Pair {
        /// Label in the base runs.
        base: String,
        /// Label in the new runs.
        new: String,
    },
    /// Every model that all runs have, with itself.
    Common,
}

/// New against base.
#[derive(Debug, Clone, PartialEq)]
pub struct Diff {
    /// One entry for each cell that both sides planned.
    pub rows: Vec<DiffRow>,
    /// One entry for each pair of models: over all cells in which both have a valid energy.
    pub overall: Vec<DiffOverall>,
    /// One entry for each pair of models and output length at which both were evaluated.
    pub accuracy: Vec<DiffAccuracy>,
    /// Cells that only one side planned.
    pub unmatched: Vec<String>,
    /// What the unit of replication is.
    pub basis: Basis,
    /// How the tokens of the base were chosen, where that is known.
    pub base_decoding: Option<Decoding>,
    /// How the tokens of the new side were chosen, where that is known.
    pub new_decoding: Option<Decoding>,
}

/// What a comparison rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Basis {
    /// Both sides are of one run: the block is the unit.
    WithinRun,
    /// The sides are of different runs: the run is the unit, where there are several on both sides.
    AcrossRuns {
        /// Number of base runs.
        base_runs: usize,
        /// Number of new runs.
        new_runs: usize,
    },
}

/// Two cells of equal batch size and output length.
#[derive(Debug, Clone, PartialEq)]
pub struct DiffRow {
    /// Label of the base model.
    pub base: String,
    /// Label of the new model.
    pub new: String,
    /// Batch size of both.
    pub batch_size: usize,
    /// Output length of both.
    pub max_new_tokens: usize,
    /// When a sequence ends, in both.
    pub output_length: OutputLength,
    /// Joules per output token of the base.
    pub base_ept_out_j: Option<Estimate>,
    /// Joules per output token of the new one.
    pub new_ept_out_j: Option<Estimate>,
    /// New against base.
    pub comparison: Comparison,
    /// Why the verdict is inconclusive, where it is.
    pub undecided: Option<Undecided>,
}

/// Two models over all their cells: the geometric mean of the ratios.
#[derive(Debug, Clone, PartialEq)]
pub struct DiffOverall {
    /// Label of the base model.
    pub base: String,
    /// Label of the new model.
    pub new: String,
    /// Number of cells.
    pub cells: usize,
    /// New against base.
    pub comparison: Comparison,
    /// Why the verdict is inconclusive, where it is.
    pub undecided: Option<Undecided>,
}

/// Difference of accuracy at one output length, paired over prompts: how far it holds for other prompts.
#[derive(Debug, Clone, PartialEq)]
pub struct DiffAccuracy {
    /// Label of the base model.
    pub base: String,
    /// Label of the new model.
    pub new: String,
    /// Output length of both.
    pub max_new_tokens: usize,
    /// Exact match, new − base; `None` where the prompts aren't the same.
    pub exact_match: Option<Estimate>,
    /// Mean ROUGE-L, new − base; `None` where the prompts aren't the same.
    pub rouge_l: Option<Estimate>,
}

/// Why a comparison has no verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Undecided {
    /// One side has no valid energy.
    NoEnergy,
    /// The energies come from different methods.
    MixedMethods,
    /// Different runs, and not several of them on both sides.
    OneRunASide,
    /// One unit of replication has no spread.
    OneUnit,
    /// The interval allows for more than one verdict.
    TooUncertain,
}

/// Compares two models of one run, cell by cell.
///
/// # Errors
/// The run has no such model, or its frame can't be read.
pub fn within_run(measured: &Measured<'_>, base: &str, new: &str, floor: f64) -> Result<Diff> {
    let side = Side::read(std::slice::from_ref(measured))?;
    let labels = Labels::Pair { base: base.to_owned(), new: new.to_owned() };
    Comparing { base: &side, new: &side, basis: Basis::WithinRun, floor }.diff(&labels)
}

/// Compares models of `base` runs with models of `new` runs, cell by cell.
///
/// With two or more runs on each side, a run's mean of log energies is one unit (Welch). With one run a side the
/// interval is that within the runs, and the verdict stays inconclusive.
///
/// # Errors
/// A side has no run, a run lacks the model, no model is common, or a frame can't be read.
pub fn across_runs(base: &[Measured<'_>], new: &[Measured<'_>], labels: &Labels, floor: f64) -> Result<Diff> {
    if base.is_empty() || new.is_empty() {
        return Err(Error::input("a comparison needs at least one run on each side"));
    }
    let basis = Basis::AcrossRuns { base_runs: base.len(), new_runs: new.len() };
    Comparing { base: &Side::read(base)?, new: &Side::read(new)?, basis, floor }.diff(labels)
}

/// The runs of one side.
struct Side<'a> {
    runs: Vec<(&'a RunInfo, Trials<'a>)>,
    scores: Scores<'a>,
}

impl<'a> Side<'a> {
    fn read(runs: &[Measured<'a>]) -> Result<Self> {
        let read = |measured: &Measured<'a>| Ok((measured.run, Trials::read(measured.run, measured.frame)?));
        let compared = |measured: &Measured<'a>| of_compared_cells(measured.run, measured.evaluations);
        let scores = Scores::of(runs.iter().flat_map(compared));
        Ok(Self { runs: runs.iter().map(read).collect::<Result<_>>()?, scores })
    }

    /// The one decoding of the side's runs, which is that of all their cells.
    fn decoding(&self) -> Result<Option<Decoding>> {
        let mut decodings = self.runs.iter().flat_map(|(run, _)| &run.cells).map(|cell| cell.decoding);
        let first = decodings.next();
        match decodings.find(|decoding| Some(*decoding) != first) {
            None => Ok(first),
            Some(other) => {
                let first = first.unwrap_or_default();
                let message = format!("the runs of one side decode differently: {first}, and {other}");
                Err(Error::input(message).hint("pool only runs of the same decoding"))
            }
        }
    }

    fn require(&self, label: &str) -> Result<()> {
        for (run, _) in &self.runs {
            if !run.models.iter().any(|model| model.label == label) {
                let known = run.models.iter().map(|model| format!("`{}`", model.label)).collect::<Vec<_>>().join(", ");
                let message = format!("run `{}` has no model `{label}`", run.name);
                return Err(Error::input(message).hint(format!("its models are {known}")));
            }
        }
        Ok(())
    }

    /// The cells of a model that some run planned, one for each set of axes.
    fn specs(&self, label: &str) -> Vec<&'a CellSpec> {
        let mut specs: Vec<&CellSpec> = Vec::new();
        let compared = |spec: &&CellSpec| spec.model == label && !spec.probe;
        for spec in self.runs.iter().flat_map(|(run, _)| &run.cells).filter(compared) {
            if !specs.iter().any(|known| same_cell(known, spec)) {
                specs.push(spec);
            }
        }
        specs
    }

    fn cell(&self, spec: &CellSpec, label: &str) -> SideCell<'_> {
        let numbered = (0u32..).zip(&self.runs);
        SideCell(numbered.filter_map(|(run, (_, trials))| Some((run, trials.counterpart(spec, label)?))).collect())
    }
}

fn same_cell(a: &CellSpec, b: &CellSpec) -> bool {
    let axes = |spec: &CellSpec| (spec.batch_size, spec.max_new_tokens, spec.output_length, spec.dtype.clone());
    axes(a) == axes(b)
}

/// One cell in each run of a side that planned it, with the run's number.
struct SideCell<'a>(Vec<(u32, &'a CellTrials<'a>)>);

impl SideCell<'_> {
    fn has_energy(&self) -> bool {
        self.0.iter().any(|(_, cell)| cell.valid().any(|(_, window)| window.ept_out().is_some()))
    }

    /// The methods of all valid energies; `None` stands for a mixture inside a run.
    fn methods(&self) -> BTreeSet<Option<EnergyMethod>> {
        let with_energy = |cell: &CellTrials<'_>| cell.valid().any(|(_, window)| window.energy_j.is_some());
        self.0.iter().filter(|(_, cell)| with_energy(cell)).map(|(_, cell)| cell.method()).collect()
    }

    /// Units by block, or by run where the run is the unit.
    fn units(&self, by_run: bool) -> Units {
        if by_run {
            let of_run = |cell: &CellTrials<'_>| Unit::mean(&cell.units().into_values().collect::<Vec<_>>());
            return self.0.iter().filter_map(|(run, cell)| Some((*run, of_run(cell)?))).collect();
        }
        self.0.first().map(|(_, cell)| cell.units()).unwrap_or_default()
    }
}

/// Two cells that are compared.
struct Pair<'a> {
    spec: &'a CellSpec,
    base: SideCell<'a>,
    new: SideCell<'a>,
}

impl Pair<'_> {
    fn obstacle(&self) -> Option<Undecided> {
        if !self.base.has_energy() || !self.new.has_energy() {
            return Some(Undecided::NoEnergy);
        }
        obstacle_of_methods(&(&self.base.methods() | &self.new.methods()))
    }
}

fn obstacle_of_methods(methods: &BTreeSet<Option<EnergyMethod>>) -> Option<Undecided> {
    (methods.len() > 1 || methods.contains(&None)).then_some(Undecided::MixedMethods)
}

struct Comparing<'a> {
    base: &'a Side<'a>,
    new: &'a Side<'a>,
    basis: Basis,
    floor: f64,
}

impl<'a> Comparing<'a> {
    fn diff(&self, labels: &Labels) -> Result<Diff> {
        let mut diff = Diff {
            rows: Vec::new(),
            overall: Vec::new(),
            accuracy: Vec::new(),
            unmatched: Vec::new(),
            basis: self.basis,
            base_decoding: self.base.decoding()?,
            new_decoding: self.new.decoding()?,
        };
        for (base, new) in self.label_pairs(labels)? {
            let (pairs, unmatched) = self.pairs(&base, &new);
            diff.rows.extend(self.rows(&base, &new, &pairs));
            diff.overall.push(self.overall(&base, &new, &pairs));
            diff.accuracy.extend(self.accuracy(&base, &new));
            diff.unmatched.extend(unmatched);
        }
        Ok(diff)
    }

    fn label_pairs(&self, labels: &Labels) -> Result<Vec<(String, String)>> {
        match labels {
            Labels::Pair { base, new } => {
                self.base.require(base)?;
                self.new.require(new)?;
                Ok(vec![(base.clone(), new.clone())])
            }
            Labels::Common => self.common_labels(),
        }
    }

    fn common_labels(&self) -> Result<Vec<(String, String)>> {
        let in_all = |label: &&String| self.base.require(label).is_ok() && self.new.require(label).is_ok();
        let first = self.base.runs.iter().take(1).flat_map(|(run, _)| run.models.iter().map(|model| &model.label));
        let common: Vec<_> = first.filter(in_all).map(|label| (label.clone(), label.clone())).collect();
        if common.is_empty() {
            return Err(Error::input("the runs have no model in common").hint("name one model of each side"));
        }
        Ok(common)
    }

    /// Cells that both sides planned, and names of those that only one side did.
    fn pairs(&self, base: &str, new: &str) -> (Vec<Pair<'a>>, Vec<String>) {
        let (base_side, new_side) = (self.base, self.new);
        let pair = |spec| Pair { spec, base: base_side.cell(spec, base), new: new_side.cell(spec, new) };
        let (pairs, alone): (Vec<_>, Vec<_>) =
            base_side.specs(base).into_iter().map(pair).partition(|pair| !pair.new.0.is_empty());
        let only_new = new_side.specs(new).into_iter().filter(|spec| base_side.cell(spec, base).0.is_empty());
        let unmatched = alone.iter().map(|pair| pair.spec).chain(only_new).map(|spec| spec.id.0.clone()).collect();
        (pairs, unmatched)
    }

    fn rows(&self, base: &str, new: &str, pairs: &[Pair<'_>]) -> Vec<DiffRow> {
        let effects: Vec<_> = pairs.iter().map(|pair| self.effect(pair)).collect();
        let comparisons = compare_family(&effects, self.floor);
        let row = |(pair, comparison): (&Pair<'_>, Comparison)| {
            let (comparison, undecided) = self.judge(comparison, pair.obstacle());
            DiffRow {
                base: base.to_owned(),
                new: new.to_owned(),
                batch_size: pair.spec.batch_size,
                max_new_tokens: pair.spec.max_new_tokens,
                output_length: pair.spec.output_length,
                base_ept_out_j: self.ept_out(&pair.base),
                new_ept_out_j: self.ept_out(&pair.new),
                comparison,
                undecided,
            }
        };
        pairs.iter().zip(comparisons).map(row).collect()
    }

    fn effect(&self, pair: &Pair<'_>) -> Option<Effect> {
        if pair.obstacle().is_some() {
            return None;
        }
        effect(&pair.base.units(self.by_run()), &pair.new.units(self.by_run()), self.design())
    }

    fn ept_out(&self, cell: &SideCell<'_>) -> Option<Estimate> {
        if obstacle_of_methods(&cell.methods()).is_some() {
            return None;
        }
        mean(&cell.units(self.by_run()).values().map(|unit| unit.joules).collect::<Vec<_>>())
    }

    fn overall(&self, base: &str, new: &str, pairs: &[Pair<'_>]) -> DiffOverall {
        let shared: Vec<_> = pairs.iter().filter(|pair| pair.obstacle() != Some(Undecided::NoEnergy)).collect();
        let methods = shared.iter().flat_map(|pair| &pair.base.methods() | &pair.new.methods()).collect();
        let obstacle = if shared.is_empty() { Some(Undecided::NoEnergy) } else { obstacle_of_methods(&methods) };
        let effect = if obstacle.is_none() { self.effect_over(&shared) } else { None };
        let (comparison, undecided) = self.judge(compare_one(effect, self.floor), obstacle);
        DiffOverall { base: base.to_owned(), new: new.to_owned(), cells: shared.len(), comparison, undecided }
    }

    /// Only units in which every shared cell is valid count; within a run, on both sides.
    fn effect_over(&self, shared: &[&Pair<'_>]) -> Option<Effect> {
        let by_run = self.by_run();
        let base: Vec<Units> = shared.iter().map(|pair| pair.base.units(by_run)).collect();
        let new: Vec<Units> = shared.iter().map(|pair| pair.new.units(by_run)).collect();
        let design = if self.basis == Basis::WithinRun { Design::Paired } else { Design::Independent };
        effect(&over_cells(&base), &over_cells(&new), design)
    }

    fn accuracy(&self, base: &str, new: &str) -> Vec<DiffAccuracy> {
        let lengths = &self.base.scores.lengths(base) & &self.new.scores.lengths(new);
        let difference = |max_new_tokens: usize| {
            let of_base = self.base.scores.at_length(base, max_new_tokens)?;
            let of_new = self.new.scores.at_length(new, max_new_tokens)?;
            Some(DiffAccuracy {
                base: base.to_owned(),
                new: new.to_owned(),
                max_new_tokens,
                exact_match: exact_match_difference(of_base, of_new),
                rouge_l: rouge_l_difference(of_base, of_new),
            })
        };
        lengths.into_iter().filter_map(difference).collect()
    }

    /// Takes the verdict back where the basis doesn't carry one, and says why there is none.
    fn judge(&self, comparison: Comparison, obstacle: Option<Undecided>) -> (Comparison, Option<Undecided>) {
        if obstacle.is_some() {
            return (comparison, obstacle);
        }
        if self.one_run_a_side() {
            let comparison = Comparison { p_adjusted: None, verdict: Verdict::Inconclusive, ..comparison };
            return (comparison, Some(Undecided::OneRunASide));
        }
        let undecided = match (comparison.verdict, &comparison.ratio) {
            (Verdict::Inconclusive, None) => Some(Undecided::NoEnergy),
            (Verdict::Inconclusive, Some(Estimate { interval: None, .. })) => Some(Undecided::OneUnit),
            (Verdict::Inconclusive, Some(_)) => Some(Undecided::TooUncertain),
            _ => None,
        };
        (comparison, undecided)
    }

    fn one_run_a_side(&self) -> bool {
        matches!(self.basis, Basis::AcrossRuns { base_runs, new_runs } if base_runs < 2 || new_runs < 2)
    }

    /// The run is the unit as soon as one side has several.
    fn by_run(&self) -> bool {
        matches!(self.basis, Basis::AcrossRuns { base_runs, new_runs } if base_runs > 1 || new_runs > 1)
    }

    fn design(&self) -> Design {
        match self.basis {
            Basis::WithinRun => Design::PairedOrIndependent,
            Basis::AcrossRuns { .. } => Design::Independent,
        }
    }
}
