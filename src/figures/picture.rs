//! A figure as a list of marks in points, and how that list becomes an SVG and a PNG through plotters.
//!
//! Drawing code only adds marks, so that it can't fail and can be tested without a canvas.

use plotters::backend::{BitMapBackend, SVGBackend};
use plotters::coord::Shift;
use plotters::drawing::DrawingAreaErrorKind;
use plotters::element::{Circle, PathElement, Polygon};
use plotters::prelude::{Color as _, DrawingArea, DrawingBackend, IntoDrawingArea, IntoTextStyle, RGBColor};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::path::Path;

use super::theme::{self, Color, INK, MARKER, PAPER, SMALL, Shape, THIN};
use super::typeface::{self, FAMILY, LINE_HEIGHT};
use crate::error::{Error, Result};

/// Units of the drawing for each point: 600 a inch.
const UNITS: f64 = 600.0 / 72.0;
/// The PNG has half as many pixels, each the mean of four: 300 a inch.
const OVERSAMPLING: usize = 2;
/// Half the length of an error bar's cap.
const CAP: f64 = 1.4;
/// An error bar of this length is hidden by its marker.
const HIDDEN: f64 = 2.0 * (MARKER + 0.7);
const MM_PER_POINT: f64 = 25.4 / 72.0;

/// A position: to the right and down, in points.
pub(crate) type At = (f64, f64);

/// One mark.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Mark {
    /// A line through points.
    Line {
        /// The points.
        points: Vec<At>,
        /// Its colour.
        color: Color,
        /// Its width.
        width: f64,
    },
    /// A filled area.
    Fill {
        /// The corners.
        points: Vec<At>,
        /// Its colour.
        color: Color,
    },
    /// A filled circle.
    Disc {
        /// The centre.
        center: At,
        /// The radius.
        radius: f64,
        /// Its colour.
        color: Color,
    },
    /// Text on a baseline.
    Text(Text),
}

/// Where text stands relative to its position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    /// It starts there.
    Left,
    /// It is centred there.
    Center,
    /// It ends there.
    Right,
}

/// A line of text.
#[derive(Debug, Clone, PartialEq)]
pub struct Text {
    /// What it says.
    pub text: String,
    /// Where its baseline is.
    pub(crate) at: At,
    /// Which end of it is there.
    pub(crate) align: Align,
    /// Size of its em.
    pub size: f64,
    /// Bold or regular.
    pub(crate) bold: bool,
    /// Its colour.
    pub(crate) color: Color,
}

impl Text {
    /// Small text in ink that starts at `at`.
    pub fn new(text: impl Into<String>, at: At) -> Self {
        Self { text: text.into(), at, align: Align::Left, size: SMALL, bold: false, color: INK }
    }

    /// The box that it covers: left, top, right, bottom.
    pub fn bounds(&self) -> [f64; 4] {
        let width = theme::text_width(&self.text, self.size, self.bold);
        let left = match self.align {
            Align::Left => self.at.0,
            Align::Center => self.at.0 - width / 2.0,
            Align::Right => self.at.0 - width,
        };
        [left, self.at.1 - 0.74 * self.size, left + width, self.at.1 + 0.22 * self.size]
    }
}

/// Distance from the middle of a line of figures to its baseline, in ems: half the height of a digit.
pub(crate) const HALF_DIGIT: f64 = 0.357;

/// A figure: its size, and its marks from back to front.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    /// Width in points.
    pub width: f64,
    /// Height in points.
    pub height: f64,
    /// The marks.
    pub(crate) marks: Vec<Mark>,
}

impl Picture {
    /// An empty picture.
    pub fn new(width: f64, height: f64) -> Self {
        Self { width, height, marks: Vec::new() }
    }

    /// A line through points.
    pub(crate) fn line(&mut self, points: impl Into<Vec<At>>, color: Color, width: f64) {
        self.marks.push(Mark::Line { points: points.into(), color, width });
    }

    /// A filled area.
    pub(crate) fn fill(&mut self, points: impl Into<Vec<At>>, color: Color) {
        self.marks.push(Mark::Fill { points: points.into(), color });
    }

    /// A filled rectangle from its top left to its bottom right corner.
    pub(crate) fn rect(&mut self, (x0, y0): At, (x1, y1): At, color: Color) {
        self.fill([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], color);
    }

    /// Text.
    pub fn text(&mut self, text: Text) {
        self.marks.push(Mark::Text(text));
    }

    /// A model's marker; a hollow one has a paper-white core.
    pub(crate) fn marker(&mut self, shape: Shape, center: At, color: Color, hollow: bool) {
        // a rim of paper keeps markers apart where they overlap
        self.shape(shape, center, MARKER + 0.7, PAPER);
        self.shape(shape, center, MARKER, color);
        if hollow {
            self.shape(shape, center, MARKER - 0.95, PAPER);
        }
    }

    fn shape(&mut self, shape: Shape, (x, y): At, r: f64, color: Color) {
        let scaled = |corners: &[At]| corners.iter().map(|(dx, dy)| (x + dx * r, y + dy * r)).collect::<Vec<_>>();
        match shape {
            Shape::Circle => self.marks.push(Mark::Disc { center: (x, y), radius: r, color }),
            Shape::Square => self.fill(scaled(&[(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)]), color),
            Shape::Up => self.fill(scaled(&[(0.0, -1.15), (1.1, 0.8), (-1.1, 0.8)]), color),
            Shape::Down => self.fill(scaled(&[(0.0, 1.15), (1.1, -0.8), (-1.1, -0.8)]), color),
            Shape::Diamond => self.fill(scaled(&[(0.0, -1.25), (1.15, 0.0), (0.0, 1.25), (-1.15, 0.0)]), color),
            Shape::Plus => {
                let (a, b) = (0.42, 1.15);
                let quarter = [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b), (-a, b), (-a, a)];
                let corners: Vec<At> = quarter.into_iter().chain([(-b, a), (-b, -a), (-a, -a)]).collect();
                self.fill(scaled(&corners), color);
            }
        }
    }

    /// An error bar along x with short caps; nothing where a marker in its middle hides it.
    pub(crate) fn bar_x(&mut self, (x0, x1): (f64, f64), y: f64, color: Color) {
        if (x1 - x0).abs() > HIDDEN {
            self.line([(x0, y), (x1, y)], color, THIN);
            for x in [x0, x1] {
                self.line([(x, y - CAP), (x, y + CAP)], color, THIN);
            }
        }
    }

    /// An error bar along y with short caps; nothing where a marker in its middle hides it.
    pub(crate) fn bar_y(&mut self, x: f64, (y0, y1): (f64, f64), color: Color) {
        if (y1 - y0).abs() > HIDDEN {
            self.line([(x, y0), (x, y1)], color, THIN);
            for y in [y0, y1] {
                self.line([(x - CAP, y), (x + CAP, y)], color, THIN);
            }
        }
    }

    /// All text of the picture.
    pub fn texts(&self) -> impl Iterator<Item = &Text> {
        self.marks.iter().filter_map(|mark| match mark {
            Mark::Text(text) => Some(text),
            _ => None,
        })
    }

    /// The picture as an SVG file of its size in print, which scales with its box where it is embedded.
    ///
    /// # Errors
    /// Where plotters can't draw it.
    pub fn svg(&self, alt: &str) -> Result<String> {
        Ok(finish_svg(&self.unfinished_svg()?, self, alt))
    }

    /// The SVG as plotters writes it.
    fn unfinished_svg(&self) -> Result<String> {
        typeface::load();
        let mut svg = String::new();
        paint(self, Lettering::Whole, &SVGBackend::with_string(&mut svg, self.units()).into_drawing_area())?;
        Ok(svg)
    }

    /// Width and height of the drawing.
    fn units(&self) -> (u32, u32) {
        (units(self.width) as u32, units(self.height) as u32)
    }

    /// Writes the picture as a PNG with 300 pixels an inch.
    ///
    /// # Errors
    /// Where plotters can't draw it, or the file can't be written.
    pub(crate) fn write_png(&self, path: &Path) -> Result<()> {
        typeface::load();
        let pixels = |points: f64| (units(points) as usize).div_ceil(OVERSAMPLING);
        let (width, height) = (pixels(self.width), pixels(self.height));
        let large = ((width * OVERSAMPLING) as u32, (height * OVERSAMPLING) as u32);
        let mut buffer = vec![255u8; width * height * 3 * OVERSAMPLING * OVERSAMPLING];
        paint(self, Lettering::Glyphs, &BitMapBackend::with_buffer(&mut buffer, large).into_drawing_area())?;
        let small = halve(&buffer, width, height);
        let mut file = BitMapBackend::new(path, (width as u32, height as u32));
        let written = file.blit_bitmap((0, 0), (width as u32, height as u32), &small).and_then(|()| file.present());
        written.map_err(|cause| Error::new(format!("can't write `{}`: {cause}", path.display())))
    }
}

fn units(points: f64) -> i32 {
    let scaled = points * UNITS;
    if scaled.is_finite() { scaled.round().clamp(-20_000.0, 20_000.0) as i32 } else { 0 }
}

fn position((x, y): At) -> (i32, i32) {
    (units(x), units(y))
}

fn rgb((r, g, b): Color) -> RGBColor {
    RGBColor(r, g, b)
}

/// How text is handed to plotters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lettering {
    /// A line at a time: whoever shows the SVG sets it.
    Whole,
    /// A glyph at a time, each in its place.
    Glyphs,
}

type Drawn<DB> = Result<(), DrawingAreaErrorKind<<DB as DrawingBackend>::ErrorType>>;

fn paint<DB: DrawingBackend>(picture: &Picture, lettering: Lettering, area: &DrawingArea<DB, Shift>) -> Result<()> {
    let drawn = area
        .fill(&rgb(PAPER))
        .and_then(|()| picture.marks.iter().try_for_each(|mark| paint_mark(mark, lettering, area)))
        .and_then(|()| area.present());
    drawn.map_err(|cause| Error::new(format!("can't draw a figure: {cause}")))
}

fn paint_mark<DB: DrawingBackend>(mark: &Mark, lettering: Lettering, area: &DrawingArea<DB, Shift>) -> Drawn<DB> {
    match mark {
        Mark::Line { points, color, width } => {
            let style = rgb(*color).stroke_width(units(*width).max(1) as u32);
            area.draw(&PathElement::new(points.iter().copied().map(position).collect::<Vec<_>>(), style))
        }
        Mark::Fill { points, color } => {
            let corners: Vec<_> = points.iter().copied().map(position).collect();
            area.draw(&Polygon::new(corners, rgb(*color).filled()))
        }
        Mark::Disc { center, radius, color } => {
            area.draw(&Circle::new(position(*center), units(*radius), rgb(*color).filled()))
        }
        Mark::Text(text) => paint_text(text, lettering, area),
    }
}

/// plotters puts the baseline of a registered font half its size below the top of the text's box.
fn paint_text<DB: DrawingBackend>(text: &Text, lettering: Lettering, area: &DrawingArea<DB, Shift>) -> Drawn<DB> {
    let size = (text.size * UNITS * LINE_HEIGHT).round();
    let weight = typeface::weight(text.bold);
    let color = rgb(text.color);
    let style = (FAMILY, size, weight, &color).into_text_style(area);
    let (x, baseline) = position(text.at);
    let top = baseline - (size / 2.0).round() as i32;
    if lettering == Lettering::Whole {
        let h_pos = match text.align {
            Align::Left => HPos::Left,
            Align::Center => HPos::Center,
            Align::Right => HPos::Right,
        };
        return area.draw_text(&text.text, &style.pos(Pos::new(h_pos, VPos::Top)), (x, top));
    }
    let left = text.bounds()[0];
    typeface::ink(&text.text, text.bold).into_iter().try_for_each(|(glyph, offset)| {
        area.draw_text(glyph.encode_utf8(&mut [0; 4]), &style, (units(left + offset * text.size), top))
    })
}

/// The baseline that plotters gives each line of text in an SVG.
const BASELINE: &str = "dy=\"0.76em\"";

/// Gives the file its size in print, its alternative text, and the text of the PNG: plotters-svg takes another em
/// (size / 1.24) and another baseline for the same font size.
///
/// This rewrites plotters' own text, so the version is pinned, and a test looks at what plotters writes.
fn finish_svg(svg: &str, picture: &Picture, alt: &str) -> String {
    let (width, height) = picture.units();
    let mm = |points: f64| format!("{:.1}mm", points * MM_PER_POINT);
    let opening = format!(
        "<svg width=\"{}\" height=\"{}\" viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{}\" \
         xmlns=\"http://www.w3.org/2000/svg\">",
        mm(picture.width),
        mm(picture.height),
        escape(alt),
    );
    let body = svg.split_once('>').map_or("", |(_, body)| body);
    let baseline = format!("dy=\"{:.4}em\"", LINE_HEIGHT / 2.0);
    let body = body.replace(BASELINE, &baseline).replace(" opacity=\"1\"", "");
    opening + &rescale_fonts(&body)
}

fn rescale_fonts(body: &str) -> String {
    const KEY: &str = "font-size=\"";
    let mut parts = body.split(KEY);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (size, rest) = part.split_once('"').unwrap_or((part, ""));
        let em = size.parse::<f64>().unwrap_or(0.0) * 1.24 / LINE_HEIGHT;
        out.push_str(&format!("{KEY}{em:.1}\"{rest}"));
    }
    out
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The mean of each square of four pixels.
fn halve(large: &[u8], width: usize, height: usize) -> Vec<u8> {
    let row = width * OVERSAMPLING * 3;
    let mut small = Vec::with_capacity(width * height * 3);
    for y in 0..height {
        let (upper, lower) = (&large[2 * y * row..][..row], &large[(2 * y + 1) * row..][..row]);
        for (a, b) in upper.chunks_exact(6).zip(lower.chunks_exact(6)) {
            for channel in 0..3 {
                let sum =
                    [a[channel], a[channel + 3], b[channel], b[channel + 3]].into_iter().map(u32::from).sum::<u32>();
                small.push(((sum + 2) / 4) as u8);
            }
        }
    }
    small
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_in_an_svg_is_escaped_and_has_its_size() {
        let mut picture = Picture::new(72.0, 36.0);
        picture.text(Text::new("a<b & \"c\"", (4.0, 20.0)));
        let svg = picture.svg("alt <b> \"q\"").unwrap();
        assert!(svg.contains("a&lt;b &amp; &quot;c&quot;"), "{svg}");
        assert!(svg.contains("aria-label=\"alt &lt;b&gt; &quot;q&quot;\""), "{svg}");
        // 7 points at 600 units an inch, to the whole unit of plotters' font size
        assert!(svg.contains("font-size=\"58.0\""), "{svg}");
        assert!(svg.contains("width=\"25.4mm\" height=\"12.7mm\" viewBox=\"0 0 600 300\""), "{svg}");
    }

    #[test]
    fn plotters_writes_the_svg_that_is_rewritten() {
        let mut picture = Picture::new(72.0, 36.0);
        picture.rect((0.0, 0.0), (9.0, 9.0), INK);
        picture.line([(0.0, 0.0), (9.0, 9.0)], INK, THIN);
        for align in [Align::Left, Align::Center, Align::Right] {
            picture.text(Text { align, ..Text::new("EPT", (4.0, 20.0)) });
            picture.text(Text { align, bold: true, ..Text::new("EPT", (4.0, 30.0)) });
        }
        let svg = picture.unfinished_svg().unwrap();
        let texts: Vec<&str> = svg.split("<text ").skip(1).map(|text| text.split_once('>').unwrap().0).collect();
        assert_eq!(texts.len(), 6, "{svg}");
        // (7 points at 600 units an inch, as a line height) / 1.24
        let size = format!("font-size=\"{}\"", (SMALL * UNITS * LINE_HEIGHT).round() / 1.24);
        for text in texts {
            assert!(text.contains(BASELINE) && text.contains(&size), "{size} in {text}");
        }
        assert!(svg.starts_with("<svg width=\"600\" height=\"300\" viewBox=\"0 0 600 300\""), "{svg}");
        assert!(svg.contains(" opacity=\"1\""), "{svg}");
        let finished = picture.svg("").unwrap();
        assert!(!finished.contains(BASELINE) && !finished.contains(" opacity=\"1\""), "{finished}");
    }

    #[test]
    fn a_picture_without_numbers_to_draw_still_draws() {
        let mut picture = Picture::new(72.0, 36.0);
        picture.line([(f64::NAN, 1.0), (2.0, f64::INFINITY)], INK, THIN);
        picture.line(Vec::new(), INK, THIN);
        picture.marker(Shape::Plus, (10.0, 10.0), INK, true);
        assert!(picture.svg("").is_ok());
        let dir = std::env::temp_dir().join(format!("ept-sweep-picture-{}.png", std::process::id()));
        picture.write_png(&dir).unwrap();
        assert!(std::fs::metadata(&dir).unwrap().len() > 100);
        std::fs::remove_file(dir).unwrap();
    }
}
