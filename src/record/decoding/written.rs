//! How settings are written: as text, and in YAML and JSON.

use std::fmt;

use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use super::settings::{BeamSearch, Decoding, EarlyStopping, Sampling};

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
