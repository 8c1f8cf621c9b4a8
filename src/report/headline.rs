//! The answer to the study's question, in sentences.

use crate::analysis::{AtFloor, BreakEven, OverallSaving, Study, Undecided, Verdict};
use crate::format;
use crate::record::{OutputLength, Role, RunInfo};

/// The answer in one sentence, and remarks that a reader needs with it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    pub(crate) sentence: String,
    pub(crate) remarks: Vec<String>,
}

/// The answer of a study: the first student's saving, or the thriftiest cell if nothing is compared.
pub(crate) fn answer(run: &RunInfo, study: &Study) -> Answer {
    let known = |o: &&OverallSaving| o.ept_out.saving.is_some_and(|s| s.value.is_finite());
    let students = study.overall.iter().filter(known);
    let main = students.clone().find(|o| o.role == Role::Student).or_else(|| students.clone().next());
    let Some(main) = main else {
        return Answer { sentence: without_comparison(study), remarks: unlike_kernels(study).collect() };
    };
    let caveat = format::caveat(&study.methods);
    let sentence = match caveat {
        Some(caveat) => format!("{}: at {}", format::capitalised(caveat), saving_sentence(run, main)),
        None => format!("At {}", saving_sentence(run, main)),
    };
    let mut remarks: Vec<String> = Vec::new();
    if !main.measured && caveat.is_none() {
        remarks.push("Not all trials behind this result are valid and measured by the same method.".to_owned());
    }
    remarks.extend(heat(run, study, main));
    remarks.extend(fixed_length(run));
    remarks.extend(over_control(main));
    remarks.extend(break_even(main));
    remarks.extend(unlike_kernels(study));
    remarks.extend(students.filter(|o| *o != main).map(|o| format!("At {}", saving_sentence(run, o))));
    Answer { sentence, remarks }
}

/// `equal batch size and output length, S uses 71 % less energy …`: follows `At `.
fn saving_sentence(run: &RunInfo, of: &OverallSaving) -> String {
    format!(
        "equal batch size and output length, {}{}{}.",
        claim(run, of).unwrap_or_default(),
        at_floor(of),
        accuracies(of)
    )
}

/// The claim on energy, with its interval and the number of repeats; `None` if the saving is unknown.
fn claim(run: &RunInfo, of: &OverallSaving) -> Option<String> {
    let (student, teacher) = (&of.student, &of.teacher);
    let (saving, increase) = (of.ept_out.saving?, of.ept_out.increase()?);
    let shown = if of.ept_out.verdict == Verdict::Regressed { increase } else { saving };
    let percent = format::short_percent(&shown);
    let repeats = format!("{} of {}", format::plural(saving.n, "repeat"), format::plural(of.cells, "cell"));
    let range = format::percent_range(&shown);
    let support = match &range {
        Some(range) => format!("95\u{a0}% interval {range}, {repeats}"),
        None => format!("no interval: {repeats}"),
    };
    Some(match of.ept_out.verdict {
        Verdict::Improved => {
            format!("{student} uses {percent} less energy per generated token than {teacher} ({support})")
        }
        Verdict::Regressed => {
            format!("{student} uses {percent} more energy per generated token than {teacher} ({support})")
        }
        Verdict::Equivalent => {
            let floor = format::fraction(run.floor);
            format!(
                "{student} uses the same energy per generated token as {teacher}, to within {floor} (saving: {support})"
            )
        }
        Verdict::Inconclusive if of.undecided == Some(Undecided::ByModel) => format!(
            "the saving of {student} compared with {teacher} is {percent} ({support}), without a verdict: each model \
             ran at a time of its own (order by_model)"
        ),
        Verdict::Inconclusive => format!(
            "the data do not show whether {student} uses less energy per generated token than {teacher}: the saving \
             is {percent} ({support})"
        ),
    })
}

/// How much of the saving is the models', and what the engine makes of it; empty if the floors aren't known.
fn at_floor(of: &OverallSaving) -> String {
    let Some(AtFloor { saving, base_multiple, new_multiple }) = of.at_floor else { return String::new() };
    format!(
        "; at the energy floor the saving is {} (the engine uses {} the floor for {} and {} for {})",
        format::share(saving),
        format::multiple(base_multiple),
        of.teacher,
        format::multiple(new_multiple),
        of.student
    )
}

/// Models that aren't compared since their engine is as much in the difference as they are.
fn unlike_kernels(study: &Study) -> impl Iterator<Item = String> {
    let refused = study.overall.iter().filter(|of| of.undecided == Some(Undecided::UnlikeKernels));
    refused.map(|of| {
        format!(
            "The energies of {} and {} are not compared: one of the two ran on plain operations, the other on this \
             program's kernels, and the difference would be that of the operations as much as that of the models.",
            of.student, of.teacher
        )
    })
}

fn accuracies(of: &OverallSaving) -> String {
    match (&of.student_accuracy, &of.teacher_accuracy) {
        (Some(own), Some(other)) => format!(
            "; exact match on the held-out prompts is {}, compared with {} for {}",
            format::share(own.value),
            format::share(other.value),
            of.teacher
        ),
        _ => String::new(),
    }
}

/// A difference in temperature that may explain more than half of what would count as a difference in energy.
fn heat(run: &RunInfo, study: &Study, main: &OverallSaving) -> Option<String> {
    let own =
        study.savings.iter().filter(|saving| (&saving.student, &saving.teacher) == (&main.student, &main.teacher));
    let shares: Vec<f64> = own.filter_map(|saving| saving.conditions.heat_share).collect();
    let notable = shares.iter().copied().filter(|share| share.abs() > run.floor / 2.0);
    let largest = notable.clone().max_by(|a, b| a.abs().total_cmp(&b.abs()))?;
    Some(format!(
        "In {} of {}, {} and {} ran at temperatures of which the difference may explain more than half of the floor of \
         {}: up to {} of the ratio of their energies.",
        notable.count(),
        format::plural(shares.len(), "cell"),
        main.student,
        main.teacher,
        format::fraction(run.floor),
        format::change(largest)
    ))
}

/// With fixed lengths a saving in energy is a matter of size alone.
fn fixed_length(run: &RunInfo) -> Option<String> {
    let fixed = !run.cells.is_empty() && run.cells.iter().all(|cell| cell.output_length == OutputLength::Fixed);
    fixed.then(|| {
        "Every answer has the same number of tokens here, so models of equal size use the same energy per token. The \
         saving therefore comes from the smaller size; what distillation contributes is accuracy."
            .to_owned()
    })
}

fn over_control(main: &OverallSaving) -> Option<String> {
    let (control, difference) = main.over_control.as_ref()?;
    Some(format!(
        "Exact match of {} minus that of {control}, which was trained without the teacher: {}.",
        main.student,
        format::points(difference)
    ))
}

fn break_even(main: &OverallSaving) -> Option<String> {
    let student = &main.student;
    match &main.break_even {
        BreakEven::Tokens(tokens) => {
            let tokens = format::tokens(tokens);
            Some(format!("The energy of training {student} is recovered after generating {tokens}."))
        }
        BreakEven::Never => Some(format!(
            "The energy of training {student} may never be recovered: the estimated saving is not positive."
        )),
        BreakEven::Unknown(_) => None,
    }
}

fn without_comparison(study: &Study) -> String {
    let Some((cell, ept)) = study.thriftiest() else {
        return "No cell has a valid energy, so the question cannot be answered yet.".to_owned();
    };
    let caveat = format::caveat(&study.methods).map_or(String::new(), |c| format!(" ({c})"));
    format!(
        "Of {}, {} with batch size {} and {} uses the least energy per generated token: {}{caveat}.",
        format::plural(study.cells.len(), "cell"),
        cell.model,
        cell.batch_size,
        format::plural(cell.max_new_tokens, "new token"),
        format::energy(&ept)
    )
}
