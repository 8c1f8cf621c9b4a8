//! A list of prompts: read, drawn and fingerprinted.

use std::path::Path;

use crate::digest::sha256_hex;
use crate::error::{Context, Error, Result};
use crate::prompts::dolly;
use crate::prompts::item::PromptItem;
use crate::prompts::numpy::permutation;

/// A list of prompts with its origin.
#[derive(Debug, Clone, PartialEq)]
pub struct PromptSet {
    /// The origin, as the user named it.
    pub(crate) source: String,
    /// The prompts, in the order in which they run.
    pub items: Vec<PromptItem>,
}

impl PromptSet {
    /// Prompts given as text; blank ones are left out.
    pub(crate) fn from_texts<S: AsRef<str>>(source: &str, texts: &[S]) -> Self {
        let texts = texts.iter().map(AsRef::as_ref).filter(|text| !text.trim().is_empty());
        Self { source: source.to_owned(), items: texts.map(PromptItem::plain).collect() }
    }

    /// Prompts of random token ids; each text is only a name, from which a model's ids are drawn.
    pub(crate) fn random(count: usize, tokens: usize, seed: u64) -> Self {
        let item = |index: usize| PromptItem::plain(&format!("prompt {index} of {tokens} random tokens, seed {seed}"));
        Self { source: "random token ids".to_owned(), items: (0..count).map(item).collect() }
    }

    /// Reads a `.jsonl` file in Dolly's schema, or a text file with one prompt per line (stripped, blank lines skipped).
    ///
    /// # Errors
    /// Unreadable file, a malformed row (with its line), or no prompt at all.
    pub fn read(path: &Path, shown: &str) -> Result<Self> {
        let bytes = std::fs::read(path).input_context(|| format!("can't read the prompts `{}`", path.display()))?;
        let text = String::from_utf8(bytes).map_err(|_| {
            Error::input(format!("{}: not UTF-8 text", path.display())).with_hint("save the prompts as UTF-8")
        })?;
        // some editors put a byte-order mark in front
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let extension = path.extension().map_or_else(String::new, |name| name.to_string_lossy().to_ascii_lowercase());
        let items: Vec<PromptItem> = match extension.as_str() {
            "jsonl" | "json" => {
                dolly::parse(text).map_err(|error| error.at(path.display()))?.iter().map(dolly::Row::prompt).collect()
            }
            "txt" | "" => text.lines().filter(|line| !line.trim().is_empty()).map(PromptItem::plain).collect(),
            other => {
                let message = format!("{}: prompts in a `.{other}` file aren't read", path.display());
                return Err(
                    Error::input(message).with_hint("use `.txt` (a prompt a line) or `.jsonl` (Dolly's schema)")
                );
            }
        };
        if items.is_empty() {
            let hint = "one prompt a line, or one JSON object a line with `instruction` in a .jsonl file";
            return Err(Error::input(format!("{}: no prompts", path.display())).with_hint(hint));
        }
        Ok(Self { source: shown.to_owned(), items })
    }

    /// Draws `count` prompts as Hugging Face `datasets` does: `shuffle(seed).select(range(count))`.
    ///
    /// # Errors
    /// More are asked for than there are.
    pub fn draw(mut self, count: Option<usize>, seed: u64) -> Result<Self> {
        let Some(count) = count else { return Ok(self) };
        if count > self.items.len() {
            let message = format!("{} prompts asked for, but `{}` has {}", count, self.source, self.items.len());
            return Err(Error::input(message).with_hint("lower `count`, or leave it out to take all"));
        }
        let order = permutation(seed, self.items.len());
        self.items = order.into_iter().take(count).map(|index| self.items[index].clone()).collect();
        Ok(self)
    }

    /// SHA-256 over the texts and their references, each followed by a zero byte.
    pub fn sha256(&self) -> String {
        let mut bytes = Vec::new();
        for item in &self.items {
            for text in [Some(&item.text), item.reference.as_ref()].into_iter().flatten() {
                bytes.extend_from_slice(text.as_bytes());
                bytes.push(0);
            }
        }
        sha256_hex(&bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_file_gives_one_stripped_prompt_a_line_without_blank_lines() {
        let path = std::env::temp_dir().join(format!("ept-prompts-{}.txt", std::process::id()));
        std::fs::write(&path, "  first \n\n\tsecond\r\n   \n").unwrap();
        let set = PromptSet::read(&path, "p.txt").unwrap();
        std::fs::remove_file(&path).unwrap();
        let texts: Vec<_> = set.items.iter().map(|item| item.text.as_str()).collect();
        assert_eq!(texts, ["first", "second"]);
    }

    #[test]
    fn a_file_of_another_kind_is_refused_rather_than_read_as_text() {
        let path = std::env::temp_dir().join(format!("ept-prompts-{}.csv", std::process::id()));
        std::fs::write(&path, "a,b\n").unwrap();
        let error = PromptSet::read(&path, "p.csv").unwrap_err();
        std::fs::remove_file(&path).unwrap();
        assert!(error.message().contains("`.csv`"), "{error}");
    }

    #[test]
    fn upper_case_endings_and_byte_order_marks_change_nothing() {
        let path = std::env::temp_dir().join(format!("ept-prompts-{}.JSONL", std::process::id()));
        std::fs::write(&path, "\u{feff}{\"instruction\": \"Sort.\"}\n").unwrap();
        let set = PromptSet::read(&path, "p").unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(set.items[0].text, "Instruction: Sort.\n\nAnswer:");
    }

    #[test]
    fn drawing_more_prompts_than_there_are_is_an_error_that_says_both_numbers() {
        let error = PromptSet::from_texts("inline", &["a", "b"]).draw(Some(3), 42).unwrap_err();
        assert!(error.message().contains("3 prompts asked for") && error.message().contains("has 2"), "{error}");
    }
}
