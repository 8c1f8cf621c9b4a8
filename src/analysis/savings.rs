//! Each student and control against its teacher, cell by cell.

use super::accuracy::{Scores, exact_match_difference};
use super::break_even::break_even;
use super::comparison::{Design, Effect, compare_family, effect};
use super::trials::{CellTrials, Trials};
use super::{Comparison, Saving};
use crate::record::{EnergyMethod, ModelMeta, Role, RunInfo};

/// One entry for each cell of a student or control that names a teacher, in the order of the plan: against the
/// teacher's cell of equal batch size and output length. Unknown where the teacher has no such cell, one side has no
/// valid energy, or the sides have different energy methods. Holm's family is the cells of one student.
pub fn savings(run: &RunInfo, trials: &Trials<'_>, scores: &Scores<'_>) -> Vec<Saving> {
    let of_student = |(student, teacher)| Student { student, teacher, trials, scores }.savings(run.floor);
    students(run).flat_map(of_student).collect()
}

/// Students and controls with the label of their teacher, in the order of the sweep file.
pub fn students(run: &RunInfo) -> impl Iterator<Item = (&ModelMeta, &str)> {
    let compared = |model: &&ModelMeta| matches!(model.role, Role::Student | Role::Control);
    run.models.iter().filter(compared).filter_map(|model| Some((model, model.teacher.as_deref()?)))
}

/// Compares two cells of one run, block by block where the blocks match.
pub fn cell_effect(base: &CellTrials<'_>, new: &CellTrials<'_>) -> Option<Effect> {
    shared_method(base, new)?;
    effect(&base.units(), &new.units(), Design::PairedOrIndependent)
}

/// The energy method of two cells, where it is the same.
pub fn shared_method(a: &CellTrials<'_>, b: &CellTrials<'_>) -> Option<EnergyMethod> {
    a.method().filter(|method| b.method() == Some(*method))
}

struct Student<'a> {
    student: &'a ModelMeta,
    teacher: &'a str,
    trials: &'a Trials<'a>,
    scores: &'a Scores<'a>,
}

impl<'a> Student<'a> {
    fn savings(&self, floor: f64) -> Vec<Saving> {
        let cells: Vec<_> = self.trials.of_model(&self.student.label).map(|cell| (self.teachers(cell), cell)).collect();
        let effects: Vec<_> = cells.iter().map(|(teacher, cell)| cell_effect((*teacher)?, cell)).collect();
        let comparisons = compare_family(&effects, floor);
        cells.iter().zip(comparisons).map(|((teacher, cell), ept_out)| self.saving(*teacher, cell, ept_out)).collect()
    }

    fn teachers(&self, cell: &CellTrials<'_>) -> Option<&'a CellTrials<'a>> {
        self.trials.counterpart(cell.spec, self.teacher)
    }

    fn saving(&self, teacher: Option<&CellTrials<'_>>, cell: &CellTrials<'_>, ept_out: Comparison) -> Saving {
        let method = teacher.and_then(|teacher| shared_method(teacher, cell));
        Saving {
            student: self.student.label.clone(),
            role: self.student.role,
            teacher: self.teacher.to_owned(),
            batch_size: cell.spec.batch_size,
            max_new_tokens: cell.spec.max_new_tokens,
            accuracy_difference: teacher.and_then(|teacher| accuracy_difference(self.scores, teacher, cell)),
            break_even: break_even(self.student.training.as_ref(), ept_out.saved_j_per_token, method),
            ept_out,
        }
    }
}

fn accuracy_difference(scores: &Scores<'_>, base: &CellTrials<'_>, new: &CellTrials<'_>) -> Option<super::Estimate> {
    let of = |cell: &CellTrials<'_>| scores.find(&cell.spec.model, &cell.spec.dtype, cell.spec.max_new_tokens);
    exact_match_difference(of(base)?, of(new)?)
}
