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
pub(crate) struct PromptSpec {
    /// A `.jsonl` file in Dolly's schema (`instruction`, `context`, `response`, `category`) or a text file with one
    /// prompt a line; relative to the sweep file.
    pub(crate) file: Option<PathBuf>,
    /// The prompts themselves, in place of a file.
    pub(crate) text: Option<Vec<String>>,
    /// Random token ids of each model's vocabulary, in place of texts: no tokenizer is needed. `count` says how many.
    pub(crate) random: Option<RandomPrompts>,
    /// How many to draw; left out, all of them in the file's order.
    pub(crate) count: Option<usize>,
    /// Seed of the draw (NumPy's `default_rng(seed).permutation`, as Hugging Face `datasets` shuffles).
    #[serde(default = "default_seed")]
    pub(crate) seed: u64,
    /// Which chat template the prompts go through, those of the accuracy too.
    #[serde(default)]
    pub(crate) chat_template: TemplateChoice,
    /// Names that the chat template is given, such as `enable_thinking: false`.
    #[serde(default)]
    pub(crate) template_variables: Variables,
    /// System turn before each prompt; needs a chat template.
    pub(crate) system: Option<String>,
    /// What a chat template takes for today: results must not change with the day of the run.
    #[serde(default)]
    pub(crate) date: Date,
    /// Longest prompt in tokens, with everything that template and tokenizer add; left out, what fits the model.
    pub(crate) max_tokens: Option<usize>,
    /// What happens to a longer prompt.
    #[serde(default)]
    pub(crate) truncate: Truncate,
}

/// Prompts of random token ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, DeriveDeserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RandomPrompts {
    /// Tokens of each prompt.
    pub(crate) tokens: usize,
}

/// Names that a chat template is given, such as `enable_thinking`.
pub(crate) type Variables = serde_json::Map<String, serde_json::Value>;

/// Which chat template prompts go through.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TemplateChoice {
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
