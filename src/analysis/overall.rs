//! Each student and control against its teacher, over all the cells that they share.
//!
//! A cell is shared where both models have at least one valid energy in it. The block is the unit of replication:
//! the geometric mean of the ratios over the shared cells of one block is one value, and only blocks in which every
//! shared cell is valid on both sides count.

use super::accuracy::{Scores, exact_match, exact_match_difference};
use super::break_even::{break_even, is_measured};
use super::comparison::{Design, Units, compare_one, effect, over_cells};
use super::savings::students;
use super::trials::{CellTrials, Trials};
use super::{Estimate, OverallSaving};
use crate::record::{EnergyMethod, ModelMeta, Role, RunInfo};

/// One entry for each student or control that names a teacher, in the order of the sweep file.
pub fn overall(run: &RunInfo, trials: &Trials<'_>, scores: &Scores<'_>) -> Vec<OverallSaving> {
    students(run).map(|(student, teacher)| of_student(run, trials, scores, (student, teacher))).collect()
}

fn of_student(
    run: &RunInfo,
    trials: &Trials<'_>,
    scores: &Scores<'_>,
    (student, teacher): (&ModelMeta, &str),
) -> OverallSaving {
    let shared = SharedCells::of(trials, teacher, &student.label);
    let ept_out = compare_one(shared.effect(), run.floor);
    let accuracies = accuracies(scores, teacher, &student.label);
    OverallSaving {
        student: student.label.clone(),
        role: student.role,
        teacher: teacher.to_owned(),
        cells: shared.0.len(),
        student_accuracy: accuracies.student,
        teacher_accuracy: accuracies.teacher,
        accuracy_difference: accuracies.difference,
        over_control: over_control(run, scores, student),
        measured: shared.is_measured(run.blocks),
        break_even: break_even(student.training.as_ref(), ept_out.saved_j_per_token, shared.method()),
        ept_out,
    }
}

/// Pairs of (teacher's, student's) cells.
struct SharedCells<'a>(Vec<(&'a CellTrials<'a>, &'a CellTrials<'a>)>);

impl<'a> SharedCells<'a> {
    fn of(trials: &'a Trials<'a>, teacher: &str, student: &str) -> Self {
        let pair = |cell: &'a CellTrials<'a>| Some((trials.counterpart(cell.spec, teacher)?, cell));
        let has_energy = |cell: &CellTrials<'_>| cell.valid().any(|(_, window)| window.ept_out().is_some());
        let pairs = trials.of_model(student).filter_map(pair);
        Self(pairs.filter(|(base, new)| has_energy(base) && has_energy(new)).collect())
    }

    /// The energy method of all cells, where it is one.
    fn method(&self) -> Option<EnergyMethod> {
        let mut methods = self.0.iter().flat_map(|(base, new)| [base.method(), new.method()]);
        let first = methods.next()??;
        methods.all(|method| method == Some(first)).then_some(first)
    }

    fn effect(&self) -> Option<super::comparison::Effect> {
        self.method()?;
        let base: Vec<Units> = self.0.iter().map(|(base, _)| base.units()).collect();
        let new: Vec<Units> = self.0.iter().map(|(_, new)| new.units()).collect();
        effect(&over_cells(&base), &over_cells(&new), Design::Paired)
    }

    fn is_measured(&self, blocks: u32) -> bool {
        self.method().is_some_and(is_measured)
            && self.0.iter().all(|(base, new)| base.is_complete(blocks) && new.is_complete(blocks))
    }
}

#[derive(Default)]
struct Accuracies {
    student: Option<Estimate>,
    teacher: Option<Estimate>,
    difference: Option<Estimate>,
}

/// At the longest output length that both have; each at its own longest where they share none.
fn accuracies(scores: &Scores<'_>, teacher: &str, student: &str) -> Accuracies {
    let Some((base, new)) = scores.longest_shared(teacher, student) else {
        let longest = |model: &str| scores.longest(model).and_then(exact_match);
        return Accuracies { student: longest(student), teacher: longest(teacher), difference: None };
    };
    Accuracies { student: exact_match(new), teacher: exact_match(base), difference: exact_match_difference(base, new) }
}

/// The first control of the same teacher with which the student can be compared.
fn over_control(run: &RunInfo, scores: &Scores<'_>, student: &ModelMeta) -> Option<(String, Estimate)> {
    if student.role != Role::Student {
        return None;
    }
    let controls = run.models.iter().filter(|m| m.role == Role::Control && m.teacher == student.teacher);
    controls.map(|control| control.label.as_str()).find_map(|control| {
        let (base, new) = scores.longest_shared(control, &student.label)?;
        Some((control.to_owned(), exact_match_difference(base, new)?))
    })
}
