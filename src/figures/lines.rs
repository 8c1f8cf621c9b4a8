//! Energy per output token along one axis of the sweep, in one panel for each value of the other.

use super::axis::{self, Axis, Panel, label_ticks, labels_width, title_y};
use super::legend;
use super::picture::{At, Picture};
use super::theme::{FULL_WIDTH, LINE, MARGIN, ModelStyle, Styles};
use crate::analysis::{CellSummary, Estimate, Study};
use crate::format::{self, Scale};
use crate::units::Joules;

const PANELS_IN_A_ROW: usize = 4;
/// Points of different models at the same place are set this far apart.
const DODGE: f64 = 2.2;

/// Which axis of the sweep lies along the bottom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Along {
    /// The batch size; a panel for each output length.
    BatchSize,
    /// The output length; a panel for each batch size.
    OutputLength,
}

impl Along {
    fn x(self, cell: &CellSummary) -> usize {
        match self {
            Along::BatchSize => cell.batch_size,
            Along::OutputLength => cell.max_new_tokens,
        }
    }

    fn panel(self, cell: &CellSummary) -> usize {
        match self {
            Along::BatchSize => cell.max_new_tokens,
            Along::OutputLength => cell.batch_size,
        }
    }

    fn panel_name(self, value: usize) -> String {
        match self {
            Along::BatchSize => format::plural(value, "new token"),
            Along::OutputLength => format!("Batch size {value}"),
        }
    }

    /// A place on the axis in words.
    fn at(self, value: usize) -> String {
        match self {
            Along::BatchSize => format!("batch size {value}"),
            Along::OutputLength => format::plural(value, "new token"),
        }
    }

    fn title(self) -> &'static str {
        match self {
            Along::BatchSize => "Batch size",
            Along::OutputLength => "New tokens",
        }
    }
}

/// The curves in their panels.
#[derive(Debug, Clone, PartialEq)]
pub struct LinesData {
    along: Along,
    panels: Vec<(usize, Vec<Curve>)>,
    sizes: Vec<usize>,
    models: Vec<ModelStyle>,
    caveat: Option<&'static str>,
}

#[derive(Debug, Clone, PartialEq)]
struct Curve {
    style: ModelStyle,
    /// In the order of the axis; a cell whose energy isn't known leaves a gap.
    points: Vec<(usize, Option<Estimate>)>,
}

impl Curve {
    fn known(&self) -> impl Iterator<Item = (usize, Estimate)> {
        self.points.iter().filter_map(|(x, estimate)| Some((*x, (*estimate)?)))
    }
}

/// The cells with a known energy per output token; `None` if they don't differ along the axis.
pub(crate) fn series(study: &Study, along: Along) -> Option<LinesData> {
    let styles = Styles::of(study);
    let known = |cell: &&CellSummary| cell.ept_out_j.is_some_and(|e| e.value.is_finite());
    let cells: Vec<&CellSummary> = study.cells.iter().filter(known).collect();
    let sizes = sorted(cells.iter().map(|cell| along.x(cell)));
    let panels = sorted(cells.iter().map(|cell| along.panel(cell)));
    let models = styles.only(cells.iter().map(|cell| cell.model.as_str()));
    let curves = |panel: usize| {
        let of = |style: &ModelStyle| {
            let own = study.cells.iter().filter(|c| along.panel(c) == panel && c.model == style.label);
            let finite = |c: &CellSummary| c.ept_out_j.filter(|e| e.value.is_finite());
            let mut points: Vec<_> = own.map(|c| (along.x(c), finite(c))).collect();
            points.sort_by_key(|(x, _)| *x);
            Curve { style: style.clone(), points }
        };
        models.iter().map(of).filter(|curve| curve.known().next().is_some()).collect::<Vec<_>>()
    };
    let panels = panels.into_iter().map(|panel| (panel, curves(panel))).collect();
    let caveat = format::caveat(&study.methods);
    (sizes.len() > 1).then(|| LinesData { along, panels, sizes, models: models.clone(), caveat })
}

fn sorted(values: impl Iterator<Item = usize>) -> Vec<usize> {
    let mut values: Vec<usize> = values.collect();
    values.sort_unstable();
    values.dedup();
    values
}

impl LinesData {
    pub(crate) fn caption(&self) -> String {
        let (by, panel) = match self.along {
            Along::BatchSize => ("batch size", "number of new tokens"),
            Along::OutputLength => ("number of new tokens", "batch size"),
        };
        let panels = if self.panels.len() > 1 { format!(", one panel per {panel}") } else { String::new() };
        format!(
            "Energy per output token by {by}{panels}. Bars are 95 % intervals over repeats; bars shorter than their \
             marker are hidden by it. Models are shifted slightly sideways so that equal values remain visible."
        )
    }

    /// For readers who can't see the figure.
    pub(crate) fn alt(&self) -> String {
        let curves = self.panels.iter().flat_map(|(panel, curves)| curves.iter().map(move |curve| (*panel, curve)));
        let ends = curves.take(6).filter_map(|(panel, curve)| {
            let ((x0, from), (x1, to)) = (curve.known().next()?, curve.known().last()?);
            let energy = |e: Estimate| format::joules(Some(Joules(e.value)));
            let (panel, model, at) = (self.along.panel_name(panel), &curve.style.label, self.along.at(x0));
            let change = format!("{panel}, {model}: from {} at {at} to {} at {x1}", energy(from), energy(to));
            (x1 > x0).then_some(change)
        });
        format!("Line chart of energy per output token. {}.", ends.collect::<Vec<_>>().join("; "))
    }

    fn estimates(&self) -> impl Iterator<Item = Estimate> {
        self.panels.iter().flat_map(|(_, curves)| curves).flat_map(Curve::known).map(|(_, estimate)| estimate)
    }

    /// Values that the vertical axis has to reach.
    fn ends(&self) -> Vec<f64> {
        let ends = |e: Estimate| e.interval.map_or([e.value; 2], |i| [i.low, i.high]).into_iter().chain([e.value]);
        // an interval that reaches zero has no place on a logarithmic axis and is cut at the axis
        let smallest = self.estimates().map(|e| e.value).fold(f64::INFINITY, f64::min);
        self.estimates().flat_map(ends).map(|v| if v <= 0.0 { smallest / 2.0 } else { v }).collect()
    }
}

/// Draws the figure.
pub fn draw(series: &LinesData) -> Picture {
    let rows = series.panels.len().div_ceil(PANELS_IN_A_ROW).max(1);
    let columns = series.panels.len().div_ceil(rows).max(1);
    let panel_height = if rows > 1 { 110.0 } else { 150.0 };
    let row_height = panel_height + 20.0 + 34.0;
    let strip = legend::draw(&mut Picture::new(FULL_WIDTH, 100.0), &series.models, true, series.caveat);
    let top = MARGIN + strip + 14.0;
    let mut picture = Picture::new(FULL_WIDTH, top + rows as f64 * row_height);
    legend::draw(&mut picture, &series.models, true, series.caveat);
    let y = Axis::spanning(series.ends());
    let scale = Scale::joules(series.estimates().map(|e| e.value));
    let y_ticks = label_ticks(&y.ticks(5), scale.factor);
    let title = format!("Energy per output token ({}){}", scale.unit, axis::kind(&y));
    title_y(&mut picture, (MARGIN, top - 2.0), &title);
    let left = MARGIN + labels_width(&y_ticks) + 5.0;
    let width = (FULL_WIDTH - MARGIN - left + 14.0) / columns as f64;
    for (i, (value, curves)) in series.panels.iter().enumerate() {
        let left = left + (i % columns) as f64 * width;
        let top = top + (i / columns) as f64 * row_height + 20.0;
        let x = Axis::sizes(series.sizes.iter().map(|size| *size as f64));
        let panel = Panel { left, top, right: left + width - 14.0, bottom: top + panel_height, x, y };
        panel.grid_y(&mut picture, &y_ticks);
        if i % columns == 0 {
            panel.axis_y(&mut picture, &y_ticks);
        }
        panel.name(&mut picture, &series.along.panel_name(*value));
        draw_panel(&mut picture, &panel, series, curves);
    }
    picture
}

fn draw_panel(picture: &mut Picture, panel: &Panel, series: &LinesData, curves: &[Curve]) {
    let sizes: Vec<f64> = series.sizes.iter().map(|size| *size as f64).collect();
    panel.axis_x(picture, &label_ticks(&sizes, 1.0));
    panel.title_x(picture, series.along.title());
    for curve in curves {
        draw_curve(picture, panel, curve, dodge(series, curve));
    }
}

fn dodge(series: &LinesData, curve: &Curve) -> f64 {
    let n = series.models.len();
    let i = series.models.iter().position(|m| m.label == curve.style.label).unwrap_or(0);
    let step = DODGE.min(8.0 / n.max(1) as f64);
    (i as f64 - (n as f64 - 1.0) / 2.0) * step
}

fn draw_curve(picture: &mut Picture, panel: &Panel, curve: &Curve, shift: f64) {
    let color = curve.style.color;
    let at = |x: usize, e: &Estimate| -> At { (panel.x_at(x as f64) + shift, panel.y_at(e.value)) };
    for unbroken in curve.points.split(|(_, estimate)| estimate.is_none()).filter(|run| run.len() > 1) {
        let line = unbroken.iter().filter_map(|(x, estimate)| Some(at(*x, estimate.as_ref()?)));
        picture.line(line.collect::<Vec<_>>(), color, LINE);
    }
    for (size, estimate) in curve.known() {
        let (x, y) = at(size, &estimate);
        if let Some(i) = estimate.interval {
            picture.bar_y(x, (panel.y_at(i.low), panel.y_at(i.high)), color);
        }
        picture.marker(curve.style.shape, (x, y), color, false);
    }
}
