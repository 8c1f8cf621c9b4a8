//! The tables of a report.

use super::context::{Cell, Column, Row, Table};
use crate::analysis::{
    Accuracy, BreakEven, BreakEvenUnknown, CellSummary, Comparison, Estimate, Saving, Study, Verdict,
};
use crate::format::{self, Scale};
use crate::record::Reason;

type Get<T> = fn(&T) -> Option<Estimate>;

/// Savings of each student and control in each cell, and over all cells.
pub fn savings(study: &Study) -> Option<Table> {
    if study.savings.is_empty() && study.overall.is_empty() {
        return None;
    }
    let pairs: Vec<_> =
        study.savings.iter().map(|s| (s, ept(study, &s.teacher, s), ept(study, &s.student, s))).collect();
    let known = pairs.iter().flat_map(|(_, teacher, student)| [teacher, student]).flatten().map(|e| e.value);
    let scale = Scale::joules(known);
    let mut rows: Vec<Row> = pairs.iter().map(|(s, t, o)| saving_row(s, t.as_ref(), o.as_ref(), scale)).collect();
    rows.extend(study.overall.iter().map(overall_row));
    let columns = vec![
        Column::words("Model"),
        Column::words("Against"),
        Column::numbers("Batch", ""),
        Column::numbers("New tokens", ""),
        Column::numbers("EPT teacher", scale.unit),
        Column::numbers("EPT model", scale.unit),
        Column::numbers("Saving", "%"),
        Column::numbers("Factor", ""),
        Column::words("Verdict"),
        Column::numbers("Accuracy", "points"),
        Column::numbers("Break-even", "tokens"),
    ];
    let caption = "Energy per output token of each model against its teacher at equal batch size and output length, \
        with 95 % intervals. p values are adjusted over the cells (Holm). Break-even: output tokens after which the \
        energy of training is paid back.";
    Some(Table { id: "table-savings", caption: caption.to_owned(), caveat: caveat(study), columns, rows })
}

fn ept(study: &Study, model: &str, at: &Saving) -> Option<Estimate> {
    let same =
        |c: &&CellSummary| c.model == model && c.batch_size == at.batch_size && c.max_new_tokens == at.max_new_tokens;
    study.cells.iter().filter(same).find_map(|cell| cell.ept_out_j)
}

/// What has to stand on a table of energies that aren't measured.
pub(super) fn caveat(study: &Study) -> Option<&'static str> {
    format::caveat(&study.methods)
}

fn saving_row(saving: &Saving, teacher: Option<&Estimate>, own: Option<&Estimate>, scale: Scale) -> Row {
    let mut cells = vec![
        Cell::new(saving.student.clone()).with(saving.role.words()),
        Cell::new(saving.teacher.clone()),
        Cell::new(format::count(saving.batch_size as u64)),
        Cell::new(format::count(saving.max_new_tokens as u64)),
        estimate(teacher, scale),
        estimate(own, scale),
    ];
    cells.extend(compared(&saving.ept_out, saving.accuracy_difference.as_ref(), &saving.break_even));
    Row::new(cells)
}

fn overall_row(overall: &crate::analysis::OverallSaving) -> Row {
    let all = format!("all {}", format::plural(overall.cells, "cell"));
    let mut cells = vec![
        Cell::new(overall.student.clone()).with(all),
        Cell::new(overall.teacher.clone()),
        Cell::new("all"),
        Cell::new("all"),
        Cell::unknown(),
        Cell::unknown(),
    ];
    cells.extend(compared(&overall.ept_out, overall.accuracy_difference.as_ref(), &overall.break_even));
    Row { cells, total: true }
}

fn compared(comparison: &Comparison, accuracy: Option<&Estimate>, pays: &BreakEven) -> [Cell; 5] {
    let factor = comparison.factor.as_ref();
    let tone = match comparison.verdict {
        Verdict::Improved => Some("good"),
        Verdict::Regressed => Some("bad"),
        Verdict::Inconclusive => Some("warn"),
        Verdict::Equivalent => None,
    };
    let verdict = Cell::new(format::verdict(comparison.verdict)).toned(tone);
    [
        estimate(comparison.saving.as_ref(), Scale::PERCENT),
        factor.map_or(Cell::unknown(), |f| Cell::new(format::times(f))),
        match comparison.p_adjusted {
            Some(p) => verdict.with(format::p_value(p)),
            None => verdict,
        },
        accuracy.map_or(Cell::unknown(), points),
        break_even(pays),
    ]
}

/// A difference of accuracies under a head that names the unit.
fn points(difference: &Estimate) -> Cell {
    let signed = format::signed_points(difference);
    let number = signed.split('\u{a0}').next().unwrap_or_default();
    Cell::new(number).with(format::interval(difference, Scale::PERCENT))
}

fn break_even(pays: &BreakEven) -> Cell {
    match pays {
        BreakEven::Tokens(tokens) => {
            let scale = Scale::counts([tokens.value]);
            let number = format::value(tokens, scale);
            let text = if scale.unit.is_empty() { number } else { format!("{number} {}", scale.unit) };
            Cell::new(text).with(format::interval(tokens, scale))
        }
        BreakEven::Never => Cell::new("never").with("no sure saving"),
        BreakEven::Unknown(why) => Cell::unknown().with(match why {
            BreakEvenUnknown::NoTrainingEnergy => "no training energy",
            BreakEvenUnknown::MixedMethods => "mixed methods",
            BreakEvenUnknown::UnknownSaving => "saving unknown",
        }),
    }
}

/// A number of a column with its interval below it.
pub(super) fn estimate(of: Option<&Estimate>, scale: Scale) -> Cell {
    match of {
        Some(e) if e.value.is_finite() => Cell::new(format::value(e, scale)).with(format::interval(e, scale)),
        _ => Cell::unknown(),
    }
}

/// Every cell of the plan, measured or not.
pub fn results(study: &Study) -> Table {
    let numbers = result_numbers(study);
    let mut columns = vec![
        Column::words("Model"),
        Column::numbers("Batch", ""),
        Column::numbers("New tokens", ""),
        Column::numbers("Valid", ""),
        Column::numbers("T_in", "tokens"),
        Column::numbers("T_out", "tokens"),
    ];
    columns.extend(numbers.iter().map(|(title, scale, _)| Column::numbers(*title, scale.unit)));
    columns.push(Column::words("Remarks"));
    let rows = study.cells.iter().map(|cell| result_row(cell, &numbers)).collect();
    let caption = "Every cell, with 95 % intervals over its repeats. E and T are of one pass over the prompts; \
        EPT is energy per token.";
    Table { id: "table-results", caption: caption.to_owned(), caveat: caveat(study), columns, rows }
}

/// The columns of estimates: title, unit for all rows, and where the number comes from.
fn result_numbers(study: &Study) -> Vec<(&'static str, Scale, Get<CellSummary>)> {
    let energies: [(&'static str, Get<CellSummary>); 5] = [
        ("E per pass", |c| c.energy_per_pass_j),
        ("EPT_in", |c| c.ept_in_j),
        ("EPT_out", |c| c.ept_out_j),
        ("EPT_total", |c| c.ept_total_j),
        ("EPT_out, net", |c| c.net_ept_out_j),
    ];
    let known = |get: Get<CellSummary>| study.cells.iter().filter_map(get).map(|e| e.value);
    let scaled = energies.into_iter().map(|(title, get)| (title, Scale::joules(known(get)), get));
    let rates: [(&'static str, Scale, Get<CellSummary>); 2] =
        [("Speed", Scale::plain("tokens/s"), |c| c.tokens_per_s), ("Power", Scale::plain("W"), |c| c.power_w)];
    let needed = |get: Get<CellSummary>, title: &str| title != "EPT_out, net" || known(get).next().is_some();
    scaled.chain(rates).filter(|(title, _, get)| needed(*get, title)).collect()
}

fn result_row(cell: &CellSummary, numbers: &[(&'static str, Scale, Get<CellSummary>)]) -> Row {
    let tokens = cell.tokens_per_pass;
    let whole = |n: Option<f64>| n.map_or(Cell::unknown(), |n| Cell::new(format::fixed(n, 0)));
    let input = match tokens {
        Some(t) if t.pad_fraction > 0.0 => {
            whole(Some(t.input)).with(format!("+{} padding", format::fraction(t.pad_fraction)))
        }
        other => whole(other.map(|t| t.input)),
    };
    let mut cells = vec![
        Cell::new(cell.model.clone()).with(format!(
            "{}, {}{}",
            cell.role.words(),
            cell.dtype,
            if cell.dummy_weights { ", dummy weights" } else { "" }
        )),
        Cell::new(format::count(cell.batch_size as u64)),
        Cell::new(format::count(cell.max_new_tokens as u64)),
        valid(cell),
        input,
        whole(tokens.map(|t| t.output)),
    ];
    cells.extend(numbers.iter().map(|(_, scale, get)| estimate(get(cell).as_ref(), *scale)));
    cells.push(remarks(cell));
    Row::new(cells)
}

fn valid(cell: &CellSummary) -> Cell {
    let (valid, planned) = (cell.counts.valid, cell.counts.planned);
    let tone = match valid {
        0 => Some("bad"),
        _ if valid < planned => Some("warn"),
        _ => None,
    };
    Cell::new(format!("{}/{}", format::count(valid as u64), format::count(planned as u64))).toned(tone)
}

fn remarks(cell: &CellSummary) -> Cell {
    let codes = |reasons: &[Reason]| reasons.iter().map(|r| r.words()).collect::<Vec<_>>().join(", ");
    let mut parts: Vec<String> = Vec::new();
    let counts = [(cell.counts.invalid, "invalid"), (cell.counts.failed, "failed"), (cell.counts.skipped, "skipped")];
    parts.extend(counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{} {what}", format::count(*n as u64))));
    if !cell.invalid_reasons.is_empty() {
        parts.push(codes(&cell.invalid_reasons));
    }
    if !cell.warnings.is_empty() {
        parts.push(codes(&cell.warnings));
    }
    Cell::new(parts.join("; "))
}

/// Accuracy by model and output length, and by category.
pub fn accuracy(study: &Study) -> Vec<Table> {
    if study.accuracies.is_empty() {
        return Vec::new();
    }
    std::iter::once(by_model(study)).chain(by_category(study)).collect()
}

fn by_model(study: &Study) -> Table {
    let columns = vec![
        Column::words("Model"),
        Column::numbers("New tokens", ""),
        Column::numbers("Exact match", "%"),
        Column::numbers("SE, exact match", "points"),
        Column::numbers("ROUGE-L", ""),
        Column::numbers("SE, ROUGE-L", ""),
        Column::numbers("Prompts", ""),
        Column::words("Data set"),
    ];
    let row = |a: &Accuracy| {
        Row::new(vec![
            Cell::new(a.model.clone()).with(a.role.words()),
            Cell::new(format::count(a.max_new_tokens as u64)),
            estimate(Some(&a.exact_match), Scale::PERCENT),
            Cell::new(format::fixed(a.exact_match_stderr * 100.0, 1)),
            rouge(&a.rouge_l),
            Cell::new(a.rouge_l_stderr.map_or_else(|| format::UNKNOWN.to_owned(), |error| format::fixed(error, 3))),
            Cell::new(format::count(a.exact_match.n as u64)),
            Cell::new(a.dataset.clone()),
        ])
    };
    let caption = "Accuracy on held-out prompts, scored outside every energy window, with 95 % intervals (Wilson for \
        exact match, Student's t for ROUGE-L) and standard errors (SE).";
    let rows = study.accuracies.iter().map(row).collect();
    Table { id: "table-accuracy", caption: caption.to_owned(), caveat: None, columns, rows }
}

fn rouge(score: &Estimate) -> Cell {
    let value = Cell::new(format::fixed(score.value, 3));
    match score.interval {
        Some(i) => value.with(format!("[{}, {}]", format::fixed(i.low, 3), format::fixed(i.high, 3))),
        None => value,
    }
}

/// A row for each category, a column for each model at its longest output length.
fn by_category(study: &Study) -> Option<Table> {
    let longest = longest(study);
    let mut names: Vec<(&str, usize)> = Vec::new();
    for (name, _, n) in longest.iter().flat_map(|a| &a.by_category) {
        if !names.iter().any(|(known, _)| known == name) {
            names.push((name, *n));
        }
    }
    let mut columns = vec![Column::words("Category"), Column::numbers("Prompts", "")];
    columns.extend(longest.iter().map(|a| Column::numbers(a.model.clone(), "%")));
    let share = |a: &Accuracy, name: &str| {
        let found = a.by_category.iter().find(|(own, _, _)| own == name);
        found.map_or(Cell::unknown(), |(_, share, _)| Cell::new(format::fixed(share * 100.0, 0)))
    };
    let row = |(name, n): &(&str, usize)| {
        let mut cells = vec![Cell::new(*name), Cell::new(format::count(*n as u64))];
        cells.extend(longest.iter().map(|a| share(a, name)));
        Row::new(cells)
    };
    let rows: Vec<Row> = names.iter().map(row).collect();
    let caption = "Exact match by category, at each model's longest output length.".to_owned();
    (rows.len() > 1).then_some(Table { id: "table-categories", caption, caveat: None, columns, rows })
}

fn longest(study: &Study) -> Vec<&Accuracy> {
    let mut longest: Vec<&Accuracy> = Vec::new();
    for accuracy in &study.accuracies {
        match longest.iter_mut().find(|known| known.model == accuracy.model) {
            Some(known) if known.max_new_tokens < accuracy.max_new_tokens => *known = accuracy,
            Some(_) => {}
            None => longest.push(accuracy),
        }
    }
    longest
}

/// How often each reason occurred, and what it means.
pub fn reasons(study: &Study) -> Option<Table> {
    let columns = vec![
        Column::words("Reason"),
        Column::numbers("Invalid trials", ""),
        Column::numbers("Warned trials", ""),
        Column::words("Meaning"),
    ];
    let row = |r: &crate::analysis::ReasonCount| {
        let tone = if r.invalid > 0 { Some("bad") } else { Some("warn") };
        Row::new(vec![
            Cell::new(r.reason.code()).toned(tone),
            Cell::new(format::count(r.invalid as u64)),
            Cell::new(format::count(r.warned as u64)),
            Cell::new(r.reason.explanation()),
        ])
    };
    let rows: Vec<Row> = study.reasons.iter().map(row).collect();
    let caption = "What speaks against trials. An invalid trial is in no headline; a warned one stands.".to_owned();
    (!rows.is_empty()).then_some(Table { id: "table-reasons", caption, caveat: None, columns, rows })
}

/// The cells of which trials failed or were skipped, with their messages.
pub fn failures(study: &Study) -> Option<Table> {
    let columns = vec![
        Column::words("Cell"),
        Column::numbers("Failed", ""),
        Column::numbers("Skipped", ""),
        Column::words("Message"),
    ];
    let broken = |c: &&CellSummary| c.counts.failed + c.counts.skipped > 0 || !c.failures.is_empty();
    let row = |c: &CellSummary| {
        Row::new(vec![
            Cell::new(c.id.clone()),
            Cell::new(format::count(c.counts.failed as u64)),
            Cell::new(format::count(c.counts.skipped as u64)),
            Cell::new(c.failures.join("; ")),
        ])
    };
    let rows: Vec<Row> = study.cells.iter().chain(&study.probes).filter(broken).map(row).collect();
    let caption = "Trials that failed or were skipped.".to_owned();
    (!rows.is_empty()).then_some(Table { id: "table-failures", caption, caveat: None, columns, rows })
}
