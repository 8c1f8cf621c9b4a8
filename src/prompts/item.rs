//! One prompt.

/// A prompt with its reference answer.
#[derive(Debug, Clone, PartialEq)]
pub struct PromptItem {
    /// The text as the model sees it.
    pub text: String,
    /// The right answer, if the data set has one.
    pub(crate) reference: Option<String>,
    /// The kind of task, if the data set names one.
    pub(crate) category: Option<String>,
}

impl PromptItem {
    /// A prompt that is only a text.
    pub(super) fn plain(text: &str) -> Self {
        Self { text: text.trim().to_owned(), reference: None, category: None }
    }
}
