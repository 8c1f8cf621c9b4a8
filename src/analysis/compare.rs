//! The one comparison of two models, cell by cell and over all cells: students with their teacher within a run, and
//! any two models within a run or across runs.
//!
//! Within a run both sides met in every block, and the block is the unit. A run in the order `by_model` has no such
//! blocks: each model ran in a time and a load of its own, and what differs between those is in the difference. Its
//! windows are independent samples, and no verdict is given. Across runs everything that differs
//! between two runs (temperature, other load, driver) is in the difference, and no number of repeats inside a run
//! shows how large it is: the run is the unit, and with one run a side no verdict is given.

use std::collections::BTreeSet;

use super::at_floor::AtFloor;
use super::comparison::{
    Comparison, Design, Effect, Unit, Units, Verdict, compare_family, compare_one, effect, over_cells,
};
use super::conditions::{PairConditions, Surroundings, unlike_kernels};
use crate::error::Result;
use crate::frame::{CellSide, Energy, Pair, Side};
use crate::record::{EnergyMethod, Order, OutputLength, RunInfo};
use crate::stats::{Estimate, mean};
use crate::vocabulary::vocabulary;

/// What a comparison rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Basis {
    /// Both sides are of one run in this order. In `blocks` the block is the unit; in `by_model` the window is, and there
    /// is no verdict.
    WithinRun(Order),
    /// The sides are of different runs: the run is the unit if there are several on both sides.
    AcrossRuns {
        /// Number of runs on the base side; below 2 there is no verdict.
        base_runs: usize,
        /// Number of runs on the new side; below 2 there is no verdict.
        new_runs: usize,
    },
}

/// Two cells of equal batch size and output length, new against base.
#[derive(Debug, Clone, PartialEq)]
pub struct CellComparison {
    /// Label of the base model.
    pub(crate) base: String,
    /// Label of the new model.
    pub(crate) new: String,
    pub(crate) batch_size: usize,
    pub(crate) max_new_tokens: usize,
    pub(crate) output_length: OutputLength,
    /// Joules per output token of the base.
    pub base_ept_out_j: Option<Estimate>,
    /// Joules per output token of the new one.
    pub new_ept_out_j: Option<Estimate>,
    /// How all energies of both sides were obtained, if it is the same way.
    pub(crate) method: Option<EnergyMethod>,
    /// Its p value is adjusted over all cells of the two models; its numbers are `None` without a common energy.
    pub comparison: Comparison,
    /// Why the verdict is inconclusive, if it is.
    pub undecided: Option<Undecided>,
    /// The same at the energy floor, if that of both is known.
    pub at_floor: Option<AtFloor>,
    /// How warm, how fast and how limited both sides ran.
    pub conditions: PairConditions,
}

impl CellComparison {
    /// Both sides have a valid energy.
    pub(crate) fn is_shared(&self) -> bool {
        self.undecided != Some(Undecided::NoEnergy) || self.comparison.ratio.is_some()
    }
}

/// Two models over all the cells that they share: the geometric mean of the ratios.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelComparison {
    /// Label of the base model.
    pub(crate) base: String,
    /// Label of the new model.
    pub(crate) new: String,
    /// Number of cells in which both have a valid energy.
    pub cells: usize,
    /// How all their energies were obtained, if it is the same way.
    pub(crate) method: Option<EnergyMethod>,
    /// Only blocks or runs in which every shared cell is valid count; its p value needs no adjustment.
    pub comparison: Comparison,
    /// Why the verdict is inconclusive, if it is.
    pub undecided: Option<Undecided>,
    /// The same at the energy floor, if that of both is known in every shared cell.
    pub at_floor: Option<AtFloor>,
}

/// Two models compared.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Compared {
    /// One entry for each cell that both sides planned, in the order of the base. Holm's family.
    pub(crate) cells: Vec<CellComparison>,
    pub(crate) overall: ModelComparison,
    /// Ids of cells that only one side planned.
    pub(crate) alone: Vec<String>,
}

vocabulary! {
    /// Why a comparison has no verdict.
    pub enum Undecided {
        /// One side has no valid energy.
        NoEnergy = "no_energy", "no valid energy on one side";
        /// The energies come from different methods.
        MixedMethods = "mixed_methods", "energies from different methods";
        /// One side ran on plain operations and the other on kernels for the same kind of device: the difference would
        /// be that of the operations as much as that of the models.
        UnlikeKernels = "unlike_kernels", "plain operations on one side only";
        /// Different runs, and not several of them on both sides.
        OneRunASide = "one_run_a_side", "only one run per side";
        /// One run in which each model was loaded once and ran at a time of its own.
        ByModel = "by_model", "order by model";
        /// One unit of replication has no spread.
        OneUnit = "one_unit", "only one repeat";
        /// The interval allows for more than one verdict.
        TooUncertain = "too_uncertain", "too uncertain";
    }
}

/// Two sides, and how they are compared.
pub(crate) struct Comparing<'a> {
    pub(crate) base: &'a Side,
    pub(crate) new: &'a Side,
    /// The runs of the base side.
    pub(crate) base_runs: &'a [&'a RunInfo],
    /// The runs of the new side.
    pub(crate) new_runs: &'a [&'a RunInfo],
    pub(crate) basis: Basis,
    /// Relative difference in energy below which two cells count as equivalent.
    pub(crate) floor: f64,
    pub(crate) around: Surroundings,
}

impl Comparing<'_> {
    /// Compares model `new` of the new side with model `base` of the base side.
    ///
    /// # Errors
    /// A table lacks a column.
    pub(super) fn models(&self, base: &str, new: &str) -> Result<Compared> {
        let matched = self.base.matched(base, self.new, new)?;
        let unlike_kernels = unlike_kernels((self.base_runs, base), (self.new_runs, new));
        let models = Models { base, new, unlike_kernels };
        let effects: Vec<Option<Effect>> = matched.pairs.iter().map(|pair| self.effect(models, pair)).collect();
        let comparisons = compare_family(&effects, self.floor);
        let cells = matched.pairs.iter().zip(comparisons);
        Ok(Compared {
            cells: cells.map(|(pair, comparison)| self.cell(models, pair, comparison)).collect(),
            overall: self.overall(models, &matched.pairs),
            alone: matched.alone,
        })
    }

    fn cell(&self, models: Models<'_>, pair: &Pair, comparison: Comparison) -> CellComparison {
        let (comparison, undecided) = self.judge(comparison, models.obstacle(pair));
        CellComparison {
            at_floor: comparison.ratio.and_then(|_| AtFloor::of(pair)),
            base: models.base.to_owned(),
            new: models.new.to_owned(),
            batch_size: pair.batch_size,
            max_new_tokens: pair.max_new_tokens,
            output_length: pair.output_length,
            base_ept_out_j: self.ept_out(&pair.base),
            new_ept_out_j: self.ept_out(&pair.new),
            method: single(&methods_of(pair)),
            comparison,
            undecided,
            conditions: PairConditions::of(&pair.base, &pair.new, &self.around),
        }
    }

    fn effect(&self, models: Models<'_>, pair: &Pair) -> Option<Effect> {
        if models.obstacle(pair).is_some() {
            return None;
        }
        let design = match self.basis {
            Basis::WithinRun(Order::Blocks) => Design::PairedOrIndependent,
            Basis::WithinRun(Order::ByModel) | Basis::AcrossRuns { .. } => Design::Independent,
        };
        effect(&self.units(&pair.base), &self.units(&pair.new), design)
    }

    fn ept_out(&self, cell: &CellSide) -> Option<Estimate> {
        single(&methods(cell))?;
        mean(&self.units(cell).values().map(|unit| unit.joules).collect::<Vec<_>>())
    }

    fn overall(&self, models: Models<'_>, pairs: &[Pair]) -> ModelComparison {
        let shared: Vec<&Pair> =
            pairs.iter().filter(|pair| models.obstacle(pair) != Some(Undecided::NoEnergy)).collect();
        let methods: BTreeSet<_> = shared.iter().flat_map(|pair| methods_of(pair)).collect();
        let obstacle = if shared.is_empty() { Some(Undecided::NoEnergy) } else { models.mixture(&methods) };
        let effect = if obstacle.is_none() { self.effect_over(&shared) } else { None };
        let (comparison, undecided) = self.judge(compare_one(effect, self.floor), obstacle);
        ModelComparison {
            base: models.base.to_owned(),
            new: models.new.to_owned(),
            cells: shared.len(),
            method: single(&methods),
            at_floor: comparison.ratio.and_then(|_| AtFloor::over(&shared)),
            comparison,
            undecided,
        }
    }

    /// Only units in which every shared cell is valid count; in the blocks of a run, on both sides.
    fn effect_over(&self, shared: &[&Pair]) -> Option<Effect> {
        let base: Vec<Units> = shared.iter().map(|pair| self.units(&pair.base)).collect();
        let new: Vec<Units> = shared.iter().map(|pair| self.units(&pair.new)).collect();
        let met_in_blocks = self.basis == Basis::WithinRun(Order::Blocks);
        let design = if met_in_blocks { Design::Paired } else { Design::Independent };
        effect(&over_cells(&base), &over_cells(&new), design)
    }

    /// Units by block, or by run if the run is the unit.
    fn units(&self, cell: &CellSide) -> Units {
        let of = |energies: &[Energy]| -> Units {
            energies.iter().filter_map(|energy| Some((energy.block, Unit::of(energy.ept_out?.get())?))).collect()
        };
        if self.by_run() {
            let of_run = |energies: &[Energy]| Unit::mean(&of(energies).into_values().collect::<Vec<_>>());
            return cell.0.iter().filter_map(|(run, energies)| Some((*run, of_run(energies)?))).collect();
        }
        cell.0.values().next().map(|energies| of(energies)).unwrap_or_default()
    }

    /// Takes the verdict back if the basis doesn't carry one, and says why there is none.
    fn judge(&self, comparison: Comparison, obstacle: Option<Undecided>) -> (Comparison, Option<Undecided>) {
        if obstacle.is_some() {
            return (comparison, obstacle);
        }
        if let Some(confounded) = self.confounded() {
            let comparison = Comparison { p_adjusted: None, verdict: Verdict::Inconclusive, ..comparison };
            return (comparison, Some(confounded));
        }
        let undecided = match (comparison.verdict, &comparison.ratio) {
            (Verdict::Inconclusive, None) => Some(Undecided::NoEnergy),
            (Verdict::Inconclusive, Some(Estimate { interval: None, .. })) => Some(Undecided::OneUnit),
            (Verdict::Inconclusive, Some(_)) => Some(Undecided::TooUncertain),
            _ => None,
        };
        (comparison, undecided)
    }

    /// Why repeats can't show how large that part of the difference is which the models have nothing to do with.
    fn confounded(&self) -> Option<Undecided> {
        match self.basis {
            Basis::WithinRun(Order::Blocks) => None,
            Basis::WithinRun(Order::ByModel) => Some(Undecided::ByModel),
            Basis::AcrossRuns { base_runs, new_runs } => {
                (base_runs < 2 || new_runs < 2).then_some(Undecided::OneRunASide)
            }
        }
    }

    /// The run is the unit as soon as one side has several.
    fn by_run(&self) -> bool {
        matches!(self.basis, Basis::AcrossRuns { base_runs, new_runs } if base_runs > 1 || new_runs > 1)
    }
}

/// The two models of a comparison.
#[derive(Clone, Copy)]
struct Models<'a> {
    base: &'a str,
    new: &'a str,
    /// One of them ran on plain operations and the other didn't.
    unlike_kernels: bool,
}

impl Models<'_> {
    /// Why the energies of two cells can't be compared.
    fn obstacle(self, pair: &Pair) -> Option<Undecided> {
        if !has_energy(&pair.base) || !has_energy(&pair.new) {
            return Some(Undecided::NoEnergy);
        }
        self.mixture(&methods_of(pair))
    }

    /// Why energies that were obtained by these methods can't be compared.
    fn mixture(self, methods: &BTreeSet<Option<EnergyMethod>>) -> Option<Undecided> {
        if self.unlike_kernels {
            return Some(Undecided::UnlikeKernels);
        }
        single(methods).is_none().then_some(Undecided::MixedMethods)
    }
}

fn has_energy(cell: &CellSide) -> bool {
    cell.0.values().flatten().any(|energy| energy.ept_out.is_some())
}

/// The methods of all energies of a cell.
fn methods(cell: &CellSide) -> BTreeSet<Option<EnergyMethod>> {
    cell.0.values().flatten().map(|energy| energy.method).collect()
}

fn methods_of(pair: &Pair) -> BTreeSet<Option<EnergyMethod>> {
    &methods(&pair.base) | &methods(&pair.new)
}

fn single(methods: &BTreeSet<Option<EnergyMethod>>) -> Option<EnergyMethod> {
    if methods.len() == 1 { methods.first().copied().flatten() } else { None }
}
