//! The sweep file as types: what each key means, its default, and nothing about how it is carried out.

use std::fmt;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::de::{self, Deserialize, Deserializer, IntoDeserializer, SeqAccess, Visitor};
use serde::{Deserialize as DeriveDeserialize, Serialize};

use crate::calendar::Date;
use crate::error::{Context, Result};
use crate::record::{Decoding, OutputLength, Role, SyntheticSpec, Truncate};
use crate::sweep::measure::MeasureSpec;
use crate::sweep::{validate, yaml};

/// A whole sweep file.
#[derive(Debug, Clone, PartialEq, DeriveDeserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SweepSpec {
    /// Names the run directory: `reports/<name>`.
    pub name: String,
    /// The question that the sweep asks; the report opens with it.
    pub question: Option<String>,
    /// Prose printed in the report.
    pub notes: Option<String>,
    /// The models.
    pub models: Vec<ModelSpec>,
    /// The axes; every model runs at every combination unless it names axes of its own.
    pub sweep: Axes,
    /// The prompts of the energy windows.
    pub prompts: PromptSpec,
    /// How text is generated.
    #[serde(default)]
    pub generation: GenerationSpec,
    /// How energy is measured.
    #[serde(default)]
    pub measure: MeasureSpec,
    /// How answers are scored; left out, no accuracy is measured.
    pub accuracy: Option<AccuracySpec>,
    /// How results are judged and reported.
    #[serde(default)]
    pub report: ReportSpec,
}

/// One model of the sweep.
#[derive(Debug, Clone, PartialEq, DeriveDeserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// Its name in cell ids, figures and tables.
    pub label: String,
    /// Where it comes from.
    pub source: ModelSource,
    /// What it is in the study.
    #[serde(default)]
    pub role: Role,
    /// Label of the teacher that a student or control is compared with.
    pub teacher: Option<String>,
    /// Data type to run in; left out, the one that the weights are stored in.
    pub dtype: Option<Dtype>,
    /// PEFT LoRA adapter that is merged into the weights: a folder (starts with `.`, `/` or `~`, relative to the sweep
    /// file) or a hub id.
    pub adapter: Option<String>,
    /// `stored`, or `dummy` for seeded random weights, for which the source needs no more than a `config.json`.
    #[serde(default)]
    pub weights: WeightsChoice,
    /// CUDA devices that the layers are spread over, in order; left out, the one that the run names.
    pub devices: Option<Vec<usize>>,
    /// Hub revision (branch, tag or commit).
    pub revision: Option<String>,
    /// JSON file that says what training the model cost: `seconds`, `energy_j`, `energy_method`.
    pub training: Option<PathBuf>,
    /// Axes of this model alone, in place of the common ones.
    pub sweep: Option<ModelAxes>,
    /// Chat template of this model alone, in place of `prompts.chat_template`.
    pub chat_template: Option<TemplateChoice>,
    /// Names for this model's chat template; they win over those of `prompts.template_variables`.
    #[serde(default)]
    pub template_variables: Variables,
}

/// Where a model's weights come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, DeriveDeserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightsChoice {
    /// From the source.
    #[default]
    Stored,
    /// Seeded random numbers.
    Dummy,
}

/// Prompts of random token ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, DeriveDeserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RandomPrompts {
    /// Tokens of each prompt.
    pub tokens: usize,
}

/// Names that a chat template is given, such as `enable_thinking`.
pub type Variables = serde_json::Map<String, serde_json::Value>;

/// Which chat template prompts go through.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TemplateChoice {
    /// None: every model reads the prompts as they are.
    #[default]
    None,
    /// The model's own where it has one.
    Auto,
    /// The one in a file, relative to the sweep file.
    File(PathBuf),
}

/// Where a model comes from.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelSource {
    /// A local folder or `.gguf` file (starts with `.`, `/` or `~`, relative to the sweep file) or a hub id
    /// (`owner/name`, and what else [`crate::hub::Source`] reads).
    Name(String),
    /// A simulated model with known time and power.
    Synthetic(SyntheticSpec),
}

/// Data type of weights and activations while running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, DeriveDeserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Dtype {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
}

impl Dtype {
    /// The name, as in the sweep file.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "f32",
            Dtype::F16 => "f16",
            Dtype::Bf16 => "bf16",
        }
    }
}

/// The axes of the sweep.
#[derive(Debug, Clone, PartialEq, DeriveDeserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Axes {
    /// Sequences decoded together.
    pub batch_size: Axis,
    /// Upper limit of new tokens a sequence.
    pub max_new_tokens: Axis,
    /// Largest number of cells that may be planned: a guard against a slip of the pen.
    #[serde(default = "default_max_cells")]
    pub max_cells: usize,
}

pub(super) fn default_max_cells() -> usize {
    500
}

/// Axes that one model has of its own.
#[derive(Debug, Clone, PartialEq, Default, DeriveDeserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ModelAxes {
    /// In place of `sweep.batch_size`.
    pub batch_size: Option<Axis>,
    /// In place of `sweep.max_new_tokens`.
    pub max_new_tokens: Option<Axis>,
}

/// One number or a list of numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Axis(pub Vec<usize>);

/// The prompts of the energy windows.
#[derive(Debug, Clone, PartialEq, DeriveDeserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PromptSpec {
    /// A `.jsonl` file in Dolly's schema (`instruction`, `context`, `response`, `category`) or a text file with one
    /// prompt a line; relative to the sweep file.
    pub file: Option<PathBuf>,
    /// The prompts themselves, in place of a file.
    pub text: Option<Vec<String>>,
    /// Random token ids of each model's vocabulary, in place of texts: no tokenizer is needed. `count` says how many.
    pub random: Option<RandomPrompts>,
    /// How many to draw; left out, all of them in the file's order.
    pub count: Option<usize>,
    /// Seed of the draw (NumPy's `default_rng(seed).permutation`, as Hugging Face `datasets` shuffles).
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// Which chat template the prompts go through, those of the accuracy too.
    #[serde(default)]
    pub chat_template: TemplateChoice,
    /// Names that the chat template is given, such as `enable_thinking: false`.
    #[serde(default)]
    pub template_variables: Variables,
    /// System turn before each prompt; needs a chat template.
    pub system: Option<String>,
    /// What a chat template takes for today: results must not change with the day of the run.
    #[serde(default)]
    pub date: Date,
    /// Longest prompt in tokens, with everything that template and tokenizer add; left out, what fits the model.
    pub max_tokens: Option<usize>,
    /// What happens to a longer prompt.
    #[serde(default)]
    pub truncate: Truncate,
}

impl PromptSpec {
    /// The choice of chat template for one model.
    pub fn template_of<'a>(&'a self, model: &'a ModelSpec) -> &'a TemplateChoice {
        model.chat_template.as_ref().unwrap_or(&self.chat_template)
    }
}

/// How text is generated.
#[derive(Debug, Clone, Copy, PartialEq, Default, DeriveDeserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct GenerationSpec {
    /// `natural` or `fixed`.
    pub length: OutputLength,
    /// `greedy`, `{sample: {…}}` or `{beam: {…}}`.
    pub decoding: Decoding,
}

pub(super) fn default_seed() -> u64 {
    42
}

/// How answers are scored.
#[derive(Debug, Clone, PartialEq, DeriveDeserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AccuracySpec {
    /// A `.jsonl` file in Dolly's schema, with a `response` in each row; relative to the sweep file.
    pub file: PathBuf,
    /// How many rows to draw; left out, all.
    pub count: Option<usize>,
    /// Seed of the draw.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// Sequences decoded together while scoring.
    #[serde(default = "default_accuracy_batch")]
    pub batch_size: usize,
}

fn default_accuracy_batch() -> usize {
    16
}

/// How results are judged and reported.
#[derive(Debug, Clone, PartialEq, DeriveDeserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReportSpec {
    /// Relative difference in energy below which two cells count as equivalent.
    pub floor: f64,
}

impl Default for ReportSpec {
    fn default() -> Self {
        Self { floor: 0.01 }
    }
}

/// A value, or `auto`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Auto<T> {
    /// The program chooses.
    #[serde(serialize_with = "serialize_auto")]
    Auto,
    /// The user chose.
    Value(T),
}

impl<T: Copy> Auto<T> {
    /// The user's value, or the program's choice.
    pub fn or(self, choice: T) -> T {
        match self {
            Auto::Auto => choice,
            Auto::Value(value) => value,
        }
    }
}

fn serialize_auto<S: serde::Serializer>(serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_str("auto")
}

impl SweepSpec {
    /// Reads and validates a sweep file.
    ///
    /// # Errors
    /// Unreadable file, bad YAML, unknown key, wrong type, or a value that contradicts another: with file, line,
    /// column, caret and what to do.
    pub fn read(file: &Path) -> Result<(Self, String)> {
        let text = std::fs::read_to_string(file)
            .input_context(|| format!("can't read the sweep file `{}`", file.display()))?;
        let spec = Self::parse(file, &text)?;
        Ok((spec, text))
    }

    /// Parses and validates the text of a sweep file.
    ///
    /// # Errors
    /// As [`SweepSpec::read`].
    pub fn parse(file: &Path, text: &str) -> Result<Self> {
        let source = yaml::Source { file, text };
        let spec: Self = source.parse()?;
        validate::check(&spec, &source)?;
        Ok(spec)
    }

    /// SHA-256 over what the file means: comments, layout and the order of keys don't count.
    pub fn fingerprint(&self) -> String {
        // a sweep file holds strings, numbers and lists only: writing it as JSON can't fail
        let canonical = serde_json::to_string(self).unwrap_or_default();
        crate::digest::sha256_hex(canonical.as_bytes())
    }

    /// The models that are a teacher's student or control.
    pub fn model(&self, label: &str) -> Option<&ModelSpec> {
        self.models.iter().find(|model| model.label == label)
    }
}

impl ModelSource {
    /// How the sweep file names it.
    pub fn name(&self) -> &str {
        match self {
            ModelSource::Name(name) => name,
            ModelSource::Synthetic(_) => "synthetic",
        }
    }
}

impl<'de> Deserialize<'de> for Axis {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct AxisVisitor;
        impl<'de> Visitor<'de> for AxisVisitor {
            type Value = Axis;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number above 0 or a list of them")
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> std::result::Result<Axis, E> {
                usize::try_from(value).map(|value| Axis(vec![value])).map_err(E::custom)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> std::result::Result<Axis, A::Error> {
                let mut values = Vec::new();
                while let Some(value) = items.next_element()? {
                    values.push(value);
                }
                Ok(Axis(values))
            }
        }
        deserializer.deserialize_any(AxisVisitor)
    }
}

impl<'de> Deserialize<'de> for TemplateChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(match text.as_str() {
            "none" => TemplateChoice::None,
            "auto" => TemplateChoice::Auto,
            path if path.contains(['.', '/']) => TemplateChoice::File(path.into()),
            _ => {
                return Err(de::Error::invalid_value(
                    de::Unexpected::Str(&text),
                    &"`auto`, `none` or a file (`./chat.jinja`)",
                ));
            }
        })
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
                Ok(ModelSource::Synthetic(tagged.synthetic))
            }
        }
        deserializer.deserialize_any(SourceVisitor)
    }
}

/// What may stand in the place of `auto`.
trait Choice {
    const EXPECTED: &'static str;
}

impl Choice for u32 {
    const EXPECTED: &'static str = "a whole number or `auto`";
}

impl Choice for f64 {
    const EXPECTED: &'static str = "a number or `auto`";
}

impl Choice for bool {
    const EXPECTED: &'static str = "`true`, `false` or `auto`";
}

impl<'de, T: Deserialize<'de> + Choice> Deserialize<'de> for Auto<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct AutoVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de> + Choice> Visitor<'de> for AutoVisitor<T> {
            type Value = Auto<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(T::EXPECTED)
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> std::result::Result<Auto<T>, E> {
                T::deserialize(value.into_deserializer()).map(Auto::Value)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<Auto<T>, E> {
                match text {
                    "auto" => Ok(Auto::Auto),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> std::result::Result<Auto<T>, E> {
                T::deserialize(value.into_deserializer()).map(Auto::Value)
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> std::result::Result<Auto<T>, E> {
                T::deserialize(value.into_deserializer()).map(Auto::Value)
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> std::result::Result<Auto<T>, E> {
                T::deserialize(value.into_deserializer()).map(Auto::Value)
            }
        }
        deserializer.deserialize_any(AutoVisitor(PhantomData))
    }
}
