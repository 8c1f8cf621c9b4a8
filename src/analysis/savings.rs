//! Each student and control against its teacher: cell by cell, and over all the cells that they share.

use super::accuracy::{Evaluations, exact_match, exact_match_difference};
use super::at_floor::AtFloor;
use super::break_even::{BreakEven, break_even, is_measured};
use super::cells::CellSummary;
use super::compare::{Basis, CellComparison, Compared, Comparing, Undecided};
use super::comparison::{Comparison, unknown};
use super::conditions::{PairConditions, Surroundings, power_limit};
use super::heat::HeatEffects;
use crate::error::Result;
use crate::frame::{Frame, Side};
use crate::record::{ModelMeta, Role, RunInfo};
use crate::stats::Estimate;

/// A student against its teacher in one cell.
#[derive(Debug, Clone, PartialEq)]
pub struct Saving {
    /// Label of the student (or control).
    pub student: String,
    /// What it is.
    pub role: Role,
    /// Label of the teacher.
    pub teacher: String,
    /// Batch size of both.
    pub batch_size: usize,
    /// Output length of both.
    pub max_new_tokens: usize,
    /// The comparison of energy per output token.
    pub ept_out: Comparison,
    /// The same at the energy floor, if that of both is known.
    pub at_floor: Option<AtFloor>,
    /// Why the verdict is inconclusive, if it is.
    pub undecided: Option<Undecided>,
    /// Accuracy of the student minus that of the teacher (exact match, paired over prompts).
    pub accuracy_difference: Option<Estimate>,
    /// How warm, how fast and how limited both ran.
    pub conditions: PairConditions,
    /// Tokens that have to be generated before the saving has paid for the distillation.
    pub break_even: BreakEven,
}

/// A student against its teacher over all cells that they share.
#[derive(Debug, Clone, PartialEq)]
pub struct OverallSaving {
    /// Label of the student (or control).
    pub student: String,
    /// What it is.
    pub role: Role,
    /// Label of the teacher.
    pub teacher: String,
    /// Number of cells.
    pub cells: usize,
    /// Geometric mean over the cells of new / base; the block is the unit of replication.
    pub ept_out: Comparison,
    /// The same at the energy floor, if that of both is known in every shared cell.
    pub at_floor: Option<AtFloor>,
    /// Why the verdict is inconclusive, if it is.
    pub undecided: Option<Undecided>,
    /// Exact match of the student at the longest output length.
    pub student_accuracy: Option<Estimate>,
    /// Exact match of the teacher at the longest output length.
    pub teacher_accuracy: Option<Estimate>,
    /// Student minus teacher, paired over prompts.
    pub accuracy_difference: Option<Estimate>,
    /// Student minus control (the undistilled model of the same teacher), paired over prompts: distillation's part.
    pub over_control: Option<(String, Estimate)>,
    /// All trials in it are valid and by one method that measures.
    pub measured: bool,
    /// The break-even over all cells.
    pub break_even: BreakEven,
}

/// Cell by cell, in the order of the plan, and over all cells, in the order of the sweep file: one entry for each cell
/// of a student or control that names a teacher, and one for each such model.
///
/// A saving is unknown if the teacher has no such cell, one side has no valid energy, or the sides have different energy
/// methods. Holm's family is the cells of one student.
///
/// # Errors
/// The frame lacks a column.
pub(super) fn savings(
    run: &RunInfo,
    frame: &Frame,
    heat: &HeatEffects,
    cells: &[CellSummary],
    evaluations: &Evaluations<'_>,
) -> Result<(Vec<Saving>, Vec<OverallSaving>)> {
    let side = Side::new(&[frame])?;
    let limit = power_limit([run]);
    let around = Surroundings { base_limit_w: limit, new_limit_w: limit, share_per_c: heat.core.shown() };
    let basis = Basis::WithinRun(run.protocol.order);
    let runs = &[run];
    let comparing =
        Comparing { base: &side, new: &side, base_runs: runs, new_runs: runs, basis, floor: run.floor, around };
    let (mut savings, mut overall) = (Vec::new(), Vec::new());
    for (student, teacher) in students(run) {
        let compared = comparing.models(teacher, &student.label)?;
        let pair = Student { run, student, teacher, cells, evaluations, compared: &compared };
        savings.extend(pair.savings());
        overall.push(pair.overall());
    }
    Ok((savings, overall))
}

/// Students and controls with the label of their teacher.
fn students(run: &RunInfo) -> impl Iterator<Item = (&ModelMeta, &str)> {
    let compared = |model: &&ModelMeta| matches!(model.role, Role::Student | Role::Control);
    run.models.iter().filter(compared).filter_map(|model| Some((model, model.teacher.as_deref()?)))
}

/// A student and its teacher.
struct Student<'a> {
    run: &'a RunInfo,
    student: &'a ModelMeta,
    teacher: &'a str,
    cells: &'a [CellSummary],
    evaluations: &'a Evaluations<'a>,
    compared: &'a Compared,
}

impl Student<'_> {
    fn savings(&self) -> Vec<Saving> {
        let own = self.cells.iter().filter(|cell| cell.model == self.student.label);
        own.map(|cell| self.saving(cell, self.comparison(cell))).collect()
    }

    fn comparison(&self, cell: &CellSummary) -> Option<&CellComparison> {
        self.compared.cells.iter().find(|compared| {
            (compared.batch_size, compared.max_new_tokens, compared.output_length)
                == (cell.batch_size, cell.max_new_tokens, cell.output_length)
        })
    }

    fn saving(&self, cell: &CellSummary, compared: Option<&CellComparison>) -> Saving {
        let ept_out: Comparison = compared.map_or_else(unknown, |compared| compared.comparison.clone());
        let teacher = compared.and_then(|compared| self.cell_of(self.teacher, compared));
        let method = compared.and_then(|compared| compared.method);
        Saving {
            student: self.student.label.clone(),
            role: self.student.role,
            teacher: self.teacher.to_owned(),
            batch_size: cell.batch_size,
            max_new_tokens: cell.max_new_tokens,
            accuracy_difference: teacher.and_then(|teacher| self.accuracy_difference(teacher, cell)),
            break_even: break_even(self.student.training.as_ref(), ept_out.saved_j_per_token, method),
            conditions: compared.map(|compared| compared.conditions).unwrap_or_default(),
            at_floor: compared.and_then(|compared| compared.at_floor),
            undecided: compared.map_or(Some(Undecided::NoEnergy), |compared| compared.undecided),
            ept_out,
        }
    }

    fn cell_of(&self, model: &str, compared: &CellComparison) -> Option<&CellSummary> {
        self.cells.iter().find(|cell| {
            cell.model == model
                && (cell.batch_size, cell.max_new_tokens, cell.output_length)
                    == (compared.batch_size, compared.max_new_tokens, compared.output_length)
        })
    }

    fn accuracy_difference(&self, base: &CellSummary, new: &CellSummary) -> Option<Estimate> {
        let of = |cell: &CellSummary| self.evaluations.find(&cell.model, &cell.dtype, cell.max_new_tokens);
        exact_match_difference(of(base)?, of(new)?)
    }

    fn overall(&self) -> OverallSaving {
        let ept_out = self.compared.overall.comparison.clone();
        let method = self.compared.overall.method;
        let accuracies = accuracies(self.evaluations, self.teacher, &self.student.label);
        OverallSaving {
            student: self.student.label.clone(),
            role: self.student.role,
            teacher: self.teacher.to_owned(),
            cells: self.compared.overall.cells,
            student_accuracy: accuracies.student,
            teacher_accuracy: accuracies.teacher,
            accuracy_difference: accuracies.difference,
            over_control: self.over_control(),
            measured: method.is_some_and(is_measured) && self.is_complete(),
            break_even: break_even(self.student.training.as_ref(), ept_out.saved_j_per_token, method),
            at_floor: self.compared.overall.at_floor,
            undecided: self.compared.overall.undecided,
            ept_out,
        }
    }

    /// Whether in the shared cells every trial of both models is valid.
    fn is_complete(&self) -> bool {
        let shared = self.compared.cells.iter().filter(|compared| compared.is_shared());
        let mut cells =
            shared.flat_map(|shared| [self.teacher, &self.student.label].map(|of| self.cell_of(of, shared)));
        cells.all(|cell| cell.is_some_and(|cell| cell.counts.all_valid(self.run.blocks)))
    }

    /// Against the first control of the same teacher with which the student can be compared.
    fn over_control(&self) -> Option<(String, Estimate)> {
        if self.student.role != Role::Student {
            return None;
        }
        let controls = self.run.models.iter().filter(|model| model.role == Role::Control);
        let of_teacher = controls.filter(|control| control.teacher == self.student.teacher);
        of_teacher.map(|control| control.label.as_str()).find_map(|control| {
            let (base, new) = self.evaluations.longest_shared(control, &self.student.label)?;
            Some((control.to_owned(), exact_match_difference(base, new)?))
        })
    }
}

#[derive(Default)]
struct Accuracies {
    student: Option<Estimate>,
    teacher: Option<Estimate>,
    difference: Option<Estimate>,
}

/// At the longest output length that both have; each at its own longest if they share none.
fn accuracies(evaluations: &Evaluations<'_>, teacher: &str, student: &str) -> Accuracies {
    let Some((base, new)) = evaluations.longest_shared(teacher, student) else {
        let longest = |model: &str| evaluations.longest(model).and_then(exact_match);
        return Accuracies { student: longest(student), teacher: longest(teacher), difference: None };
    };
    Accuracies { student: exact_match(new), teacher: exact_match(base), difference: exact_match_difference(base, new) }
}
