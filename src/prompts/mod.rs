//! Prompt sets: where prompts come from, how they are drawn, and their text as the model sees it.

mod dolly;
mod item;
mod numpy;
mod set;

pub use dolly::Row;
pub(crate) use item::PromptItem;
pub use set::PromptSet;
