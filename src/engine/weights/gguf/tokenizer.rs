//! The tokenizer's data in a GGUF file, as plain lists; building a tokenizer of it is another room's work.

use super::Gguf;
use crate::error::Result;
use crate::text::GgufTokenizer;

impl Gguf {
    /// The tokenizer's data.
    ///
    /// # Errors
    /// No tokenizer in the file, lists of different lengths, or an id that is no token's.
    pub fn tokenizer(&self) -> Result<GgufTokenizer> {
        let tokens = self.required(TOKENS, self.texts(TOKENS)?)?;
        let ids = |key: &str| self.token_id(key, tokens.len());
        let data = GgufTokenizer {
            model: self.text("tokenizer.ggml.model")?,
            pre: self.optional_text("tokenizer.ggml.pre")?,
            merges: self.texts("tokenizer.ggml.merges")?.unwrap_or_default(),
            token_types: self.token_types(tokens.len())?,
            bos: ids("tokenizer.ggml.bos_token_id")?,
            eos: ids("tokenizer.ggml.eos_token_id")?,
            unknown: ids("tokenizer.ggml.unknown_token_id")?,
            padding: ids("tokenizer.ggml.padding_token_id")?,
            add_bos: self.optional_flag("tokenizer.ggml.add_bos_token")?,
            add_eos: self.optional_flag("tokenizer.ggml.add_eos_token")?,
            chat_template: self.optional_text("tokenizer.chat_template")?,
            tokens,
        };
        Ok(data)
    }

    /// Ids that end a generation: end of sequence, of turn, of message.
    pub(super) fn end_ids(&self) -> Result<Vec<u32>> {
        let keys = ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];
        let mut ids = Vec::new();
        for key in keys {
            if let Some(id) = self.token_id(key, u32::MAX as usize)?.filter(|id| !ids.contains(id)) {
                ids.push(id);
            }
        }
        Ok(ids)
    }

    /// `u32::MAX` (and −1) stand for none.
    pub(super) fn token_id(&self, key: &str, count: usize) -> Result<Option<u32>> {
        match self.optional_integer(key)? {
            None | Some(-1) => Ok(None),
            Some(id) if id == i64::from(u32::MAX) => Ok(None),
            Some(id) => match u32::try_from(id).ok().filter(|id| (*id as usize) < count) {
                Some(id) => Ok(Some(id)),
                None => Err(self.error(key, format!("{id} is no token's id"))),
            },
        }
    }

    fn token_types(&self, count: usize) -> Result<Vec<i32>> {
        const KEY: &str = "tokenizer.ggml.token_type";
        let types = self.integers(KEY)?.unwrap_or_default();
        if !types.is_empty() && types.len() != count {
            return Err(self.error(KEY, format!("has {} entries for {count} tokens", types.len())));
        }
        types
            .into_iter()
            .map(|kind| i32::try_from(kind).map_err(|_| self.error(KEY, format!("{kind} isn't a token's type"))))
            .collect()
    }
}

pub(super) const TOKENS: &str = "tokenizer.ggml.tokens";
