//! Text to token ids and back, for each kind of model.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::digest::sha256;
use crate::engine::Prompt;
use crate::engine::synthetic;
use crate::error::{Error, Result};
use crate::record::{CellSpec, PromptForm, Truncated};
use crate::text::{Prompter, TokenizedPrompt, Tokenizer};

/// Text to token ids and back.
pub(crate) enum Codec {
    /// A model's own tokenizer, with the rules by which prompts become what the model reads.
    Text(Box<TextCodec>),
    /// Words between blanks: the simulated model's.
    Words,
    /// Random token ids for prompts.
    Random(Box<RandomCodec>),
}

/// Random token ids for prompts, and a tokenizer for answers, if the model has one.
pub(crate) struct RandomCodec {
    pub(super) vocab_size: usize,
    /// Tokens of each prompt.
    pub(super) tokens: usize,
    pub(super) tokenizer: Option<Tokenizer>,
}

impl RandomCodec {
    /// Ids that follow from the prompt's name alone: the same for models with the same vocabulary size.
    fn ids(&self, name: &str) -> Vec<u32> {
        let mut random = ChaCha8Rng::from_seed(sha256(name.as_bytes()));
        (0..self.tokens).map(|_| random.random_range(0..self.vocab_size as u32)).collect()
    }
}

/// How a model's prompts and answers are turned into token ids and back.
pub(crate) struct TextCodec {
    pub(super) prompter: Prompter,
    pub(super) form: PromptForm,
}

/// A list of prompts as a model reads them.
#[derive(Debug, Clone)]
pub(crate) struct TokenizedPrompts {
    /// The prompts, in order.
    pub(crate) prompts: Vec<Prompt>,
    /// How much was cut off.
    pub(crate) truncated: Truncated,
}

impl Codec {
    /// How prompts become what the model reads, for the record.
    pub(crate) fn form(&self) -> PromptForm {
        match self {
            Codec::Text(text) => text.form.clone(),
            Codec::Words | Codec::Random(_) => PromptForm::default(),
        }
    }

    /// Text of token ids, without special tokens.
    ///
    /// # Errors
    /// The tokenizer fails.
    pub(crate) fn decode(&self, ids: &[u32]) -> Result<String> {
        match self {
            Codec::Text(text) => text.prompter.tokenizer().decode(ids),
            Codec::Words => Ok(synthetic::ids_to_text(ids)),
            Codec::Random(random) => random.tokenizer.as_ref().map_or(Ok(String::new()), |text| text.decode(ids)),
        }
    }

    /// Prompts as the model reads them: through its chat template, within the limit of length, with their ids.
    ///
    /// # Errors
    /// Names the first prompt that the template refuses, that is too long, or that gives no token at all.
    pub(crate) fn prompts<'a>(&self, texts: impl Iterator<Item = &'a str>) -> Result<TokenizedPrompts> {
        let mut tokenized = TokenizedPrompts { prompts: Vec::new(), truncated: Truncated::default() };
        for (index, text) in texts.enumerate() {
            let prompt =
                self.tokenize(text).map_err(|error| error.at(format!("prompt {} ({})", index + 1, opening(text))))?;
            tokenized.truncated.of += 1;
            tokenized.truncated.prompts += usize::from(prompt.dropped > 0);
            tokenized.truncated.tokens += prompt.dropped as u64;
            tokenized.prompts.push(Prompt { text: prompt.text, ids: prompt.ids });
        }
        Ok(tokenized)
    }

    fn tokenize(&self, text: &str) -> Result<TokenizedPrompt> {
        let prompt = match self {
            Codec::Text(codec) => codec.prompter.tokenize(text)?,
            Codec::Words => TokenizedPrompt { text: text.to_owned(), ids: synthetic::words_to_ids(text), dropped: 0 },
            Codec::Random(random) => TokenizedPrompt { text: text.to_owned(), ids: random.ids(text), dropped: 0 },
        };
        match prompt.ids.is_empty() {
            true => Err(Error::input("it gives no tokens").with_hint("remove empty prompts")),
            false => Ok(prompt),
        }
    }
}

/// The first words of a prompt, enough to find it by.
fn opening(text: &str) -> String {
    const SHOWN: usize = 40;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("`{}…`", &line[..end]),
        None => format!("`{line}`"),
    }
}

/// Checks that every prompt of a cell and its answer fit the model's positions.
///
/// # Errors
/// Names the longest prompt and the limit.
pub(crate) fn check_lengths(cell: &CellSpec, prompts: &[Prompt], limit: usize) -> Result<()> {
    let longest = prompts.iter().map(|prompt| prompt.ids.len()).max().unwrap_or(0);
    if longest.saturating_add(cell.max_new_tokens) <= limit {
        return Ok(());
    }
    let message = format!(
        "cell `{}`: the longest prompt has {longest} tokens and {} more are asked for, but the model has {limit} \
         positions",
        cell.id, cell.max_new_tokens
    );
    Err(Error::input(message).with_hint("lower `max_new_tokens`, or use shorter prompts"))
}
