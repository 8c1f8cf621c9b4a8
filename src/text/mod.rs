//! The text side of a model: its tokenizer and its chat template, as transformers would apply them. Runs no model.

mod chat;
mod gguf_tokenizer;
mod model_text;
mod prompter;
mod settings;
mod tokenizer;

pub use chat::{ChatTemplate, Message, TemplateSource};
pub use gguf_tokenizer::GgufTokenizer;
pub use model_text::ModelText;
pub(crate) use prompter::TokenizedPrompt;
pub use prompter::{Limit, Prompter, Rules};
pub use tokenizer::{Side, Tokenizer};
