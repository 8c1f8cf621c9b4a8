//! The prompts of a sweep, and how they are put to the models.

use std::path::PathBuf;

use serde::de::{self, Deserialize, Deserializer};
use serde::{Deserialize as DeriveDeserialize, Serialize};

use crate::calendar::Date;
use crate::record::Truncate;
use crate::sweep::default::default_seed;

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
