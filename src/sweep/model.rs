//! The models of a sweep: where each comes from, and its role in the study.

use std::fmt;
use std::path::PathBuf;

use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::{Deserialize as DeriveDeserialize, Serialize};

use crate::record::{DummyDistribution, Role, SyntheticSpec};
use crate::sweep::axis::ModelAxes;
use crate::sweep::prompts::{PromptSpec, TemplateChoice, Variables};

/// One model of the sweep.
#[derive(Debug, Clone, PartialEq, DeriveDeserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// Its name in cell ids, figures and tables.
    pub(crate) label: String,
    /// Where it comes from.
    pub(crate) source: ModelSource,
    /// What it is in the study.
    #[serde(default)]
    pub(crate) role: Role,
    /// Label of the teacher that a student or control is compared with.
    pub(crate) teacher: Option<String>,
    /// Data type to run in; left out, the one that the weights are stored in.
    pub(crate) dtype: Option<Dtype>,
    /// PEFT LoRA adapter that is merged into the weights: a folder (starts with `.`, `/` or `~`, relative to the sweep
    /// file) or a hub id.
    pub(crate) adapter: Option<String>,
    /// `stored`, or `dummy` for random numbers, for which the source needs no more than a `config.json`;
    /// `{dummy: uniform}` says how they are distributed.
    #[serde(default)]
    pub(crate) weights: WeightsChoice,
    /// CUDA devices that the layers are spread over, in order; left out, the one that the run names.
    pub(crate) devices: Option<Vec<usize>>,
    /// Hub revision (branch, tag or commit).
    pub(crate) revision: Option<String>,
    /// JSON file that says what training the model cost: `seconds`, `energy_j`, `energy_method`.
    pub(crate) training: Option<PathBuf>,
    /// Axes of this model alone, in place of the common ones.
    pub(crate) sweep: Option<ModelAxes>,
    /// Chat template of this model alone, in place of `prompts.chat_template`.
    pub(crate) chat_template: Option<TemplateChoice>,
    /// Names for this model's chat template; they win over those of `prompts.template_variables`.
    #[serde(default)]
    pub(crate) template_variables: Variables,
}

/// Where a model's weights come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WeightsChoice {
    /// From the source.
    #[default]
    Stored,
    /// Seeded random numbers.
    Dummy(DummyDistribution),
}

impl WeightsChoice {
    /// The distribution of dummy weights.
    pub(crate) fn dummy(self) -> Option<DummyDistribution> {
        match self {
            WeightsChoice::Stored => None,
            WeightsChoice::Dummy(distribution) => Some(distribution),
        }
    }
}

/// Where a model comes from.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ModelSource {
    /// A local folder or `.gguf` file (starts with `.`, `/` or `~`, relative to the sweep file) or a hub id
    /// (`owner/name`, and what else [`crate::hub::Source`] reads).
    Name(String),
    /// A simulated model with known time and power.
    Synthetic(Box<SyntheticSpec>),
}

/// Data type of weights and activations while running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, DeriveDeserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Dtype {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Dtype {
    /// The name, as in the sweep file.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "f32",
            Dtype::F16 => "f16",
            Dtype::Bf16 => "bf16",
        }
    }
}

impl ModelSource {
    /// How the sweep file names it.
    pub(crate) fn name(&self) -> &str {
        match self {
            ModelSource::Name(name) => name,
            ModelSource::Synthetic(_) => "synthetic",
        }
    }
}

impl PromptSpec {
    /// The choice of chat template for one model.
    pub(crate) fn template_of<'a>(&'a self, model: &'a ModelSpec) -> &'a TemplateChoice {
        model.chat_template.as_ref().unwrap_or(&self.chat_template)
    }
}

impl<'de> Deserialize<'de> for WeightsChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        #[derive(DeriveDeserialize)]
        #[serde(deny_unknown_fields)]
        struct Tagged {
            dummy: DummyDistribution,
        }
        struct WeightsVisitor;
        impl<'de> Visitor<'de> for WeightsVisitor {
            type Value = WeightsChoice;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`stored`, `dummy` or `{dummy: gaussian | uniform | zeros}`")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> std::result::Result<WeightsChoice, E> {
                match name {
                    "stored" => Ok(WeightsChoice::Stored),
                    "dummy" => Ok(WeightsChoice::Dummy(DummyDistribution::default())),
                    other => Err(E::unknown_variant(other, &["stored", "dummy"])),
                }
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> std::result::Result<WeightsChoice, A::Error> {
                let tagged = Tagged::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(WeightsChoice::Dummy(tagged.dummy))
            }
        }
        deserializer.deserialize_any(WeightsVisitor)
    }
}

impl<'de> Deserialize<'de> for ModelSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        #[derive(DeriveDeserialize)]
        #[serde(deny_unknown_fields)]
        struct Tagged {
            synthetic: SyntheticSpec,
        }
        struct SourceVisitor;
        impl<'de> Visitor<'de> for SourceVisitor {
            type Value = ModelSource;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a folder, a hub id, or `synthetic: {…}`")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> std::result::Result<ModelSource, E> {
                Ok(ModelSource::Name(name.to_owned()))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> std::result::Result<ModelSource, A::Error> {
                let tagged = Tagged::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(ModelSource::Synthetic(Box::new(tagged.synthetic)))
            }
        }
        deserializer.deserialize_any(SourceVisitor)
    }
}
