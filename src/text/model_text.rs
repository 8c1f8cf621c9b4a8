//! What a model's files say about text.

use std::path::Path;

use serde_json::{Map, Value};

use super::chat::{TemplateSource, special_tokens};
use super::tokenizer::Tokenizer;
use crate::error::Result;

/// The text side of a model's files.
pub struct ModelText {
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// Special tokens by their names in transformers (`bos_token` …): a chat template can use them.
    pub special_tokens: Map<String, Value>,
    /// The model's own chat template, if it has one. An error in it matters only if the template is used.
    pub template: Result<Option<TemplateSource>>,
}

impl ModelText {
    /// Reads a model folder in the hub's layout.
    ///
    /// # Errors
    /// As [`Tokenizer::load`].
    pub fn load(folder: &Path) -> Result<Self> {
        let tokenizer = Tokenizer::load(folder)?;
        Ok(Self { tokenizer, special_tokens: special_tokens(folder)?, template: TemplateSource::find(folder) })
    }
}
