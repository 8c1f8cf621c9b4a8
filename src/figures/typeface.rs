//! The embedded typeface: its registration with plotters, and the side bearings that plotters leaves out.
//!
//! plotters' bitmap text sets each glyph's ink at the pen instead of its origin, which spoils the spacing. A PNG is
//! therefore drawn glyph by glyph, each moved by the bearing that the font itself gives.

use std::sync::Once;

use plotters::style::{FontStyle, IntoFont, register_font};
use ttf_parser::Face;

/// The typeface as the SVG names it; text is measured and rasterised with the embedded Noto Sans.
pub(crate) const FAMILY: &str = "Noto Sans, Helvetica Neue, Helvetica, Arial, Liberation Sans, sans-serif";

/// Ascent plus descent of Noto Sans in units of its em: what plotters' font size means for a registered font.
pub(crate) const LINE_HEIGHT: f64 = 1.362;

/// Makes the embedded typeface known to plotters; does so once.
pub(super) fn load() {
    static LOADED: Once = Once::new();
    LOADED.call_once(|| {
        for bold in [false, true] {
            // The embedded bytes are a valid font: tests measure text in both weights.
            let _ = register_font(FAMILY, weight(bold), bytes(bold));
        }
    });
}

/// The font's tables; the embedded bytes are a valid font.
fn face(bold: bool) -> Option<Face<'static>> {
    Face::parse(bytes(bold), 0).ok()
}

fn bytes(bold: bool) -> &'static [u8] {
    if bold { notosans::BOLD_TTF } else { notosans::REGULAR_TTF }
}

/// The weight as plotters names it.
pub(crate) fn weight(bold: bool) -> FontStyle {
    if bold { FontStyle::Bold } else { FontStyle::Normal }
}

/// Width of `text` at `size` points.
pub(crate) fn width(text: &str, size: f64, bold: bool) -> f64 {
    load();
    const MEASURE: f64 = 1000.0;
    let font = (FAMILY, MEASURE * LINE_HEIGHT, weight(bold)).into_font();
    let width = font.box_size(text).map_or(0, |(width, _)| width);
    f64::from(width) / MEASURE * size
}

/// The glyphs of `text` in ems from where it starts to where the ink of each starts; blanks are left out.
pub(crate) fn ink(text: &str, bold: bool) -> Vec<(char, f64)> {
    let font = face(bold);
    let mut before = String::new();
    let mut placed = Vec::new();
    for c in text.chars() {
        // the pen after what is before, kerning with this glyph included
        let alone = width(c.encode_utf8(&mut [0; 4]), 1.0, bold);
        before.push(c);
        let pen = width(&before, 1.0, bold) - alone;
        if !c.is_whitespace() {
            let bearing = font.as_ref().and_then(|font| bearing(font, c));
            placed.push((c, pen + bearing.unwrap_or(0.0)));
        }
    }
    placed
}

/// Distance in ems from a glyph's origin to the left edge of its ink.
fn bearing(font: &Face<'_>, c: char) -> Option<f64> {
    let bearing = font.glyph_hor_side_bearing(font.glyph_index(c)?)?;
    Some(f64::from(bearing) / f64::from(font.units_per_em()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sign_that_the_figures_use_has_a_glyph() {
        let font = face(false).unwrap();
        for sign in ['A', 'j', '0', '−', '–', '×', 'µ', '…', '∞', '·', '\u{a0}'] {
            assert!(font.glyph_index(sign).is_some(), "{sign}");
        }
    }

    #[test]
    fn bearings_are_those_of_the_font() {
        // Noto Sans: H has a stem 98/1000 of an em from its origin, J reaches to the left of it
        let font = face(false).unwrap();
        let stem = bearing(&font, 'H').unwrap();
        assert!((stem - 0.098).abs() < 0.01, "{stem}");
        assert!(bearing(&font, 'J').unwrap() < 0.0);
    }

    #[test]
    fn glyphs_are_placed_from_left_to_right_without_blanks() {
        let placed = ink("EPT out", true);
        assert_eq!(placed.iter().map(|(c, _)| *c).collect::<String>(), "EPTout");
        assert!(placed.windows(2).all(|pair| pair[0].1 < pair[1].1));
    }
}
