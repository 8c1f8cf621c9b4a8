//! The embedded typeface: its registration with plotters, and the side bearings that plotters leaves out.
//!
//! plotters' bitmap text sets each glyph's ink at the pen instead of its origin, which spoils the spacing. A PNG is
//! therefore drawn glyph by glyph, each moved by the bearing that the font's own tables give (OpenType: `cmap`
//! format 4, `hmtx`).

use std::sync::Once;

use plotters::style::{FontStyle, IntoFont, register_font};

/// The typeface as the SVG names it; text is measured and rasterised with the embedded Noto Sans.
pub const FAMILY: &str = "Noto Sans, Helvetica Neue, Helvetica, Arial, Liberation Sans, sans-serif";

/// Ascent plus descent of Noto Sans in units of its em: what plotters' font size means for a registered font.
pub const LINE_HEIGHT: f64 = 1.362;

/// Makes the embedded typeface known to plotters; does so once.
pub fn load() {
    static LOADED: Once = Once::new();
    LOADED.call_once(|| {
        for bold in [false, true] {
            // The embedded bytes are a valid font: tests measure text in both weights.
            let _ = register_font(FAMILY, weight(bold), bytes(bold));
        }
    });
}

fn bytes(bold: bool) -> &'static [u8] {
    if bold { notosans::BOLD_TTF } else { notosans::REGULAR_TTF }
}

/// The weight as plotters names it.
pub fn weight(bold: bool) -> FontStyle {
    if bold { FontStyle::Bold } else { FontStyle::Normal }
}

/// Width of `text` at `size` points.
pub fn width(text: &str, size: f64, bold: bool) -> f64 {
    load();
    const MEASURE: f64 = 1000.0;
    let font = (FAMILY, MEASURE * LINE_HEIGHT, weight(bold)).into_font();
    let width = font.box_size(text).map_or(0, |(width, _)| width);
    f64::from(width) / MEASURE * size
}

/// The glyphs of `text` in ems from where it starts to where the ink of each starts; blanks are left out.
pub fn ink(text: &str, bold: bool) -> Vec<(char, f64)> {
    let font = Font(bytes(bold));
    let mut before = String::new();
    let mut placed = Vec::new();
    for c in text.chars() {
        // the pen after what is before, kerning with this glyph included
        let alone = width(c.encode_utf8(&mut [0; 4]), 1.0, bold);
        before.push(c);
        let pen = width(&before, 1.0, bold) - alone;
        if !c.is_whitespace() {
            placed.push((c, pen + font.bearing(c).unwrap_or(0.0)));
        }
    }
    placed
}

/// The tables of a TrueType font.
struct Font(&'static [u8]);

impl Font {
    /// Distance in ems from a glyph's origin to the left edge of its ink.
    fn bearing(&self, c: char) -> Option<f64> {
        let glyph = self.glyph(u16::try_from(u32::from(c)).ok()?)?;
        let long = usize::from(self.u16(self.table(b"hhea")? + 34)?);
        let metrics = self.table(b"hmtx")?;
        let at = if glyph < long { glyph * 4 + 2 } else { long * 4 + (glyph - long) * 2 };
        let bearing = self.u16(metrics + at)?.cast_signed();
        let em = self.u16(self.table(b"head")? + 18)?;
        Some(f64::from(bearing) / f64::from(em))
    }

    fn glyph(&self, code: u16) -> Option<usize> {
        let cmap = self.segments()?;
        let twice = usize::from(self.u16(cmap + 6)?);
        let (ends, starts) = (cmap + 14, cmap + 16 + twice);
        let segment = (0..twice).step_by(2).find(|at| self.u16(ends + at).is_some_and(|end| end >= code))?;
        let start = self.u16(starts + segment)?;
        let delta = self.u16(starts + twice + segment)?;
        let range_at = starts + 2 * twice + segment;
        let range = usize::from(self.u16(range_at)?);
        if start > code {
            return None;
        }
        let glyph = match range {
            0 => code.wrapping_add(delta),
            _ => self.u16(range_at + range + 2 * usize::from(code - start))?.wrapping_add(delta),
        };
        Some(usize::from(glyph))
    }

    /// The character map of the basic plane.
    fn segments(&self) -> Option<usize> {
        let cmap = self.table(b"cmap")?;
        let count = usize::from(self.u16(cmap + 2)?);
        let subtables = (0..count).filter_map(|i| Some(cmap + self.u32(cmap + 4 + 8 * i + 4)?));
        subtables.into_iter().find(|&at| self.u16(at) == Some(4))
    }

    fn table(&self, tag: &[u8; 4]) -> Option<usize> {
        let count = usize::from(self.u16(4)?);
        let record = (0..count).map(|i| 12 + 16 * i).find(|&at| self.0.get(at..at + 4) == Some(tag))?;
        self.u32(record + 8)
    }

    fn u16(&self, at: usize) -> Option<u16> {
        Some(u16::from_be_bytes(self.0.get(at..at + 2)?.try_into().ok()?))
    }

    fn u32(&self, at: usize) -> Option<usize> {
        usize::try_from(u32::from_be_bytes(self.0.get(at..at + 4)?.try_into().ok()?)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sign_that_the_figures_use_has_a_glyph() {
        let font = Font(bytes(false));
        for sign in ['A', 'j', '0', '−', '–', '×', 'µ', '…', '∞', '·', '\u{a0}'] {
            let code = u16::try_from(u32::from(sign)).unwrap();
            assert!(font.glyph(code).is_some_and(|glyph| glyph > 0), "{sign}");
        }
    }

    #[test]
    fn bearings_are_those_of_the_font() {
        // Noto Sans: H has a stem 98/1000 of an em from its origin, J reaches to the left of it
        let font = Font(bytes(false));
        assert!((font.bearing('H').unwrap() - 0.098).abs() < 0.01, "{:?}", font.bearing('H'));
        assert!(font.bearing('J').unwrap() < 0.0);
    }

    #[test]
    fn glyphs_are_placed_from_left_to_right_without_blanks() {
        let placed = ink("EPT out", true);
        assert_eq!(placed.iter().map(|(c, _)| *c).collect::<String>(), "EPTout");
        assert!(placed.windows(2).all(|pair| pair[0].1 < pair[1].1));
    }
}
