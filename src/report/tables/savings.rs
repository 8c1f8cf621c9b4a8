//! Each student and control compared with its teacher, in each cell and over all cells.

use crate::analysis::{
    AtFloor, BreakEven, CellSummary, Comparison, Estimate, OverallSaving, Saving, Study, Undecided, Verdict,
};
use crate::format::{self, Scale};
use crate::report::table::{Cell, Column, Table, TableRow};

/// Place of the column of savings at the floor, if there is one.
const AT_FLOOR: usize = 7;
const FLOOR: &str = " At the floor: the saving by the energy floors, below it how many times the floor the engine uses for \
    teacher and model.";

/// `None` if nothing is compared.
pub(crate) fn savings(study: &Study) -> Option<Table> {
    if study.savings.is_empty() && study.overall.is_empty() {
        return None;
    }
    let pairs: Vec<_> =
        study.savings.iter().map(|s| (s, ept(study, &s.teacher, s), ept(study, &s.student, s))).collect();
    let known = pairs.iter().flat_map(|(_, teacher, student)| [teacher, student]).flatten().map(|e| e.value);
    let scale = Scale::joules(known);
    let mut rows: Vec<TableRow> = pairs.iter().map(|(s, t, o)| saving_row(s, t.as_ref(), o.as_ref(), scale)).collect();
    rows.extend(study.overall.iter().map(overall_row));
    let known = study.savings.iter().map(|s| s.at_floor).chain(study.overall.iter().map(|o| o.at_floor));
    let floors = study.savings.iter().any(|s| s.at_floor.is_some());
    if floors {
        rows.iter_mut().zip(known).for_each(|(row, known)| row.cells.insert(AT_FLOOR, at_floor(known)));
    }
    let mut columns = vec![
        Column::words("Model"),
        Column::words("Teacher"),
        Column::numbers("Batch", ""),
        Column::numbers("New tokens", ""),
        Column::numbers("EPT teacher", scale.unit),
        Column::numbers("EPT model", scale.unit),
        Column::numbers("Saving", "%"),
        Column::numbers("Factor", ""),
        Column::words("Verdict"),
        Column::numbers("Accuracy difference", "points"),
        Column::numbers("Break-even", "tokens"),
    ];
    if floors {
        columns.insert(AT_FLOOR, Column::numbers("At the floor", "%"));
    }
    let all = study.savings.iter().map(|s| &s.ept_out).chain(study.overall.iter().map(|o| &o.ept_out));
    let tested = all.into_iter().any(|comparison| comparison.p_adjusted.is_some());
    let holm = if tested { "p values are adjusted for the number of cells (Holm). " } else { "" };
    let explained = if floors { FLOOR } else { "" };
    let caption = format!(
        "Energy per output token of each model compared with its teacher at equal batch size and output length, with \
         95 % intervals. {holm}Accuracy difference: exact match of the model minus that of its teacher. Break-even: \
         output tokens after which the energy of training is recovered.{explained}"
    );
    let caveat = format::caveat(&study.methods);
    Some(Table { id: "table-savings", caption, caveat, columns, rows })
}

fn ept(study: &Study, model: &str, at: &Saving) -> Option<Estimate> {
    let same =
        |c: &&CellSummary| c.model == model && c.batch_size == at.batch_size && c.max_new_tokens == at.max_new_tokens;
    study.cells.iter().filter(same).find_map(|cell| cell.ept_out_j)
}

fn saving_row(saving: &Saving, teacher: Option<&Estimate>, own: Option<&Estimate>, scale: Scale) -> TableRow {
    let mut cells = vec![
        Cell::new(saving.student.clone()).with(saving.role.words()),
        Cell::new(saving.teacher.clone()),
        Cell::count(saving.batch_size),
        Cell::count(saving.max_new_tokens),
        Cell::estimate(teacher, scale),
        Cell::estimate(own, scale),
    ];
    cells.extend(compared(&saving.ept_out, saving.undecided, saving.accuracy_difference.as_ref(), &saving.break_even));
    TableRow::new(cells)
}

fn overall_row(overall: &OverallSaving) -> TableRow {
    let all = format!("all {}", format::plural(overall.cells, "cell"));
    let mut cells = vec![
        Cell::new(overall.student.clone()).with(all),
        Cell::new(overall.teacher.clone()),
        Cell::new("all"),
        Cell::new("all"),
        Cell::unknown(),
        Cell::unknown(),
    ];
    cells.extend(compared(
        &overall.ept_out,
        overall.undecided,
        overall.accuracy_difference.as_ref(),
        &overall.break_even,
    ));
    TableRow { cells, total: true }
}

fn compared(
    comparison: &Comparison,
    undecided: Option<Undecided>,
    accuracy: Option<&Estimate>,
    pays: &BreakEven,
) -> [Cell; 5] {
    let factor = comparison.factor.as_ref();
    [
        Cell::estimate(comparison.saving.as_ref(), Scale::PERCENT),
        factor.map_or(Cell::unknown(), |f| Cell::new(format::times(f))),
        verdict(comparison, undecided),
        accuracy.map_or(Cell::unknown(), points),
        break_even(pays),
    ]
}

fn at_floor(known: Option<AtFloor>) -> Cell {
    let Some(AtFloor { saving, base_multiple, new_multiple }) = known else { return Cell::unknown() };
    let multiples = format!("{}× and {}×", format::number(base_multiple, None), format::number(new_multiple, None));
    Cell::new(format::whole_percent(saving)).with(multiples)
}

fn verdict(comparison: &Comparison, undecided: Option<Undecided>) -> Cell {
    let tone = match comparison.verdict {
        Verdict::Improved => Some("good"),
        Verdict::Regressed => Some("bad"),
        Verdict::Inconclusive => Some("warn"),
        Verdict::Equivalent => None,
    };
    let verdict = Cell::new(comparison.verdict.words()).toned(tone);
    match (comparison.p_adjusted, undecided) {
        (Some(p), _) => verdict.with(format::p_value(p)),
        (None, Some(why)) => verdict.with(why.words()),
        (None, None) => verdict,
    }
}

/// A difference in accuracy, in a column that names the unit.
fn points(difference: &Estimate) -> Cell {
    Cell::new(format::signed_value(difference)).with(format::interval(difference, Scale::PERCENT))
}

fn break_even(pays: &BreakEven) -> Cell {
    match pays {
        BreakEven::Tokens(tokens) => {
            let scale = Scale::counts([tokens.value]);
            let number = format::value(tokens, scale);
            let text = if scale.unit.is_empty() { number } else { format!("{number} {}", scale.unit) };
            Cell::new(text).with(format::interval(tokens, scale))
        }
        BreakEven::Never => Cell::new("never").with("saving not established"),
        BreakEven::Unknown(why) => Cell::unknown().with(why.words()),
    }
}
