//! Power over time in and around one window of each model.

use super::axis::{Axis, Panel, Tick, label_ticks, labels_width, title_y};
use super::legend;
use super::picture::{At, Picture, Text};
use super::theme::{DEEP_SHADE, FULL_WIDTH, HAIR, INK, LINE, MARGIN, MEDIUM, MUTED, ModelStyle, SHADE, Styles, fit};
use crate::analysis::{PowerTrace, Study};
use crate::format;
use crate::record::EnergyMethod;
use crate::units::Seconds;

const PANEL_HEIGHT: f64 = 62.0;
const MOST_POINTS: usize = 1200;
/// Spans that take less of a window than this, on average, run into each other in print.
const THINNEST_SPAN: f64 = 0.002;

/// The traces, one panel each.
#[derive(Debug, Clone, PartialEq)]
pub struct PowerData {
    traces: Vec<WindowTrace>,
    caveat: Option<&'static str>,
}

#[derive(Debug, Clone, PartialEq)]
struct WindowTrace {
    style: ModelStyle,
    /// Time since the window's start, and power.
    points: Vec<(f64, f64)>,
    /// Spans of prefill on the same clock, if they are wide enough to be seen.
    prefill: Vec<(f64, f64)>,
    length: f64,
}

/// The traces with at least two readings, on clocks that start with their windows; `None` without any.
pub fn series(study: &Study, power: &[PowerTrace]) -> Option<PowerData> {
    let styles = Styles::of(study);
    let traces: Vec<WindowTrace> = power.iter().filter_map(|trace| shifted(trace, &styles)).collect();
    let modelled = power.iter().any(|trace| trace.modelled);
    let fallback = if modelled { format::caveat(&[EnergyMethod::Modelled]) } else { None };
    (!traces.is_empty()).then(|| PowerData { traces, caveat: format::caveat(&study.methods).or(fallback) })
}

fn shifted(trace: &PowerTrace, styles: &Styles) -> Option<WindowTrace> {
    let points = trace.points.iter().map(|(t, watts)| (t - trace.t0, *watts));
    let points: Vec<(f64, f64)> = points.filter(|(t, watts)| t.is_finite() && watts.is_finite()).collect();
    let length = trace.t1 - trace.t0;
    let style = ModelStyle { role: trace.role, ..styles.get(&trace.label) };
    let prefill = visible(trace);
    (points.len() > 1 && length.is_finite()).then(|| WindowTrace { style, points: thinned(points), prefill, length })
}

/// Spans of prefill on a clock that starts with the window; none if they are too thin to be distinguished.
fn visible(trace: &PowerTrace) -> Vec<(f64, f64)> {
    let spans = trace.prefill.iter().map(|(from, to)| (from - trace.t0, to - trace.t0));
    let spans: Vec<(f64, f64)> = spans.filter(|(from, to)| from.is_finite() && to > from).collect();
    let mean = spans.iter().map(|(from, to)| to - from).sum::<f64>() / spans.len() as f64;
    if mean >= THINNEST_SPAN * (trace.t1 - trace.t0) { spans } else { Vec::new() }
}

/// Keeps the lowest and the highest of each run of readings if there are more than can be seen.
fn thinned(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    if points.len() <= MOST_POINTS {
        return points;
    }
    let run = points.len().div_ceil(MOST_POINTS / 2);
    let ends = |run: &[(f64, f64)]| {
        let by_power = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        let mut ends: Vec<(f64, f64)> =
            run.iter().min_by(by_power).into_iter().chain(run.iter().max_by(by_power)).copied().collect();
        ends.sort_by(|a, b| a.0.total_cmp(&b.0));
        ends
    };
    points.chunks(run).flat_map(ends).collect()
}

impl PowerData {
    /// What it shows and how to read it; prefill is explained only if a trace shows some.
    pub fn caption(&self) -> String {
        let prefill = if self.traces.iter().any(|trace| !trace.prefill.is_empty()) {
            " Its darker parts are prefill, up to the first token of each batch."
        } else {
            ""
        };
        format!(
            "Power over time in one window of each model. The shaded part is the window, whose energy is counted; the \
             load continues before and after it.{prefill}"
        )
    }

    /// For readers who can't see the figure.
    pub(crate) fn alt(&self) -> String {
        let each = self.traces.iter().map(|trace| {
            let highest = trace.points.iter().map(|(_, watts)| *watts).fold(0.0, f64::max);
            let length = format::duration(Seconds(trace.length));
            format!("{}: window of {length}, peak of {}", trace.style.label, format::watts(highest))
        });
        format!("Power over time. {}.", each.collect::<Vec<_>>().join("; "))
    }
}

/// Draws the figure: a panel for each model, all on the same axes.
pub fn draw(series: &PowerData) -> Picture {
    let columns = match series.traces.len() {
        0..=4 => 1,
        5..=8 => 2,
        _ => 3,
    };
    let rows = series.traces.len().div_ceil(columns);
    let row_height = PANEL_HEIGHT + 18.0;
    let top = MARGIN + 12.0;
    let mut picture = Picture::new(FULL_WIDTH, top + 4.0 + rows as f64 * row_height + 34.0);
    legend::draw(&mut picture, &[], false, series.caveat);
    title_y(&mut picture, (MARGIN, top - 2.0), "Power (W)");
    let (x, y) = axes(series);
    let (x_ticks, y_ticks) = (label_ticks(&x.ticks(8 / columns + 1), 1.0), label_ticks(&y.ticks(4), 1.0));
    let left = MARGIN + labels_width(&y_ticks) + 5.0;
    let width = (FULL_WIDTH - MARGIN - left + 12.0) / columns as f64;
    for (i, trace) in series.traces.iter().enumerate() {
        let (row, column) = (i / columns, i % columns);
        let (left, top) = (left + column as f64 * width, top + 16.0 + row as f64 * row_height);
        let panel = Panel { left, top, right: left + width - 12.0, bottom: top + PANEL_HEIGHT, x, y };
        draw_panel(&mut picture, &panel, trace, &y_ticks);
        if column == 0 {
            panel.axis_y(&mut picture, &y_ticks);
        }
        let lowest = i + columns >= series.traces.len();
        bottom(&mut picture, &panel, &x_ticks, lowest);
    }
    picture
}

/// The axes that all panels share: time over all traces, power from zero.
fn axes(series: &PowerData) -> (Axis, Axis) {
    let points = || series.traces.iter().flat_map(|trace| &trace.points);
    let (first, last) = points().fold((0.0, 0.0), |(a, b): (f64, f64), (t, _)| (a.min(*t), b.max(*t)));
    let last = series.traces.iter().map(|trace| trace.length).fold(last, f64::max);
    (Axis::between(first, last), Axis::from_zero(points().map(|(_, watts)| *watts)))
}

fn draw_panel(picture: &mut Picture, panel: &Panel, trace: &WindowTrace, y_ticks: &[Tick]) {
    let (from, to) = (panel.x_at(0.0), panel.x_at(trace.length));
    picture.rect((from, panel.top), (to, panel.bottom), SHADE);
    for (from, to) in &trace.prefill {
        picture.rect((panel.x_at(*from), panel.top), (panel.x_at(*to), panel.bottom), DEEP_SHADE);
    }
    panel.grid_y(picture, y_ticks);
    for x in [from, to] {
        picture.line([(x, panel.top), (x, panel.bottom)], MUTED, HAIR);
    }
    let line: Vec<At> = trace.points.iter().map(|(t, watts)| panel.at(*t, *watts)).collect();
    picture.line(line, trace.style.color, LINE);
    let name = fit(&trace.style.name(), panel.right - panel.left - 4.0, MEDIUM, true);
    let at = (panel.left, panel.top - 4.0);
    picture.text(Text { bold: true, size: MEDIUM, color: INK, ..Text::new(name, at) });
}

fn bottom(picture: &mut Picture, panel: &Panel, ticks: &[Tick], labelled: bool) {
    if labelled {
        panel.axis_x(picture, ticks);
        panel.title_x(picture, "Time since the start of the window (s)");
    } else {
        let blank = |tick: &Tick| Tick { label: String::new(), ..tick.clone() };
        panel.axis_x(picture, &ticks.iter().map(blank).collect::<Vec<_>>());
    }
}
