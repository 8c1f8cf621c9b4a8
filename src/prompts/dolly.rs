//! Dolly's schema (databricks-dolly-15k) and the prompt that EPT-Bench makes of a row.

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::prompts::item::PromptItem;

/// One row of the data set.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Row {
    /// The question or task.
    pub instruction: String,
    /// The text that the question is about; may be empty.
    #[serde(default)]
    pub context: String,
    /// The reference answer.
    #[serde(default)]
    pub response: Option<String>,
    /// The kind of task.
    #[serde(default)]
    pub category: Option<String>,
}

impl Row {
    /// The prompt as EPT-Bench formats it: instruction, context unless it is empty, `Answer:`.
    pub fn prompt(&self) -> PromptItem {
        let (instruction, context) = (self.instruction.trim(), self.context.trim());
        let text = match context {
            "" => format!("Instruction: {instruction}\n\nAnswer:"),
            _ => format!("Instruction: {instruction}\n\nContext: {context}\n\nAnswer:"),
        };
        PromptItem { text, reference: self.response.clone(), category: self.category.clone() }
    }
}

/// Reads one JSON object per line; blank lines are skipped.
pub(super) fn parse(text: &str) -> Result<Vec<Row>> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines.map(|(index, line)| serde_json::from_str(line).map_err(|error| bad_row(index + 1, &error))).collect()
}

fn bad_row(line: usize, error: &serde_json::Error) -> Error {
    // serde_json counts lines inside the one line that it was given
    let cause = error.to_string();
    let cause = cause.split(" at line ").next().unwrap_or(&cause);
    Error::input(format!("line {line}: {cause}"))
        .with_hint("each line is a JSON object with `instruction` and optionally `context`, `response` and `category`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_becomes_the_prompt_of_ept_bench() {
        let rows = parse("{\"instruction\": \" Sort. \", \"context\": \" b a\\n\", \"response\": \"a b\"}\n").unwrap();
        assert_eq!(rows[0].prompt().text, "Instruction: Sort.\n\nContext: b a\n\nAnswer:");
    }

    #[test]
    fn a_row_without_context_has_no_context_paragraph() {
        let rows = parse("{\"instruction\": \"Count to 3.\", \"context\": \"  \"}\n").unwrap();
        assert_eq!(rows[0].prompt().text, "Instruction: Count to 3.\n\nAnswer:");
    }

    #[test]
    fn a_malformed_row_is_named_by_its_line() {
        let error = parse("{\"instruction\": \"a\"}\n\n{\"question\": \"b\"}\n").unwrap_err();
        assert_eq!(error.message(), "line 3: missing field `instruction`");
    }
}
