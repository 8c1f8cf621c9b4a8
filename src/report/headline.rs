//! The answer to the study's question, in sentences.

use super::context::capitalised;
use crate::analysis::{BreakEven, CellSummary, Estimate, OverallSaving, Study, Verdict};
use crate::format;
use crate::record::{OutputLength, Role, RunInfo};

/// The answer: one sentence, and what belongs to it.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The answer.
    pub sentence: String,
    /// What a reader needs beside it.
    pub remarks: Vec<String>,
}

/// The answer of a study: the first student's saving, or the thriftiest cell where nothing is compared.
pub fn answer(run: &RunInfo, study: &Study) -> Answer {
    let known = |o: &&OverallSaving| o.ept_out.saving.is_some_and(|s| s.value.is_finite());
    let students = study.overall.iter().filter(known);
    let main = students.clone().find(|o| o.role == Role::Student).or_else(|| students.clone().next());
    let Some(main) = main else {
        return Answer { sentence: without_comparison(study), remarks: Vec::new() };
    };
    let caveat = format::caveat(&study.methods);
    let sentence = match caveat {
        Some(caveat) => format!("{}: at {}", capitalised(caveat), saving_sentence(run, main)),
        None => format!("At {}", saving_sentence(run, main)),
    };
    let mut remarks: Vec<String> = Vec::new();
    if !main.measured && caveat.is_none() {
        remarks.push("Not every trial behind this is valid and by one method that measures.".to_owned());
    }
    remarks.extend(fixed_length(run));
    remarks.extend(over_control(main));
    remarks.extend(break_even(main));
    remarks.extend(students.filter(|o| *o != main).map(|o| format!("At {}", saving_sentence(run, o))));
    Answer { sentence, remarks }
}

/// `equal batch size and output length, S takes 71 % less energy …`: what `At ` goes in front of.
fn saving_sentence(run: &RunInfo, of: &OverallSaving) -> String {
    let (student, teacher) = (&of.student, &of.teacher);
    let saving = of.ept_out.saving.unwrap_or(Estimate { value: f64::NAN, interval: None, n: 0 });
    let claim = match of.ept_out.verdict {
        Verdict::Improved => {
            format!("{student} takes {} less energy per generated token than {teacher}", short(&saving))
        }
        Verdict::Regressed => {
            format!("{student} takes {} more energy per generated token than {teacher}", short(&negated(&saving)))
        }
        Verdict::Equivalent => {
            let floor = format::fraction(run.floor);
            format!("{student} takes as much energy per generated token as {teacher}, to within {floor}")
        }
        Verdict::Inconclusive => format!(
            "the data don't tell whether {student} takes less energy per generated token than {teacher}: \
             the saving is {}",
            short(&saving)
        ),
    };
    let shown = if of.ept_out.verdict == Verdict::Regressed { negated(&saving) } else { saving };
    let support = support(&shown, of.cells);
    let support = if of.ept_out.verdict == Verdict::Equivalent { format!("saving: {support}") } else { support };
    format!("equal batch size and output length, {claim} ({support}){}.", answers(of))
}

fn short(saving: &Estimate) -> String {
    format!("{}\u{a0}%", format::value(saving, format::Scale::PERCENT))
}

fn negated(e: &Estimate) -> Estimate {
    let turn = |i: crate::analysis::Interval| crate::analysis::Interval { low: -i.high, high: -i.low };
    Estimate { value: -e.value, interval: e.interval.map(turn), n: e.n }
}

fn support(saving: &Estimate, cells: usize) -> String {
    let of = format!("{} of {}", format::plural(saving.n, "repeat"), format::plural(cells, "cell"));
    match format::percent_range(saving) {
        Some(range) => format!("95\u{a0}% interval {range}, {of}"),
        None => format!("no interval: {of}"),
    }
}

fn answers(of: &OverallSaving) -> String {
    match (&of.student_accuracy, &of.teacher_accuracy) {
        (Some(own), Some(other)) => format!(
            ", and answers {} against {} of the held-out prompts exactly",
            format::share(own.value),
            format::share(other.value)
        ),
        _ => String::new(),
    }
}

/// With fixed lengths a saving in energy is a matter of size alone.
fn fixed_length(run: &RunInfo) -> Option<String> {
    let fixed = !run.cells.is_empty() && run.cells.iter().all(|cell| cell.output_length == OutputLength::Fixed);
    fixed.then(|| {
        "Every answer has the same number of tokens here, so two models of equal size cost the same per token: the \
         saving is the size's, and distillation's part is the accuracy."
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
    match &main.break_even {
        BreakEven::Tokens(tokens) => {
            Some(format!("The energy of training {} is paid back after {}.", main.student, format::tokens(tokens)))
        }
        BreakEven::Never => Some(format!(
            "The energy of training {} is never paid back for certain: the saving may be zero.",
            main.student
        )),
        BreakEven::Unknown(_) => None,
    }
}

fn without_comparison(study: &Study) -> String {
    let energy =
        |cell: &&CellSummary| cell.ept_out_j.filter(|e| e.value.is_finite()).map_or(f64::INFINITY, |e| e.value);
    let best =
        study.cells.iter().filter(|cell| energy(cell).is_finite()).min_by(|a, b| energy(a).total_cmp(&energy(b)));
    let Some((best, ept)) = best.and_then(|best| Some((best, best.ept_out_j?))) else {
        return "No cell has a valid energy: nothing can be answered yet.".to_owned();
    };
    let caveat = format::caveat(&study.methods).map_or(String::new(), |c| format!(" ({c})"));
    format!(
        "Of {}, {} with batch size {} and {} takes the least energy per generated token: {}{caveat}.",
        format::plural(study.cells.len(), "cell"),
        best.model,
        best.batch_size,
        format::plural(best.max_new_tokens, "new token"),
        format::energy(&ept)
    )
}
