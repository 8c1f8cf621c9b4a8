//! The look of every figure: sizes for print, colours, and the same colour and marker for a model everywhere.
//!
//! Lengths are in points (1/72 inch) of the printed figure.

use super::typeface;
use crate::analysis::Study;
use crate::record::Role;

/// Width of a figure over two columns: 180 mm.
pub(crate) const FULL_WIDTH: f64 = 180.0 * 72.0 / 25.4;
/// Size of tick labels and of labels of points: the smallest text there is.
pub(crate) const SMALL: f64 = 7.0;
/// Size of axis titles, legend and panel titles.
pub(crate) const MEDIUM: f64 = 7.5;
/// Half the extent of a marker.
pub(crate) const MARKER: f64 = 2.6;
/// Width of axis lines and error bars.
pub(crate) const THIN: f64 = 0.6;
/// Width of the lines of data.
pub(crate) const LINE: f64 = 1.0;
/// Width of grid lines.
pub(crate) const HAIR: f64 = 0.4;
/// Space between a figure's edge and its contents.
pub(crate) const MARGIN: f64 = 6.0;

/// Red, green, blue.
pub(crate) type Color = (u8, u8, u8);
/// Text and axis lines.
pub(crate) const INK: Color = (34, 34, 34);
/// Text of second rank.
pub(crate) const MUTED: Color = (90, 90, 90);
/// Grid lines.
pub(crate) const GRID: Color = (224, 224, 224);
/// The shaded part of a panel.
pub(crate) const SHADE: Color = (238, 241, 245);
/// A marked part of the shaded one.
pub(crate) const DEEP_SHADE: Color = (207, 216, 228);
/// Paper.
pub(crate) const PAPER: Color = (255, 255, 255);
/// Text that a reader must not miss.
pub(crate) const ALERT: Color = (168, 50, 0);

/// Okabe and Ito's palette without its yellow, which is too light for lines on white;
/// distinguishable with any common form of colour blindness.
const PALETTE: [Color; 7] =
    [(0, 114, 178), (213, 94, 0), (0, 140, 106), (190, 100, 150), (70, 70, 70), (206, 140, 0), (64, 156, 210)];

/// The shape of a marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Circle,
    Square,
    /// A triangle that points up.
    Up,
    /// A square on its corner.
    Diamond,
    /// A triangle that points down.
    Down,
    /// An upright cross.
    Plus,
}

const SHAPES: [Shape; 6] = [Shape::Circle, Shape::Square, Shape::Up, Shape::Diamond, Shape::Down, Shape::Plus];

/// The look of one model, in every figure of a study.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ModelStyle {
    /// Label of the model.
    pub(crate) label: String,
    pub(crate) role: Role,
    pub(crate) color: Color,
    pub(crate) shape: Shape,
}

impl ModelStyle {
    /// The label with the role, unless the label contains it.
    pub(crate) fn name(&self) -> String {
        let role = self.role.words();
        if self.role == Role::Model || self.label.contains(role) {
            return self.label.clone();
        }
        format!("{} ({role})", self.label)
    }
}

/// The styles of all models of a study, in the order of its cells.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Styles(Vec<ModelStyle>);

impl Styles {
    /// Gives each model of `study` its colour and marker; models that appear nowhere else come last.
    pub(crate) fn of(study: &Study) -> Self {
        let cells = study.cells.iter().map(|cell| (cell.model.as_str(), cell.role));
        let others = study.accuracies.iter().map(|a| (a.model.as_str(), a.role));
        let saved = study.savings.iter().map(|s| (s.student.as_str(), s.role));
        let points = study.points.iter().map(|p| (p.model.as_str(), p.role));
        let mut styles = Self(Vec::new());
        for (label, role) in cells.chain(others).chain(saved).chain(points) {
            styles.add(label, role);
        }
        styles
    }

    fn add(&mut self, label: &str, role: Role) {
        if self.0.iter().any(|style| style.label == label) {
            return;
        }
        let color = PALETTE[self.0.len() % PALETTE.len()];
        let shape = self.free_shape(role, color);
        self.0.push(ModelStyle { label: label.to_owned(), role, color, shape });
    }

    /// The role's own shape if it's free, else the least used, and never one in this colour while there are others.
    fn free_shape(&self, role: Role, color: Color) -> Shape {
        let own = match role {
            Role::Student => Shape::Circle,
            Role::Teacher => Shape::Square,
            Role::Control => Shape::Up,
            Role::Model => Shape::Diamond,
        };
        let count = |alike: &dyn Fn(&ModelStyle) -> bool| self.0.iter().filter(|style| alike(style)).count();
        let cost = |shape: Shape| {
            let same = count(&|style| style.shape == shape && style.color == color);
            (same, count(&|style| style.shape == shape), shape != own)
        };
        SHAPES.into_iter().min_by_key(|&shape| cost(shape)).unwrap_or(own)
    }

    /// The style of a model; a grey diamond for one that the study doesn't know.
    pub(crate) fn get(&self, label: &str) -> ModelStyle {
        let unknown = || ModelStyle { label: label.to_owned(), role: Role::Model, color: MUTED, shape: Shape::Diamond };
        self.0.iter().find(|style| style.label == label).cloned().unwrap_or_else(unknown)
    }

    /// Those of `labels`, in the study's order.
    pub(crate) fn only<'a>(&self, labels: impl IntoIterator<Item = &'a str>) -> Vec<ModelStyle> {
        let labels: Vec<&str> = labels.into_iter().collect();
        self.0.iter().filter(|style| labels.contains(&style.label.as_str())).cloned().collect()
    }
}

/// Width of `text` at `size` points.
pub(crate) fn text_width(text: &str, size: f64, bold: bool) -> f64 {
    typeface::width(text, size, bold)
}

/// `text`, or as much of its two ends as fits into `width` points, with an ellipsis between them.
pub(crate) fn fit(text: &str, width: f64, size: f64, bold: bool) -> String {
    if text_width(text, size, bold) <= width {
        return text.to_owned();
    }
    let chars: Vec<char> = text.chars().collect();
    for kept in (2..chars.len()).rev() {
        let (head, tail) = (kept.div_ceil(2), kept / 2);
        let shorter: String = chars[..head].iter().chain(&['…']).chain(&chars[chars.len() - tail..]).collect();
        if text_width(&shorter, size, bold) <= width {
            return shorter;
        }
    }
    "…".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_has_the_width_of_the_typeface() {
        assert!(text_width("iiii", 7.0, false) < text_width("WWWW", 7.0, false));
        assert!(text_width("teacher", 7.0, true) > text_width("teacher", 7.0, false));
    }

    #[test]
    fn long_labels_keep_both_ends() {
        let short = fit("a-very-long-label-of-a-model-v2", 60.0, SMALL, false);
        assert!(short.starts_with("a-v") && short.ends_with("v2") && short.contains('…'), "{short}");
        assert!(text_width(&short, SMALL, false) <= 60.0);
    }

    #[test]
    fn twelve_models_differ_in_colour_and_shape() {
        let mut styles = Styles(Vec::new());
        for i in 0..12 {
            styles.add(&format!("m{i}"), if i == 0 { Role::Teacher } else { Role::Student });
        }
        let mut looks: Vec<_> = styles.0.iter().map(|s| (s.color, format!("{:?}", s.shape))).collect();
        looks.sort();
        looks.dedup();
        assert_eq!(looks.len(), 12);
        assert_eq!(styles.get("m0").shape, Shape::Square);
    }
}
