//! Which settings can be used. The hints name the keys of a sweep file.

use super::settings::{BeamSearch, Decoding, Sampling};

/// A temperature outside of this range is another method: below it greedy decoding, above it a uniform draw.
const TEMPERATURES: (f64, f64) = (0.01, 100.0);
/// A larger number of beams is probably a typo.
const MOST_BEAMS: usize = 256;
/// A length to a larger power would leave the range of f32.
const LARGEST_PENALTY: f64 = 5.0;

/// A setting that can't be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadSetting {
    /// `sample` or `beam`.
    pub(crate) method: &'static str,
    pub(crate) key: &'static str,
    pub(crate) message: String,
    pub(crate) hint: &'static str,
}

impl Decoding {
    /// Whether the settings can be used.
    ///
    /// # Errors
    /// The first one that can't.
    pub fn check(&self) -> Result<(), BadSetting> {
        match self {
            Decoding::Greedy => Ok(()),
            Decoding::Sample(sampling) => sampling.check(),
            Decoding::Beam(beam) => beam.check(),
        }
    }
}

impl Sampling {
    fn check(&self) -> Result<(), BadSetting> {
        let bad = |key, value: f64, hint| {
            Err(BadSetting { method: "sample", key, message: format!("`{key}: {value}` can't be used"), hint })
        };
        if !(TEMPERATURES.0..=TEMPERATURES.1).contains(&self.temperature) {
            let hint = "a temperature is 0.01 to 100; to take the most likely token use `decoding: greedy`";
            return bad("temperature", self.temperature, hint);
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return bad("top_p", self.top_p, "a probability above 0, and 1 at most (1 leaves all tokens)");
        }
        match self.min_p {
            Some(min_p) if !(0.0..=1.0).contains(&min_p) => {
                bad("min_p", min_p, "a share of the largest probability, from 0 (all tokens) to 1")
            }
            _ => Ok(()),
        }
    }
}

impl BeamSearch {
    fn check(&self) -> Result<(), BadSetting> {
        let bad = |key, message, hint| Err(BadSetting { method: "beam", key, message, hint });
        if !(2..=MOST_BEAMS).contains(&self.num_beams) {
            let message = format!("`num_beams: {}` can't be used", self.num_beams);
            return bad("num_beams", message, "2 to 256; a single beam is `decoding: greedy`");
        }
        if !(-LARGEST_PENALTY..=LARGEST_PENALTY).contains(&self.length_penalty) {
            let message = format!("`length_penalty: {}` can't be used", self.length_penalty);
            return bad("length_penalty", message, "-5 to 5; 1 scores a sequence by the mean over its tokens");
        }
        Ok(())
    }
}
