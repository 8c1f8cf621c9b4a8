//! A model's chat template: where it is found, and what it makes of a conversation.

use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value};

use super::settings::{SETTINGS, SPECIAL, content};
use crate::calendar::Date;
use crate::digest::sha256_hex;
use crate::error::{Context, Error, Result};
use crate::json::read_object;
use crate::template::chat::Compiled;

/// The template as a file of its own: wins over the one in `tokenizer_config.json`.
const OWN_FILE: &str = "chat_template.jinja";
/// Where processors of several media keep it.
const PROCESSOR_FILE: &str = "chat_template.json";
/// Where special tokens are named that `tokenizer_config.json` leaves out.
const SPECIAL_MAP: &str = "special_tokens_map.json";
const FIELD: &str = "chat_template";

/// The text of a chat template, with the name that records and errors give it.
#[derive(Debug, Clone, PartialEq)]
pub struct TemplateSource {
    /// The file that it comes from.
    pub name: String,
    /// Jinja, as it was found: not compiled yet.
    pub text: String,
}

impl TemplateSource {
    /// The template of a model folder: `chat_template.jinja`, else what `tokenizer_config.json` has (of several the
    /// one named `default`), else `chat_template.json`.
    ///
    /// # Errors
    /// An unreadable file, or several templates without a default.
    pub fn find(folder: &Path) -> Result<Option<Self>> {
        let own = folder.join(OWN_FILE);
        if own.is_file() {
            return Self::read(&own, OWN_FILE).map(Some);
        }
        for name in [SETTINGS, PROCESSOR_FILE] {
            let file = folder.join(name);
            if !file.is_file() {
                continue;
            }
            let settings = read_object(&file)?;
            let field = settings.get(FIELD).filter(|field| !field.is_null());
            if let Some(field) = field {
                let text = default_of(field).map_err(|error| error.at(file.display()))?;
                return Ok(Some(Self { name: name.to_owned(), text }));
            }
        }
        Ok(None)
    }

    /// Reads a template from a file; records and errors call it `shown`.
    ///
    /// # Errors
    /// The file can't be read as text.
    pub fn read(path: &Path, shown: &str) -> Result<Self> {
        let what = || format!("can't read the chat template `{}`", path.display());
        let text = std::fs::read_to_string(path).input_context(what)?;
        Ok(Self { name: shown.to_owned(), text })
    }

    /// SHA-256 of the text.
    pub fn sha256(&self) -> String {
        sha256_hex(self.text.as_bytes())
    }
}

/// The template of a field that is a string or a list of `{name, template}`.
fn default_of(field: &Value) -> Result<String> {
    if let Some(text) = field.as_str() {
        return Ok(text.to_owned());
    }
    let text = |entry: &Value, key: &str| entry.get(key).and_then(Value::as_str).map(str::to_owned);
    let entries = field.as_array().map(Vec::as_slice).unwrap_or_default();
    let default = entries.iter().find(|entry| text(entry, "name").as_deref() == Some("default"));
    default.and_then(|entry| text(entry, "template")).ok_or_else(|| {
        let names: Vec<String> = entries.iter().filter_map(|entry| text(entry, "name")).collect();
        let message = match names.as_slice() {
            [] => format!("`{FIELD}` is neither a text nor a list of `name` and `template`"),
            names => format!("`{FIELD}` has no `default` among {}", names.join(", ")),
        };
        Error::input(message).with_hint("put the template into a file and name it: `chat_template: ./file.jinja`")
    })
}

/// Special tokens of a model folder by name, as transformers hands them to a template.
pub(super) fn special_tokens(folder: &Path) -> Result<Map<String, Value>> {
    let mut found = Map::new();
    for name in [SETTINGS, SPECIAL_MAP] {
        let file = folder.join(name);
        if !file.is_file() {
            continue;
        }
        let settings = read_object(&file)?;
        for field in SPECIAL {
            if let Some(token) = settings.get(field).and_then(content).filter(|_| !found.contains_key(field)) {
                found.insert(field.to_owned(), Value::String(token));
            }
        }
    }
    Ok(found)
}

/// One turn of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Message<'a> {
    /// `system`, `user`, `assistant`.
    pub role: &'a str,
    /// Plain text of the turn; the template adds everything around it.
    pub content: &'a str,
}

/// A compiled chat template with the names that it can use.
#[derive(Debug)]
pub struct ChatTemplate {
    source: TemplateSource,
    compiled: Compiled,
    names: Map<String, Value>,
}

impl ChatTemplate {
    /// Compiles a template. `variables` (such as `enable_thinking`) win over special tokens of the same name; `date`
    /// is what the template takes for today.
    ///
    /// # Errors
    /// The template isn't valid; the message names its file and the line.
    pub fn new(
        source: TemplateSource,
        special_tokens: &Map<String, Value>,
        variables: &Map<String, Value>,
        date: Date,
    ) -> Result<Self> {
        let compiled = Compiled::new(&source.text, date).map_err(|error| place(error, &source))?;
        let mut names = special_tokens.clone();
        names.extend(variables.clone());
        Ok(Self { source, compiled, names })
    }

    /// Where the template comes from, and its text.
    pub fn source(&self) -> &TemplateSource {
        &self.source
    }

    /// The text that asks the model for the next turn of a conversation, as
    /// `apply_chat_template(messages, add_generation_prompt=True, tokenize=False)` of transformers gives it.
    ///
    /// # Errors
    /// The template refuses the conversation, or fails.
    pub fn render(&self, messages: &[Message<'_>]) -> Result<String> {
        let mut context = self.names.clone();
        let messages = serde_json::to_value(messages).context(|| "messages of a chat")?;
        context.insert("messages".to_owned(), messages);
        context.insert("tools".to_owned(), Value::Null);
        context.insert("documents".to_owned(), Value::Null);
        context.insert("add_generation_prompt".to_owned(), Value::Bool(true));
        self.compiled.render(context).map_err(|error| place(error, &self.source))
    }
}

fn place(error: Error, source: &TemplateSource) -> Error {
    error.at(format!("chat template of `{}`", source.name))
}
