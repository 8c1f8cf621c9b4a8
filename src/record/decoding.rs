//! How the tokens of an answer are chosen: part of what is measured, since it decides how much work an answer takes.

use std::fmt;

use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// A temperature outside of this range is another method: below it greedy decoding, above it a uniform draw.
const TEMPERATURES: (f64, f64) = (0.01, 100.0);
/// A larger number of beams is a slip of the pen.
const MOST_BEAMS: usize = 256;
/// A length to a larger power would leave the range of f32.
const LARGEST_PENALTY: f64 = 5.0;

/// How tokens are chosen. Written as `greedy`, `{sample: {…}}` or `{beam: {…}}`.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Decoding {
    /// The most likely token of each step; the lowest id of several.
    #[default]
    Greedy,
    /// A token drawn at each step.
    Sample(Sampling),
    /// The most likely of several sequences that are followed side by side.
    Beam(BeamSearch),
}

/// Settings of sampling. Names, defaults and order are those of Hugging Face transformers: logits are divided by the
/// temperature, then `top_k`, `top_p` and `min_p` each leave fewer tokens, and one of those left is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sampling {
    /// Logits are divided by it: below 1 the draw favours likely tokens more than the model does.
    pub temperature: f64,
    /// Only this many of the most likely tokens are left (more where the last of them is tied); 0: all.
    pub top_k: usize,
    /// Only the most likely tokens are left whose probabilities add up to this, with the one that crosses it; 1: all.
    pub top_p: f64,
    /// Only tokens are left that have at least this share of the largest probability; left out: all.
    pub min_p: Option<f64>,
    /// Seed of the draw.
    pub seed: u64,
}

/// Settings of beam search. Names, defaults and meaning are those of Hugging Face transformers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BeamSearch {
    /// Sequences that are followed for each prompt.
    pub num_beams: usize,
    /// A sequence's score is its log-probability over its length to this power: above 0 longer answers gain.
    #[serde(default = "default_length_penalty")]
    pub length_penalty: f64,
    /// When the search of a prompt ends, once `num_beams` sequences have ended.
    #[serde(default)]
    pub early_stopping: EarlyStopping,
}

fn default_length_penalty() -> f64 {
    1.0
}

/// When the search of a prompt ends, once `num_beams` sequences have ended. Written as `false`, `true` or `never`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EarlyStopping {
    /// `false`: when the best open sequence, scored at its present length, is no better than the worst ended one.
    #[default]
    Likely,
    /// `true`: at once.
    Always,
    /// `never`: when no open sequence can become better than the worst ended one, also where a positive length
    /// penalty favours longer ones.
    Never,
}

/// A setting that can't be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadSetting {
    /// `sample` or `beam`.
    pub method: &'static str,
    /// The setting's key.
    pub key: &'static str,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: &'static str,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 1.0, top_k: 50, top_p: 1.0, min_p: None, seed: 42 }
    }
}

impl Decoding {
    /// Sequences that are computed side by side for one prompt.
    pub fn sequences_per_prompt(&self) -> usize {
        match self {
            Decoding::Greedy | Decoding::Sample(_) => 1,
            Decoding::Beam(beam) => beam.num_beams,
        }
    }

    /// Whether an answer to a longer limit begins with the answer to a shorter one. A beam search may choose another
    /// sequence.
    pub fn prolongs(&self) -> bool {
        !matches!(self, Decoding::Beam(_))
    }

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

impl fmt::Display for Decoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Decoding::Greedy => f.write_str("greedy"),
            Decoding::Sample(Sampling { temperature, top_k, top_p, min_p, seed }) => {
                write!(f, "sample (temperature {temperature}, top_k {top_k}, top_p {top_p}")?;
                min_p.map_or(Ok(()), |min_p| write!(f, ", min_p {min_p}"))?;
                write!(f, ", seed {seed})")
            }
            Decoding::Beam(BeamSearch { num_beams, length_penalty, early_stopping }) => write!(
                f,
                "beam (num_beams {num_beams}, length_penalty {length_penalty}, early_stopping {})",
                early_stopping.name()
            ),
        }
    }
}

impl EarlyStopping {
    fn name(self) -> &'static str {
        match self {
            EarlyStopping::Likely => "false",
            EarlyStopping::Always => "true",
            EarlyStopping::Never => "never",
        }
    }
}

impl Serialize for EarlyStopping {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            EarlyStopping::Likely => serializer.serialize_bool(false),
            EarlyStopping::Always => serializer.serialize_bool(true),
            EarlyStopping::Never => serializer.serialize_str(self.name()),
        }
    }
}

impl<'de> Deserialize<'de> for EarlyStopping {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EarlyStoppingVisitor;
        impl Visitor<'_> for EarlyStoppingVisitor {
            type Value = EarlyStopping;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`false`, `true` or `never`")
            }

            fn visit_bool<E: de::Error>(self, stop: bool) -> Result<EarlyStopping, E> {
                Ok(if stop { EarlyStopping::Always } else { EarlyStopping::Likely })
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<EarlyStopping, E> {
                match text {
                    "never" => Ok(EarlyStopping::Never),
                    _ => Err(E::unknown_variant(text, &["false", "true", "never"])),
                }
            }
        }
        deserializer.deserialize_any(EarlyStoppingVisitor)
    }
}

impl<'de> Deserialize<'de> for Decoding {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Tagged {
            sample: Option<Sampling>,
            beam: Option<BeamSearch>,
        }
        struct DecodingVisitor;
        impl<'de> Visitor<'de> for DecodingVisitor {
            type Value = Decoding;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`greedy`, `sample: {…}` or `beam: {…}`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Decoding, E> {
                match text {
                    "greedy" => Ok(Decoding::Greedy),
                    "sample" => Ok(Decoding::Sample(Sampling::default())),
                    "beam" => Err(E::custom("`beam` lacks its `num_beams`: write `beam: {num_beams: 4}`")),
                    _ => Err(E::unknown_variant(text, &["greedy", "sample", "beam"])),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Decoding, A::Error> {
                match Tagged::deserialize(de::value::MapAccessDeserializer::new(map))? {
                    Tagged { sample: Some(sampling), beam: None } => Ok(Decoding::Sample(sampling)),
                    Tagged { sample: None, beam: Some(beam) } => Ok(Decoding::Beam(beam)),
                    Tagged { sample: None, beam: None } => Err(de::Error::custom("neither `sample` nor `beam`")),
                    Tagged { sample: Some(_), beam: Some(_) } => Err(de::Error::custom("both `sample` and `beam`")),
                }
            }
        }
        deserializer.deserialize_any(DecodingVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Decoding, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_written_is_read_back() {
        let beam = BeamSearch { num_beams: 4, length_penalty: 0.5, early_stopping: EarlyStopping::Never };
        let sampling = Sampling { temperature: 0.7, top_k: 0, top_p: 0.9, min_p: Some(0.05), seed: 7 };
        for (decoding, json) in [
            (Decoding::Greedy, r#""greedy""#),
            (
                Decoding::Sample(sampling),
                r#"{"sample":{"temperature":0.7,"top_k":0,"top_p":0.9,"min_p":0.05,"seed":7}}"#,
            ),
            (Decoding::Beam(beam), r#"{"beam":{"num_beams":4,"length_penalty":0.5,"early_stopping":"never"}}"#),
        ] {
            assert_eq!(serde_json::to_string(&decoding).unwrap(), json);
            assert_eq!(read(json).unwrap(), decoding);
        }
    }

    #[test]
    fn what_is_left_out_is_as_in_transformers() {
        let sampling = Sampling { temperature: 1.0, top_k: 50, top_p: 1.0, min_p: None, seed: 42 };
        assert_eq!(read(r#""sample""#).unwrap(), Decoding::Sample(sampling));
        assert_eq!(read(r#"{"sample":{}}"#).unwrap(), Decoding::Sample(sampling));
        let beam = BeamSearch { num_beams: 2, length_penalty: 1.0, early_stopping: EarlyStopping::Likely };
        assert_eq!(read(r#"{"beam":{"num_beams":2}}"#).unwrap(), Decoding::Beam(beam));
    }

    #[test]
    fn what_has_no_meaning_is_refused() {
        for json in [
            r#""sampel""#,
            r#""beam""#,
            "{}",
            r#"{"beam":{}}"#,
            r#"{"sample":{},"beam":{"num_beams":2}}"#,
            r#"{"sample":{"topk":5}}"#,
            r#"{"beam":{"num_beams":2,"early_stopping":"always"}}"#,
        ] {
            assert!(read(json).is_err(), "{json}");
        }
        for (json, key) in [
            (r#"{"sample":{"temperature":0}}"#, "temperature"),
            (r#"{"sample":{"top_p":0}}"#, "top_p"),
            (r#"{"sample":{"top_p":1.5}}"#, "top_p"),
            (r#"{"sample":{"min_p":-0.1}}"#, "min_p"),
            (r#"{"beam":{"num_beams":1}}"#, "num_beams"),
            (r#"{"beam":{"num_beams":2,"length_penalty":9}}"#, "length_penalty"),
        ] {
            assert_eq!(read(json).unwrap().check().unwrap_err().key, key, "{json}");
        }
        let endless = Sampling { temperature: f64::NAN, ..Sampling::default() };
        assert_eq!(Decoding::Sample(endless).check().unwrap_err().key, "temperature");
    }
}
