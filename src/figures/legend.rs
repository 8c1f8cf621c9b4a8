//! The strip above a figure's panels: the marker of each model, and a caveat if energies aren't measured.

use super::picture::{Align, HALF_DIGIT, Picture, Text};
use super::theme::{ALERT, LINE, MARGIN, MARKER, MEDIUM, ModelStyle, SMALL, THIN, fit, text_width};

const ROW: f64 = 11.0;
const GAP: f64 = 12.0;
const MARKER_SPACE: f64 = 2.0 * MARKER + 4.0;
const LONGEST: f64 = 170.0;

/// Draws the caveat at the top right and the models from the top left; returns the height that they take.
pub(crate) fn draw(picture: &mut Picture, models: &[ModelStyle], lines: bool, caveat: Option<&str>) -> f64 {
    let reserved = caveat.map_or(0.0, |text| pill(picture, text) + GAP);
    let right = picture.width - MARGIN;
    let mut row = 0;
    let mut x = MARGIN;
    for model in models {
        let swatch = MARKER_SPACE + if lines { 8.0 } else { 0.0 };
        let name = fit(&model.name(), LONGEST, MEDIUM, false);
        let width = swatch + text_width(&name, MEDIUM, false);
        let limit = if row == 0 { right - reserved } else { right };
        if x > MARGIN && x + width > limit {
            row += 1;
            x = MARGIN;
        }
        entry(picture, model, &name, (x, MARGIN + ROW * (f64::from(row) + 0.5)), swatch);
        x += width + GAP;
    }
    ROW * f64::from(row + 1)
}

fn entry(picture: &mut Picture, model: &ModelStyle, name: &str, (x, middle): (f64, f64), swatch: f64) {
    let center = (x + (swatch - 4.0) / 2.0, middle);
    if swatch > MARKER_SPACE {
        picture.line([(x, middle), (x + swatch - 4.0, middle)], model.color, LINE);
    }
    picture.marker(model.shape, center, model.color, false);
    let at = (x + swatch, middle + MEDIUM * HALF_DIGIT);
    picture.text(Text { size: MEDIUM, ..Text::new(name, at) });
}

/// A framed remark in the top right corner; returns its width.
fn pill(picture: &mut Picture, text: &str) -> f64 {
    let width = text_width(text, SMALL, true) + 8.0;
    let (left, right) = (picture.width - MARGIN - width, picture.width - MARGIN);
    let (top, bottom) = (MARGIN, MARGIN + ROW);
    picture.line([(left, top), (right, top), (right, bottom), (left, bottom), (left, top)], ALERT, THIN);
    let at = ((left + right) / 2.0, (top + bottom) / 2.0 + SMALL * HALF_DIGIT);
    picture.text(Text { align: Align::Center, bold: true, color: ALERT, ..Text::new(text, at) });
    width
}
