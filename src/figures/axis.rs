//! Axes map values to places and choose round ticks; panels have two of them and a light grid.

use super::picture::{Align, At, HALF_DIGIT, Picture, Text};
use super::theme::{GRID, HAIR, INK, MEDIUM, MUTED, SMALL, THIN, text_width};
use crate::format;

/// The mapping from values to places along an axis.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Axis {
    log: bool,
    low: f64,
    high: f64,
}

/// Above this ratio of the largest to the smallest value an axis is logarithmic.
const LOG_SPAN: f64 = 3.0;

impl Axis {
    /// An axis for `values` with some room at both ends: logarithmic if all are positive and span more than 3×.
    pub(crate) fn spanning(values: impl IntoIterator<Item = f64>) -> Self {
        let (low, high) = extent(values);
        if low > 0.0 && high / low > LOG_SPAN { Self::log(low, high) } else { Self::linear(low, high) }
    }

    fn linear(low: f64, high: f64) -> Self {
        let room = if high > low { (high - low) * 0.08 } else { (high.abs() * 0.1).max(f64::MIN_POSITIVE * 1e9) };
        let room = if low == 0.0 && high == 0.0 { 1.0 } else { room };
        Self { log: false, low: low - room, high: high + room }
    }

    fn log(low: f64, high: f64) -> Self {
        let room = (high / low).powf(0.08).max(1.05);
        Self { log: true, low: low / room, high: high * room }
    }

    /// A logarithmic axis for positive sizes such as batch sizes, with room at both ends.
    pub(crate) fn sizes(sizes: impl IntoIterator<Item = f64>) -> Self {
        let (low, high) = extent(sizes);
        let room = (high / low).powf(0.1).max(1.2);
        Self { log: true, low: low / room, high: high * room }
    }

    /// A linear axis with exactly these ends.
    pub(crate) fn between(low: f64, high: f64) -> Self {
        Self { log: false, low, high: if high > low { high } else { low + 1.0 } }
    }

    /// An axis from zero to somewhat above the largest of `values`.
    pub(crate) fn from_zero(values: impl IntoIterator<Item = f64>) -> Self {
        let high = extent(values).1.max(0.0);
        Self::between(0.0, if high > 0.0 { high * 1.08 } else { 1.0 })
    }

    pub(crate) fn is_log(&self) -> bool {
        self.log
    }

    /// Where `value` is: 0 at the low end, 1 at the high end; what lies outside is put at the end.
    pub(crate) fn place(&self, value: f64) -> f64 {
        let share = if self.log {
            (value.max(f64::MIN_POSITIVE) / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        if share.is_nan() { 0.0 } else { share.clamp(0.0, 1.0) }
    }

    /// Round values inside the axis, about `wanted` of them.
    pub(crate) fn ticks(&self, wanted: usize) -> Vec<f64> {
        if self.log {
            for steps in [&[1.0, 2.0, 5.0][..], &[1.0, 3.0][..], &[1.0][..]] {
                let ticks = self.decades(steps);
                if (3..=wanted + 2).contains(&ticks.len()) {
                    return ticks;
                }
            }
            let decades = self.decades(&[1.0]);
            if decades.len() > wanted {
                let every = decades.len().div_ceil(wanted);
                return decades.into_iter().step_by(every).collect();
            }
        }
        self.linear_ticks(wanted)
    }

    fn decades(&self, steps: &[f64]) -> Vec<f64> {
        let (from, to) = (self.low.log10().floor() as i32, self.high.log10().ceil() as i32);
        let all = (from..=to).flat_map(|power| steps.iter().map(move |step| step * 10f64.powi(power)));
        all.filter(|tick| (self.low..=self.high).contains(tick)).collect()
    }

    fn linear_ticks(&self, wanted: usize) -> Vec<f64> {
        let rough = (self.high - self.low) / wanted.max(1) as f64;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|s| s * power).find(|s| *s >= rough * 0.999);
        let step = step.unwrap_or(power * 10.0);
        let first = (self.low / step).ceil() as i64;
        let last = (self.high / step).floor() as i64;
        if !step.is_finite() || step <= 0.0 || last - first > 50 {
            return vec![self.low, self.high];
        }
        (first..=last).map(|i| i as f64 * step).collect()
    }
}

/// The smallest and the largest finite value; 0 and 0 if there is none.
fn extent(values: impl IntoIterator<Item = f64>) -> (f64, f64) {
    let finite = values.into_iter().filter(|v| v.is_finite());
    finite
        .fold(None, |so_far: Option<(f64, f64)>, v| {
            Some(so_far.map_or((v, v), |(low, high)| (low.min(v), high.max(v))))
        })
        .unwrap_or((0.0, 0.0))
}

/// A value on an axis with its label.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tick {
    pub(crate) at: f64,
    pub(crate) label: String,
}

/// Labels `ticks` with their values times `factor`.
pub(crate) fn label_ticks(ticks: &[f64], factor: f64) -> Vec<Tick> {
    let labels = format::ticks(ticks, factor);
    ticks.iter().zip(labels).map(|(&at, label)| Tick { at, label }).collect()
}

/// A rectangle with an axis along its bottom and one along its left.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Panel {
    pub(crate) left: f64,
    pub(crate) top: f64,
    pub(crate) right: f64,
    pub(crate) bottom: f64,
    /// Along the bottom.
    pub(crate) x: Axis,
    /// Along the left.
    pub(crate) y: Axis,
}

impl Panel {
    /// The place of `x` along the bottom.
    pub(crate) fn x_at(&self, x: f64) -> f64 {
        self.left + (self.right - self.left) * self.x.place(x)
    }

    /// The place of `y` along the left.
    pub(crate) fn y_at(&self, y: f64) -> f64 {
        self.bottom - (self.bottom - self.top) * self.y.place(y)
    }

    /// The place of a point.
    pub(crate) fn at(&self, x: f64, y: f64) -> At {
        (self.x_at(x), self.y_at(y))
    }

    /// Horizontal grid lines.
    pub(crate) fn grid_y(&self, picture: &mut Picture, ticks: &[Tick]) {
        for y in ticks.iter().map(|tick| self.y_at(tick.at)) {
            picture.line([(self.left, y), (self.right, y)], GRID, HAIR);
        }
    }

    /// Vertical grid lines.
    pub(crate) fn grid_x(&self, picture: &mut Picture, ticks: &[Tick]) {
        for x in ticks.iter().map(|tick| self.x_at(tick.at)) {
            picture.line([(x, self.top), (x, self.bottom)], GRID, HAIR);
        }
    }

    /// The bottom line with ticks and their labels; a label that would touch the one before is left out.
    pub(crate) fn axis_x(&self, picture: &mut Picture, ticks: &[Tick]) {
        picture.line([(self.left, self.bottom), (self.right, self.bottom)], INK, THIN);
        let mut free_from = f64::NEG_INFINITY;
        for tick in ticks {
            let x = self.x_at(tick.at);
            picture.line([(x, self.bottom), (x, self.bottom + 2.5)], INK, THIN);
            let half = text_width(&tick.label, SMALL, false) / 2.0;
            if x - half >= free_from {
                let at = (x, self.bottom + 4.5 + SMALL * 0.8);
                picture.text(Text { align: Align::Center, ..Text::new(tick.label.clone(), at) });
                free_from = x + half + 3.0;
            }
        }
    }

    /// The labels of the ticks at the left; the grid lines are the ticks.
    pub(crate) fn axis_y(&self, picture: &mut Picture, ticks: &[Tick]) {
        for tick in ticks {
            let at = (self.left - 4.0, self.y_at(tick.at) + SMALL * HALF_DIGIT);
            picture.text(Text { align: Align::Right, ..Text::new(tick.label.clone(), at) });
        }
    }

    /// The title of the bottom axis, centred below its labels.
    pub(crate) fn title_x(&self, picture: &mut Picture, title: &str) {
        let at = ((self.left + self.right) / 2.0, self.bottom + 16.0 + MEDIUM * 0.9);
        picture.text(Text { align: Align::Center, size: MEDIUM, ..Text::new(title, at) });
    }

    /// The name of the panel, bold above its left edge.
    pub(crate) fn name(&self, picture: &mut Picture, name: &str) {
        let at = (self.left, self.top - 5.0);
        picture.text(Text { bold: true, size: MEDIUM, ..Text::new(name, at) });
    }
}

/// The title of a vertical axis: horizontal, above the axis, so that nobody has to turn their head.
pub(crate) fn title_y(picture: &mut Picture, at: At, title: &str) {
    picture.text(Text { size: MEDIUM, ..Text::new(title, at) });
}

/// Goes behind the title of an axis so that a logarithmic one isn't misread.
pub(crate) fn kind(axis: &Axis) -> &'static str {
    if axis.is_log() { ", log scale" } else { "" }
}

/// A remark in grey; nothing if it is empty.
pub(crate) fn remark(picture: &mut Picture, at: At, align: Align, text: &str) {
    if text.is_empty() {
        return;
    }
    picture.text(Text { align, color: MUTED, ..Text::new(text, at) });
}

/// The width that the labels of a vertical axis take.
pub(crate) fn labels_width(ticks: &[Tick]) -> f64 {
    ticks.iter().map(|tick| text_width(&tick.label, SMALL, false)).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_is_logarithmic_only_above_three_times() {
        assert!(!Axis::spanning([1.0, 2.9]).is_log());
        assert!(Axis::spanning([1.0, 3.1]).is_log());
        assert!(!Axis::spanning([0.0, 3.1]).is_log());
        assert!(!Axis::spanning([-1.0, 30.0]).is_log());
    }

    #[test]
    fn degenerate_values_still_make_an_axis() {
        for values in [vec![], vec![0.0], vec![5.0, 5.0], vec![f64::NAN], vec![1e-300], vec![1e-9, 1e9], vec![-3.0]] {
            for axis in [Axis::spanning(values.clone()), Axis::from_zero(values.clone())] {
                let ticks = axis.ticks(5);
                assert!((1..=12).contains(&ticks.len()), "{values:?}: {ticks:?}");
                assert!(values.iter().all(|v| (0.0..=1.0).contains(&axis.place(*v))), "{values:?}");
            }
        }
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(Axis::between(0.0, 1.0).ticks(5), [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]);
    }
}
