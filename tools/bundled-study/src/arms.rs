//! The models of the study as data: what each one is, and how it is trained.

use crate::energy::StageName;
use crate::model::Shape;

/// One model and its training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Arm {
    /// Name of its folder.
    pub name: &'static str,
    pub shape: Shape,
    pub objective: Objective,
    /// Highest learning rate of the schedule.
    pub rate: f64,
    /// What its training is called in an energy record.
    pub stage: StageName,
}

/// What training minimises.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Objective {
    /// Cross-entropy on the response tokens.
    CrossEntropy,
    /// Hinton et al. (2015): the teacher's softened distribution, with cross-entropy mixed in.
    Distillation(Softening),
}

/// `alpha · T² · KL(teacher_T ‖ student_T) + (1 − alpha) · cross-entropy`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Softening {
    /// T, by which both models' logits are divided.
    pub temperature: f64,
    /// Share of the softened loss.
    pub alpha: f64,
}

pub(crate) const TEACHER: Arm = Arm {
    name: "teacher",
    shape: Shape { hidden: 320, layers: 5, heads: 10, kv_heads: 5, head_dim: 32, intermediate: 864 },
    objective: Objective::CrossEntropy,
    rate: 1e-3,
    stage: StageName::TeacherTraining,
};

const STUDENT: Shape = Shape { hidden: 128, layers: 4, heads: 4, kv_heads: 2, head_dim: 32, intermediate: 352 };

pub(crate) const STUDENT_KD: Arm = Arm {
    name: "student-kd",
    shape: STUDENT,
    objective: Objective::Distillation(Softening { temperature: 2.0, alpha: 0.7 }),
    rate: 2e-3,
    stage: StageName::StudentTraining,
};

/// The distilled student's control: the same but for the objective.
pub(crate) const STUDENT_BASE: Arm =
    Arm { name: "student-base", objective: Objective::CrossEntropy, stage: StageName::ControlTraining, ..STUDENT_KD };

pub(crate) const ALL: [Arm; 3] = [TEACHER, STUDENT_KD, STUDENT_BASE];

impl Objective {
    /// What records call it.
    pub(crate) fn code(self) -> &'static str {
        match self {
            Objective::CrossEntropy => "ce",
            Objective::Distillation(_) => "kd",
        }
    }

    /// What a model card says.
    pub(crate) fn sentence(self) -> String {
        match self {
            Objective::CrossEntropy => "cross-entropy on the response tokens".to_owned(),
            Objective::Distillation(Softening { temperature, alpha }) => format!(
                "distilled from the teacher (Hinton et al. 2015: {alpha} · T² · KL at T = {temperature}, the rest \
                 cross-entropy)"
            ),
        }
    }
}
