//! A model's tokenizer, as transformers would load it.

use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};

use serde::de::IgnoredAny;
use serde_json::{Map, Value};
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, Encoding, Tokenizer as Backend, TruncationDirection};

use super::settings::{MORE_SPECIAL, SETTINGS, SPECIAL, TOKENIZER, content};
use crate::error::{Context, Error, Result};
use crate::json::read_object;

/// An end of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The beginning: cut there, a text keeps its last tokens.
    Left,
    /// The end: cut there, a text keeps its first tokens.
    Right,
}

/// Turns text into token ids and back, as transformers' `tokenizer(text)` and
/// `tokenizer.decode(ids, skip_special_tokens=True)` do.
pub struct Tokenizer {
    backend: Backend,
    file: PathBuf,
}

impl Tokenizer {
    /// A tokenizer that is put together; errors name `file` as where it comes from.
    pub(super) fn new(backend: Backend, file: PathBuf) -> Self {
        Self { backend, file }
    }

    /// Reads `tokenizer.json` and `tokenizer_config.json` (if there is one) of a model folder.
    ///
    /// # Errors
    /// No `tokenizer.json`, or one of the files is damaged; the message names the file.
    pub fn load(folder: &Path) -> Result<Self> {
        let file = folder.join(TOKENIZER);
        if !file.is_file() {
            return Err(Error::input(format!("has no `{TOKENIZER}`")).at(folder.display()).with_hint(
                "`AutoTokenizer.from_pretrained(folder).save_pretrained(folder)` in transformers writes it from older \
                 formats",
            ));
        }
        let text = std::fs::read_to_string(&file).input_context(|| file.display())?;
        // the library expects well-formed JSON and panics on some that isn't
        serde_json::from_str::<IgnoredAny>(&text).input_context(|| file.display())?;
        let backend = unbroken(|| text.parse::<Backend>()).map_err(|error| error.at(file.display()))?;
        let mut backend = backend.input_context(|| file.display())?;
        let settings = folder.join(SETTINGS);
        if settings.is_file() {
            unbroken(|| apply(&mut backend, &settings)).map_err(|error| error.at(file.display()))??;
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
        Ok(self.encoding(text, true)?.get_ids().to_vec())
    }

    /// Token ids of a text that carries its special tokens itself, such as a rendered chat template: none are added.
    ///
    /// # Errors
    /// A text that the tokenizer can't encode.
    pub fn encode_bare(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.encoding(text, false)?.get_ids().to_vec())
    }

    fn encoding(&self, text: &str, add_special: bool) -> Result<Encoding> {
        let encoding = unbroken(|| self.backend.encode_fast(text, add_special));
        encoding.map_err(|error| error.at(self.file.display()))?.context(|| self.file.display())
    }

    /// Token ids of a text cut to at most `most` tokens, added special tokens included, as transformers'
    /// `tokenizer(text, truncation=True, max_length=most)` does: `from` loses tokens, special ones stay.
    ///
    /// # Errors
    /// A text that the tokenizer can't encode, or one whose special tokens leave no room.
    pub(crate) fn encode_cut(&self, text: &str, most: usize, from: Side) -> Result<Vec<u32>> {
        let mut encoding = self.encoding(text, false)?;
        let added = self.encode(text)?.len().saturating_sub(encoding.len());
        let room = most.checked_sub(added).filter(|room| *room > 0);
        let room =
            room.ok_or_else(|| Error::input(format!("{added} special tokens leave no room in {most} tokens")))?;
        let direction = match from {
            Side::Left => TruncationDirection::Left,
            Side::Right => TruncationDirection::Right,
        };
        encoding.truncate(room, 0, direction);
        let whole = self.backend.post_process(encoding, None, true).context(|| self.file.display())?;
        Ok(whole.get_ids().to_vec())
    }

    /// The byte range of a text that each of its tokens covers; special tokens aren't added.
    ///
    /// # Errors
    /// A text that the tokenizer can't encode.
    pub(crate) fn spans(&self, text: &str) -> Result<Vec<Range<usize>>> {
        let encoding = unbroken(|| self.backend.encode(text, false)).map_err(|error| error.at(self.file.display()))?;
        let encoding = encoding.context(|| self.file.display())?;
        Ok(encoding.get_offsets().iter().map(|(start, end)| *start..*end).collect())
    }

    /// Text of token ids, special tokens left out.
    ///
    /// # Errors
    /// Ids that the tokenizer's decoder can't join.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let text = unbroken(|| self.backend.decode(ids, true)).map_err(|error| error.at(self.file.display()))?;
        text.context(|| self.file.display())
    }

    /// Number of tokens, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.backend.get_vocab_size(true)
    }
}

/// Runs a part of the tokenizers library, which panics on some damaged tokenizers (on a bad character map, for
/// example).
fn unbroken<T>(work: impl FnOnce() -> T) -> Result<T> {
    let message = "the tokenizer is damaged: the tokenizers library panicked";
    let hint = "fetch `tokenizer.json` again, or write it again with transformers' `save_pretrained`";
    std::panic::catch_unwind(AssertUnwindSafe(work)).map_err(|_| Error::input(message).with_hint(hint))
}

/// Applies what `tokenizer_config.json` says beyond `tokenizer.json`: added and special tokens, and whether BOS and EOS
/// are put around a text.
fn apply(backend: &mut Backend, file: &Path) -> Result<()> {
    let settings = read_object(file)?;
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

/// Follows `add_bos_token` and `add_eos_token` if they are stated and the tokenizer does something else.
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
    let present = backend.encode("", true).input_context(|| "an empty text")?;
    if present.get_ids() == wanted {
        return Ok(());
    }
    let template = around(bos, eos).input_context(|| "`add_bos_token`")?;
    backend.with_post_processor(Some(template));
    Ok(())
}

/// Puts BOS and EOS around every text.
pub(super) fn around(bos: Option<(String, u32)>, eos: Option<(String, u32)>) -> Result<TemplateProcessing, String> {
    let name = |end: &Option<(String, u32)>| end.as_ref().map(|(content, _)| content.clone());
    let pieces: Vec<String> = [name(&bos), Some("$A".to_owned()), name(&eos)].into_iter().flatten().collect();
    let tokens: Vec<(String, u32)> = [bos, eos].into_iter().flatten().collect();
    let mut builder = TemplateProcessing::builder();
    builder.try_single(pieces)?.special_tokens(tokens);
    builder.build().map_err(|cause| cause.to_string())
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
