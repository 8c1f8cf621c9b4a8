//! The text side of a model: its tokenizer, as transformers would apply it. Runs no model.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, Tokenizer as Backend};

use crate::error::{Context, Error, Result};

const TOKENIZER: &str = "tokenizer.json";
const SETTINGS: &str = "tokenizer_config.json";

/// Fields of `tokenizer_config.json` that name a special token.
const SPECIAL: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Fields of `tokenizer_config.json` that list further special tokens.
const MORE_SPECIAL: [&str; 2] = ["additional_special_tokens", "extra_special_tokens"];

/// Turns text into token ids and back, as transformers' `tokenizer(text)` and
/// `tokenizer.decode(ids, skip_special_tokens=True)` do.
pub struct Tokenizer {
    backend: Backend,
    file: PathBuf,
}

impl Tokenizer {
    /// Reads `tokenizer.json` and, where it is there, `tokenizer_config.json` of a model folder.
    ///
    /// # Errors
    /// No `tokenizer.json`, or one of the files is damaged; the message names the file.
    pub fn load(folder: &Path) -> Result<Self> {
        let file = folder.join(TOKENIZER);
        if !file.is_file() {
            return Err(Error::input(format!("has no `{TOKENIZER}`")).at(folder.display()).hint(
                "`AutoTokenizer.from_pretrained(folder).save_pretrained(folder)` in transformers writes it from older \
                 formats",
            ));
        }
        let mut backend = Backend::from_file(&file).input_context(|| file.display())?;
        let settings = folder.join(SETTINGS);
        if settings.is_file() {
            apply(&mut backend, &settings)?;
        }
        backend.with_padding(None);
        backend.with_truncation(None).input_context(|| file.display())?;
        Ok(Self { backend, file })
    }

    /// Token ids of a text, with the special tokens that the tokenizer adds (such as a leading BOS).
    ///
    /// # Errors
    /// A text that the tokenizer can't encode.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.backend.encode_fast(text, true).context(|| self.file.display())?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Text of token ids, special tokens left out.
    ///
    /// # Errors
    /// Ids that the tokenizer's decoder can't join.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.backend.decode(ids, true).context(|| self.file.display())
    }

    /// Number of tokens, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.backend.get_vocab_size(true)
    }
}

/// Applies what `tokenizer_config.json` says beyond `tokenizer.json`: added and special tokens, and whether BOS and EOS
/// are put around a text.
fn apply(backend: &mut Backend, file: &Path) -> Result<()> {
    let text = std::fs::read_to_string(file).input_context(|| file.display())?;
    let settings: Map<String, Value> = serde_json::from_str(&text).input_context(|| file.display())?;
    add_listed(backend, &settings, file)?;
    add_special(backend, &settings, file)?;
    set_ends(backend, &settings).map_err(|error| error.at(file.display()))
}

/// Adds the tokens of `added_tokens_decoder` that the tokenizer lacks, each under its stated id.
fn add_listed(backend: &mut Backend, settings: &Map<String, Value>, file: &Path) -> Result<()> {
    let Some(listed) = settings.get("added_tokens_decoder").and_then(Value::as_object) else { return Ok(()) };
    let mut tokens = Vec::new();
    for (id, token) in listed {
        let id: u32 = id.parse().input_context(|| format!("{}: `added_tokens_decoder.{id}`", file.display()))?;
        let token: AddedToken = serde_json::from_value(token.clone())
            .input_context(|| format!("{}: `added_tokens_decoder.{id}`", file.display()))?;
        tokens.push((id, token));
    }
    tokens.sort_by_key(|(id, _)| *id);
    for (id, token) in tokens {
        let content = token.content.clone();
        backend.add_tokens([token]).input_context(|| file.display())?;
        if backend.token_to_id(&content) != Some(id) {
            let message = format!("`added_tokens_decoder.{id}`: `{content}` has another id in `{TOKENIZER}`");
            return Err(Error::input(message).at(file.display()));
        }
    }
    Ok(())
}

/// Marks the named special tokens as special, so that decoding leaves them out.
fn add_special(backend: &mut Backend, settings: &Map<String, Value>, file: &Path) -> Result<()> {
    let known = backend.get_added_tokens_decoder();
    let is_known = |content: &str| known.values().any(|token| token.content == content);
    let single = SPECIAL.iter().filter_map(|field| settings.get(*field));
    let lists = MORE_SPECIAL.iter().filter_map(|field| settings.get(*field)?.as_array()).flatten();
    let contents = single.chain(lists).filter_map(content);
    let missing: Vec<AddedToken> =
        contents.filter(|content| !is_known(content)).map(|content| AddedToken::from(content, true)).collect();
    backend.add_special_tokens(missing).input_context(|| file.display())?;
    Ok(())
}

/// Text of a special token, which is stored as a string or as an object.
fn content(token: &Value) -> Option<String> {
    token.as_str().or_else(|| token.get("content")?.as_str()).map(str::to_owned)
}

/// Follows `add_bos_token` and `add_eos_token` where they are stated and the tokenizer does otherwise.
fn set_ends(backend: &mut Backend, settings: &Map<String, Value>) -> Result<()> {
    let flag = |field: &str| settings.get(field).and_then(Value::as_bool);
    let (bos, eos) = (flag("add_bos_token"), flag("add_eos_token"));
    if bos.is_none() && eos.is_none() {
        return Ok(());
    }
    let end = |wanted: Option<bool>, field: &str| -> Option<(String, u32)> {
        let content = settings.get(field).and_then(content).filter(|_| wanted == Some(true))?;
        let id = backend.token_to_id(&content)?;
        Some((content, id))
    };
    let (bos, eos) = (end(bos, "bos_token"), end(eos, "eos_token"));
    let wanted: Vec<u32> = [&bos, &eos].into_iter().flatten().map(|(_, id)| *id).collect();
    let around = backend.encode("", true).input_context(|| "an empty text")?;
    if around.get_ids() == wanted {
        return Ok(());
    }
    let template = template(bos, eos).input_context(|| "`add_bos_token`")?;
    backend.with_post_processor(Some(template));
    Ok(())
}

fn template(bos: Option<(String, u32)>, eos: Option<(String, u32)>) -> Result<TemplateProcessing, String> {
    let name = |end: &Option<(String, u32)>| end.as_ref().map(|(content, _)| content.clone());
    let pieces: Vec<String> = [name(&bos), Some("$A".to_owned()), name(&eos)].into_iter().flatten().collect();
    let tokens: Vec<(String, u32)> = [bos, eos].into_iter().flatten().collect();
    let mut builder = TemplateProcessing::builder();
    builder.try_single(pieces)?.special_tokens(tokens);
    builder.build().map_err(|cause| cause.to_string())
}

#[cfg(test)]
mod tests;
