//! The saving of each student and control relative to its teacher, at each batch size and output length.

use std::collections::BTreeMap;

use super::axis::{Axis, Panel, label_ticks};
use super::legend;
use super::picture::{Align, HALF_DIGIT, Picture, Text};
use super::theme::{FULL_WIDTH, HAIR, INK, MARGIN, MEDIUM, MUTED, ModelStyle, SMALL, Styles, THIN, text_width};
use crate::analysis::{Comparison, Estimate, Study, Verdict};
use crate::format::{self, Scale};

const ROW: f64 = 9.5;
const GROUP_GAP: f64 = 5.0;
/// Above this number of rows the cells of a model share one.
const MOST_ROWS: usize = 48;

/// The rows in their groups, and what their captions need.
#[derive(Debug, Clone, PartialEq)]
pub struct SavingsData {
    groups: Vec<Group>,
    models: Vec<ModelStyle>,
    teachers: Vec<String>,
    inconclusive: bool,
    /// There are too many cells for a row each.
    condensed: bool,
    caveat: Option<&'static str>,
}

/// The comparisons of one batch size and output length, or of all of them.
#[derive(Debug, Clone, PartialEq)]
struct Group {
    label: String,
    whole: bool,
    rows: Vec<SavingRow>,
}

#[derive(Debug, Clone, PartialEq)]
struct SavingRow {
    style: ModelStyle,
    saving: Estimate,
    verdict: Verdict,
    /// The savings of the individual cells, if they share this row.
    cells: Vec<f64>,
}

/// The known savings; `None` without any.
pub fn series(study: &Study) -> Option<SavingsData> {
    let styles = Styles::of(study);
    let mut groups = by_cell(study, &styles);
    let overall: Vec<SavingRow> = study.overall.iter().filter_map(|o| row(&styles, &o.student, &o.ept_out)).collect();
    let rows = groups.iter().map(|group| group.rows.len()).sum::<usize>();
    let condensed = rows > MOST_ROWS && !overall.is_empty();
    if condensed {
        groups = by_model(study, overall);
    } else if groups.len() > 1 && !overall.is_empty() {
        groups.push(Group { label: "All cells".to_owned(), whole: true, rows: overall });
    }
    let rows = || groups.iter().flat_map(|g| &g.rows);
    // a group of one model already names it
    let named = if condensed { Vec::new() } else { rows().map(|row| row.style.label.as_str()).collect() };
    let models = styles.only(named);
    let inconclusive = rows().any(|row| row.verdict == Verdict::Inconclusive);
    let mut teachers: Vec<String> = study.savings.iter().map(|s| s.teacher.clone()).collect();
    teachers.sort();
    teachers.dedup();
    let caveat = format::caveat(&study.methods);
    (!groups.is_empty()).then_some(SavingsData { groups, models, teachers, inconclusive, condensed, caveat })
}

fn row(styles: &Styles, model: &str, comparison: &Comparison) -> Option<SavingRow> {
    let saving = comparison.saving.filter(|s| s.value.is_finite())?;
    Some(SavingRow { style: styles.get(model), saving, verdict: comparison.verdict, cells: Vec::new() })
}

/// A group for each batch size and output length.
fn by_cell(study: &Study, styles: &Styles) -> Vec<Group> {
    let mut groups: BTreeMap<(usize, usize), Vec<SavingRow>> = BTreeMap::new();
    for saving in &study.savings {
        if let Some(row) = row(styles, &saving.student, &saving.ept_out) {
            groups.entry((saving.batch_size, saving.max_new_tokens)).or_default().push(row);
        }
    }
    groups.into_iter().map(|(cell, rows)| Group { label: group_label(cell), whole: false, rows }).collect()
}

/// A group with one row for each model, over all its cells.
fn by_model(study: &Study, overall: Vec<SavingRow>) -> Vec<Group> {
    let cells = |model: &str| {
        let own = study.savings.iter().filter(move |s| s.student == model);
        own.filter_map(|s| s.ept_out.saving).map(|s| s.value).filter(|v| v.is_finite()).collect()
    };
    let group = |row: SavingRow| Group {
        label: short(&row.style.name()),
        whole: false,
        rows: vec![SavingRow { cells: cells(&row.style.label), ..row }],
    };
    overall.into_iter().map(group).collect()
}

fn group_label((batch, length): (usize, usize)) -> String {
    format!("Batch {batch}, {}", format::plural(length, "token"))
}

impl SavingsData {
    pub(crate) fn caption(&self) -> String {
        let ticks = if self.condensed { " Small ticks are the individual cells." } else { "" };
        let hollow = if self.inconclusive { " Hollow markers: inconclusive." } else { "" };
        format!(
            "Energy saved per output token relative to {} at equal batch size and output length. Bars are 95 % \
             intervals; points to the right of zero use less energy.{ticks}{hollow}",
            self.reference()
        )
    }

    /// For readers who can't see the figure.
    pub(crate) fn alt(&self) -> String {
        let from = if self.condensed { 0 } else { self.groups.len().saturating_sub(1) };
        let each = self.groups[from..].iter().map(|group| {
            let rows = group.rows.iter().map(|r| format!("{} {}", r.style.label, format::percent(&r.saving)));
            let rows = rows.collect::<Vec<_>>().join("; ");
            if self.condensed { rows } else { format!("{}: {rows}", group.label) }
        });
        let each = each.collect::<Vec<_>>().join("; ");
        format!("Dot plot of the saving relative to {}. {each}.", self.reference())
    }

    fn reference(&self) -> String {
        match self.teachers.as_slice() {
            [one] => one.clone(),
            _ => "each model's teacher".to_owned(),
        }
    }
}

/// Draws the figure: a group of rows for each batch size and output length, and the numbers at the right.
pub fn draw(series: &SavingsData) -> Picture {
    let rows: usize = series.groups.iter().map(|group| group.rows.len()).sum();
    let rows_height = rows as f64 * ROW + series.groups.len() as f64 * GROUP_GAP;
    // the strip of the legend is measured on a scratch picture, since the height depends on it
    let strip = legend::draw(&mut Picture::new(FULL_WIDTH, 100.0), &series.models, false, series.caveat);
    let top = MARGIN + strip + 6.0;
    let mut picture = Picture::new(FULL_WIDTH, top + rows_height + 36.0);
    legend::draw(&mut picture, &series.models, false, series.caveat);
    let panel = panel(series, top, rows_height);
    let ticks = label_ticks(&panel.x.ticks(6), 100.0);
    panel.grid_x(&mut picture, &ticks);
    panel.axis_x(&mut picture, &ticks);
    panel.title_x(
        &mut picture,
        &format!("Energy saved per output token relative to {} (%)", short(&series.reference())),
    );
    zero(&mut picture, &panel);
    let mut y = panel.top;
    for group in &series.groups {
        draw_group(&mut picture, &panel, group, &mut y);
    }
    picture
}

fn short(name: &str) -> String {
    super::theme::fit(name, 120.0, MEDIUM, false)
}

fn panel(series: &SavingsData, top: f64, height: f64) -> Panel {
    let label = |g: &Group| text_width(&g.label, SMALL, g.whole);
    let left = MARGIN + series.groups.iter().map(label).fold(0.0, f64::max) + 8.0;
    let all = || series.groups.iter().flat_map(|group| &group.rows);
    let number = |r: &SavingRow| text_width(&numbers(r), SMALL, false);
    let right = FULL_WIDTH - MARGIN - all().map(number).fold(0.0, f64::max) - 8.0;
    // an interval far below zero would squeeze everything else: it's cut at the edge, with an arrow
    let lowest = all().map(|r| r.saving.value).fold(0.0, f64::min);
    let ends = all().map(|r| r.saving.interval.map_or(r.saving.value, |i| i.low)).filter(|v| v.is_finite());
    let low = ends.fold(lowest, f64::min).max(lowest.min(-1.0));
    let low = all().flat_map(|r| &r.cells).copied().fold(low, f64::min).max(lowest.min(-1.0));
    let low = if low < 0.0 { low * 1.05 - 0.01 } else { 0.0 };
    let highest = all().map(|r| r.saving.interval.map_or(r.saving.value, |i| i.high)).fold(0.0, f64::max);
    let highest = all().flat_map(|r| &r.cells).copied().fold(highest, f64::max);
    let x = Axis::between(low, (highest * 1.05).clamp(0.1, 1.0));
    Panel { left, top, right, bottom: top + height, x, y: Axis::between(0.0, 1.0) }
}

fn zero(picture: &mut Picture, panel: &Panel) {
    let x = panel.x_at(0.0);
    picture.line([(x, panel.top), (x, panel.bottom)], INK, THIN);
}

fn draw_group(picture: &mut Picture, panel: &Panel, group: &Group, y: &mut f64) {
    if group.whole {
        picture.line([(MARGIN, *y), (FULL_WIDTH - MARGIN, *y)], MUTED, HAIR);
    }
    let height = group.rows.len() as f64 * ROW + GROUP_GAP;
    let middle = *y + height / 2.0;
    let at = (MARGIN, middle + SMALL * HALF_DIGIT);
    picture.text(Text { bold: group.whole, ..Text::new(group.label.clone(), at) });
    for (i, row) in group.rows.iter().enumerate() {
        draw_row(picture, panel, row, *y + GROUP_GAP / 2.0 + (i as f64 + 0.5) * ROW, group.whole);
    }
    *y += height;
}

fn draw_row(picture: &mut Picture, panel: &Panel, row: &SavingRow, y: f64, whole: bool) {
    for x in row.cells.iter().map(|cell| panel.x_at(*cell)) {
        picture.line([(x, y - 2.6), (x, y + 2.6)], row.style.color, HAIR);
    }
    if let Some(interval) = row.saving.interval {
        let (x0, x1) = (panel.x_at(interval.low), panel.x_at(interval.high));
        picture.bar_x((x0, x1), y, row.style.color);
        if panel.x.place(interval.low) == 0.0 && panel.x.place(row.saving.value) > 0.0 {
            picture.fill([(x0 - 3.0, y), (x0 + 1.0, y - 2.4), (x0 + 1.0, y + 2.4)], row.style.color);
        }
    }
    let hollow = row.verdict == Verdict::Inconclusive;
    picture.marker(row.style.shape, (panel.x_at(row.saving.value), y), row.style.color, hollow);
    let at = (FULL_WIDTH - MARGIN, y + SMALL * HALF_DIGIT);
    picture.text(Text { align: Align::Right, bold: whole, ..Text::new(numbers(row), at) });
}

fn numbers(row: &SavingRow) -> String {
    match row.saving.interval {
        Some(_) => format::percent(&row.saving),
        None => format!("{} % (n = {})", format::value(&row.saving, Scale::PERCENT), row.saving.n),
    }
}
