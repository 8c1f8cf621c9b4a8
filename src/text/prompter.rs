//! From a prompt's text to what a model reads: chat template with the system prompt, limit of length, token ids.

use serde_json::{Map, Value};

use super::chat::{ChatTemplate, Message, TemplateSource};
use super::model_text::ModelText;
use super::tokenizer::{Side, Tokenizer};
use crate::calendar::Date;
use crate::error::{Error, Kind, Result};

/// How prompts become what a model reads.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// The chat template; `None`: prompts go in as plain text.
    pub template: Option<TemplateSource>,
    /// The system turn that precedes each prompt: needs a chat template.
    pub system: Option<String>,
    /// Further names for the template, such as `enable_thinking`.
    pub variables: Map<String, Value>,
    /// The date that the template takes for today.
    pub date: Date,
    /// Longest prompt.
    pub limit: Option<Limit>,
}

/// The longest prompt, and what happens to longer ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Tokens of a whole prompt, with everything that its chat template and tokenizer add.
    pub max_tokens: usize,
    /// The end at which a longer prompt loses tokens; `None`: a longer prompt is an error.
    pub cut: Option<Side>,
}

/// A prompt as the model reads it.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenizedPrompt {
    /// The text, chat template included.
    pub text: String,
    /// The token ids of the text, special tokens included.
    pub ids: Vec<u32>,
    /// How many tokens the prompt lost to the limit.
    pub dropped: usize,
}

/// A model's tokenizer, with the rules by which prompts become what the model reads.
pub struct Prompter {
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    system: Option<String>,
    limit: Option<Limit>,
}

impl Prompter {
    /// Combines a model's text side with the rules.
    ///
    /// # Errors
    /// The chat template isn't valid, or there is a system prompt and no template that could carry it.
    pub fn new(text: ModelText, rules: Rules) -> Result<Self> {
        let Rules { template, system, variables, date, limit } = rules;
        if system.is_some() && template.is_none() {
            let hint =
                "name a template with `chat_template: ./file.jinja`, or put the text into the prompts themselves";
            return Err(Error::input("a system prompt needs a chat template, and the model has none").with_hint(hint));
        }
        let compile = |source| ChatTemplate::new(source, &text.special_tokens, &variables, date);
        let template = template.map(compile).transpose()?;
        Ok(Self { tokenizer: text.tokenizer, template, system, limit })
    }

    /// For decoding answers: chat template and limit don't apply to what it encodes.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The chat template, if one is used.
    pub fn template(&self) -> Option<&TemplateSource> {
        self.template.as_ref().map(ChatTemplate::source)
    }

    /// A prompt as the model reads it: rendered, within the limit, encoded. A rendered template carries its own special
    /// tokens, so none are added to it; plain text gets those that the tokenizer adds.
    ///
    /// # Errors
    /// The template refuses the conversation, the tokenizer fails, or the prompt is longer than the limit and can't be
    /// cut.
    pub fn tokenize(&self, text: &str) -> Result<TokenizedPrompt> {
        let whole = self.whole(text)?;
        match self.limit {
            Some(limit) if whole.ids.len() > limit.max_tokens => self.cut(text, whole, limit),
            _ => Ok(whole),
        }
    }

    fn whole(&self, text: &str) -> Result<TokenizedPrompt> {
        let Some(template) = &self.template else {
            return Ok(TokenizedPrompt { text: text.to_owned(), ids: self.tokenizer.encode(text)?, dropped: 0 });
        };
        let user = Message { role: "user", content: text };
        let rendered = match &self.system {
            None => template.render(&[user])?,
            Some(system) => {
                let system = Message { role: "system", content: system };
                template.render(&[system, user]).map_err(|error| self.blame_system(error, template, user))?
            }
        };
        let ids = self.tokenizer.encode_bare(&rendered)?;
        Ok(TokenizedPrompt { text: rendered, ids, dropped: 0 })
    }

    /// If the template accepts the prompt alone, the system turn is what it refuses.
    fn blame_system(&self, error: Error, template: &ChatTemplate, user: Message<'_>) -> Error {
        let input = error.kind() == Kind::Input;
        match input && template.render(&[user]).is_ok() {
            true => error.with_hint(
                "this template has no place for a system prompt: remove `prompts.system`, or put its text into the \
                 prompts themselves",
            ),
            false => error,
        }
    }

    fn cut(&self, text: &str, whole: TokenizedPrompt, limit: Limit) -> Result<TokenizedPrompt> {
        let (length, most) = (whole.ids.len(), limit.max_tokens);
        let Some(side) = limit.cut else {
            let message = format!("{length} tokens, and `prompts.max_tokens` is {most}");
            return Err(Error::input(message).with_hint("raise it, or cut longer prompts with `prompts.truncate`"));
        };
        if self.template.is_some() {
            return self.cut_content(text, length, most, side);
        }
        let ids = self.tokenizer.encode_cut(text, most, side)?;
        Ok(TokenizedPrompt { text: self.tokenizer.decode(&ids)?, dropped: length - ids.len(), ids })
    }

    /// Cuts the user's text at the bounds of its tokens until the rendered prompt fits: what the template puts around
    /// it stays whole.
    fn cut_content(&self, text: &str, whole: usize, most: usize, side: Side) -> Result<TokenizedPrompt> {
        let spans = self.tokenizer.spans(text)?;
        // a token that is a piece of a character gives no text to cut at
        let part = |kept: usize| match side {
            Side::Right => text.get(..spans.get(kept.checked_sub(1)?)?.end),
            Side::Left => text.get(spans.get(spans.len().checked_sub(kept)?)?.start..),
        };
        let (mut kept, mut length) = (spans.len(), whole);
        loop {
            // tokens at the cut can merge differently than before, so one round may not be enough
            kept = kept.saturating_sub(length.saturating_sub(most).max(1));
            while kept > 0 && part(kept).is_none() {
                kept -= 1;
            }
            let part = part(kept).unwrap_or_default();
            let prompt = self.whole(part)?;
            length = prompt.ids.len();
            if kept == 0 || part.is_empty() {
                let message =
                    format!("the chat template alone takes {length} tokens: none of the prompt fits into {most}");
                return Err(Error::input(message).with_hint("raise `prompts.max_tokens`"));
            }
            if length <= most {
                return Ok(TokenizedPrompt { dropped: whole - length, ..prompt });
            }
        }
    }
}
