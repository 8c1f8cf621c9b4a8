//! Energy against accuracy: one point for each cell, and the front that no other cell beats.

use super::axis::{self, Axis, Panel, label_ticks, labels_width, remark, title_y};
use super::legend;
use super::picture::{Align, At, Mark, Picture, Text};
use super::theme::{FULL_WIDTH, LINE, MARGIN, MARKER, MUTED, ModelStyle, SMALL, Styles};
use crate::analysis::{Estimate, Point, Study};
use crate::format::{self, Scale};

const HEIGHT: f64 = 250.0;
/// Above this number of points only those of the front have bars and labels.
const CROWD: usize = 48;

/// The points, and how they are named.
#[derive(Debug, Clone, PartialEq)]
pub struct EnergyAccuracyData {
    points: Vec<Dot>,
    models: Vec<ModelStyle>,
    /// Batch size, output length or both vary: what the labels say.
    naming: Naming,
    caveat: Option<&'static str>,
}

#[derive(Debug, Clone, PartialEq)]
struct Dot {
    style: ModelStyle,
    energy: Estimate,
    accuracy: Estimate,
    label: String,
    on_front: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Naming {
    Nothing,
    Batch,
    Length,
    Both,
}

impl Naming {
    fn of(points: &[Point]) -> Self {
        let varies = |of: fn(&Point) -> usize| points.windows(2).any(|pair| of(&pair[0]) != of(&pair[1]));
        match (varies(|p| p.batch_size), varies(|p| p.max_new_tokens)) {
            (false, false) => Naming::Nothing,
            (true, false) => Naming::Batch,
            (false, true) => Naming::Length,
            (true, true) => Naming::Both,
        }
    }

    fn label(self, point: &Point) -> String {
        match self {
            Naming::Nothing => String::new(),
            Naming::Batch => point.batch_size.to_string(),
            Naming::Length => point.max_new_tokens.to_string(),
            Naming::Both => format!("{}/{}", point.batch_size, point.max_new_tokens),
        }
    }

    fn explanation(self) -> &'static str {
        match self {
            Naming::Nothing => "",
            Naming::Batch => "Labels: batch size.",
            Naming::Length => "Labels: new tokens.",
            Naming::Both => "Labels: batch size / new tokens.",
        }
    }
}

/// The points with a finite energy and accuracy; `None` without any.
pub fn series(study: &Study) -> Option<EnergyAccuracyData> {
    let shown = |p: &&Point| p.ept_out_j.value.is_finite() && p.accuracy.value.is_finite();
    let points: Vec<Point> = study.points.iter().filter(shown).cloned().collect();
    let styles = Styles::of(study);
    let naming = Naming::of(&points);
    let models = styles.only(points.iter().map(|p| p.model.as_str()));
    let dots = points.iter().map(|p| Dot {
        style: styles.get(&p.model),
        energy: p.ept_out_j,
        accuracy: p.accuracy,
        label: naming.label(p),
        on_front: p.on_front,
    });
    let mut points: Vec<Dot> = dots.collect();
    points.sort_by_key(|dot| dot.on_front);
    (!points.is_empty()).then(|| EnergyAccuracyData { points, models, naming, caveat: format::caveat(&study.methods) })
}

impl EnergyAccuracyData {
    pub(crate) fn caption(&self) -> String {
        let front = " The stepped line is the Pareto front: no other cell has both lower energy and higher accuracy \
            than a filled point.";
        let front = if self.has_front() { front } else { "" };
        let crowd = if self.crowded() { " Only points on the front have bars and labels." } else { "" };
        format!(
            "Energy per output token against exact match on held-out prompts, one point per cell. Bars are 95 % \
             intervals (over repeats for energy, over prompts for accuracy).{front}{crowd} {}",
            self.naming.explanation()
        )
        .trim_end()
        .to_owned()
    }

    /// For readers who can't see the figure.
    pub(crate) fn alt(&self) -> String {
        let best = |better: fn(&Dot, &Dot) -> bool| {
            self.points.iter().reduce(|a, b| if better(b, a) { b } else { a }).map(|dot| {
                let energy = format::energy(&dot.energy);
                format!(
                    "{} with {energy} per token and {} exact match",
                    dot.style.label,
                    format::percent(&dot.accuracy)
                )
            })
        };
        let thrifty = best(|a, b| a.energy.value < b.energy.value).unwrap_or_default();
        let accurate = best(|a, b| a.accuracy.value > b.accuracy.value).unwrap_or_default();
        format!(
            "Scatter plot of {} of {}. Lowest energy: {thrifty}. Highest accuracy: {accurate}.",
            format::plural(self.points.len(), "cell"),
            format::plural(self.models.len(), "model")
        )
    }

    fn crowded(&self) -> bool {
        self.points.len() > CROWD && self.has_front()
    }

    /// The points that have bars and labels.
    fn detailed(&self) -> impl Iterator<Item = &Dot> {
        self.points.iter().filter(|dot| dot.on_front || !self.crowded())
    }

    fn has_front(&self) -> bool {
        self.points.iter().filter(|p| p.on_front).count() > 1
    }
}

/// Draws the figure.
pub fn draw(series: &EnergyAccuracyData) -> Picture {
    let mut picture = Picture::new(FULL_WIDTH, HEIGHT);
    let top = MARGIN + legend::draw(&mut picture, &series.models, false, series.caveat);
    let panel = axes(&mut picture, series, top);
    if series.has_front() {
        front(&mut picture, &panel, series);
    }
    bars(&mut picture, &panel, series);
    for dot in &series.points {
        let hollow = series.has_front() && !dot.on_front;
        picture.marker(dot.style.shape, panel.at(dot.energy.value, dot.accuracy.value), dot.style.color, hollow);
    }
    labels(&mut picture, &panel, series);
    picture
}

fn axes(picture: &mut Picture, series: &EnergyAccuracyData, top: f64) -> Panel {
    let ends = |e: &Estimate| e.interval.map_or([e.value; 2], |i| [i.low, i.high]).into_iter().chain([e.value]);
    let x = Axis::spanning(series.points.iter().flat_map(|p| ends(&p.energy)));
    let y = accuracy_axis(&series.points.iter().flat_map(|p| ends(&p.accuracy)).collect::<Vec<_>>());
    let scale = Scale::joules(series.points.iter().map(|p| p.energy.value));
    let x_ticks = label_ticks(&x.ticks(7), scale.factor);
    let y_ticks = label_ticks(&y.ticks(6), 100.0);
    let left = MARGIN + labels_width(&y_ticks) + 5.0;
    let panel = Panel { left, top: top + 17.0, right: FULL_WIDTH - MARGIN - 8.0, bottom: HEIGHT - 34.0, x, y };
    title_y(picture, (MARGIN, top + 10.0), "Exact match (%)");
    remark(picture, (panel.right, top + 10.0), Align::Right, series.naming.explanation());
    panel.grid_x(picture, &x_ticks);
    panel.grid_y(picture, &y_ticks);
    panel.axis_x(picture, &x_ticks);
    panel.axis_y(picture, &y_ticks);
    panel.title_x(picture, &format!("Energy per output token ({}){}", scale.unit, axis::kind(&x)));
    panel
}

/// The part of 0–100 % that the points need, and never less than 20 points of it.
fn accuracy_axis(values: &[f64]) -> Axis {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let room = ((high - low) * 0.08).max((0.2 - (high - low)) / 2.0).max(0.02);
    Axis::between((low - room).max(-0.02), (high + room).min(1.02))
}

fn bars(picture: &mut Picture, panel: &Panel, series: &EnergyAccuracyData) {
    for dot in series.detailed() {
        let (x, y) = panel.at(dot.energy.value, dot.accuracy.value);
        if let Some(i) = dot.energy.interval {
            picture.bar_x((panel.x_at(i.low), panel.x_at(i.high)), y, dot.style.color);
        }
        if let Some(i) = dot.accuracy.interval {
            picture.bar_y(x, (panel.y_at(i.low), panel.y_at(i.high)), dot.style.color);
        }
    }
}

/// The best accuracy for at most a given energy.
fn front(picture: &mut Picture, panel: &Panel, series: &EnergyAccuracyData) {
    let mut on: Vec<&Dot> = series.points.iter().filter(|p| p.on_front).collect();
    on.sort_by(|a, b| a.energy.value.total_cmp(&b.energy.value));
    let mut line: Vec<At> = Vec::new();
    for dot in on {
        let (x, y) = panel.at(dot.energy.value, dot.accuracy.value);
        if let Some(&(_, before)) = line.last() {
            line.push((x, before));
        }
        line.push((x, y));
    }
    if let Some(&(_, y)) = line.last() {
        line.push((panel.right, y));
        remark(picture, (panel.right, y - 2.5), Align::Right, "Pareto front");
    }
    picture.line(line, (150, 150, 150), LINE);
}

/// Puts each label where nothing is in its way; one without such a place is left out.
fn labels(picture: &mut Picture, panel: &Panel, series: &EnergyAccuracyData) {
    let mut taken: Vec<[f64; 4]> = series.points.iter().map(|dot| around(panel, dot)).collect();
    taken.extend(picture.marks.iter().filter_map(error_bar));
    taken.extend(picture.texts().map(Text::bounds));
    for dot in series.detailed().filter(|dot| !dot.label.is_empty()) {
        let at = panel.at(dot.energy.value, dot.accuracy.value);
        let free = candidates(&dot.label, at).into_iter().find(|text| {
            let b = text.bounds();
            let inside = b[0] >= panel.left && b[2] <= panel.right && b[1] >= panel.top - 8.0 && b[3] <= panel.bottom;
            inside && !taken.iter().any(|other| overlap(&b, other))
        });
        if let Some(text) = free {
            taken.push(text.bounds());
            picture.text(text);
        }
    }
}

fn around(panel: &Panel, dot: &Dot) -> [f64; 4] {
    let (x, y) = panel.at(dot.energy.value, dot.accuracy.value);
    let r = MARKER + 0.6;
    [x - r, y - r, x + r, y + r]
}

/// The box of an error bar: labels shouldn't cross one.
fn error_bar(mark: &Mark) -> Option<[f64; 4]> {
    match mark {
        Mark::Line { points, color, .. } if points.len() == 2 && *color != super::theme::GRID => {
            let (a, b) = (points[0], points[1]);
            Some([a.0.min(b.0), a.1.min(b.1), a.0.max(b.0), a.1.max(b.1)])
        }
        _ => None,
    }
}

fn candidates(label: &str, (x, y): At) -> Vec<Text> {
    let (side, up, down) = (MARKER + 2.0, MARKER + 2.2, MARKER + 2.0 + SMALL * 0.74);
    let middle = SMALL * 0.357;
    let places = [
        (Align::Left, side, -up + 0.8),
        (Align::Right, -side, -up + 0.8),
        (Align::Left, side, down - 0.8),
        (Align::Right, -side, down - 0.8),
        (Align::Left, side, middle),
        (Align::Right, -side, middle),
        (Align::Center, 0.0, -up),
        (Align::Center, 0.0, down),
    ];
    let place = |(align, dx, dy)| Text { align, color: MUTED, ..Text::new(label, (x + dx, y + dy)) };
    places.into_iter().map(place).collect()
}

fn overlap(a: &[f64; 4], b: &[f64; 4]) -> bool {
    a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3]
}
