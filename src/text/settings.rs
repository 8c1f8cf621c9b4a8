//! The tokenizer's files in a model folder, and their fields.

use serde_json::Value;

pub(super) const TOKENIZER: &str = "tokenizer.json";
pub(super) const SETTINGS: &str = "tokenizer_config.json";

/// Fields of `tokenizer_config.json` that name a special token.
pub(super) const SPECIAL: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Fields of `tokenizer_config.json` that list further special tokens.
pub(super) const MORE_SPECIAL: [&str; 2] = ["additional_special_tokens", "extra_special_tokens"];

/// Text of a special token, which is stored as a string or as an object.
pub(super) fn content(token: &Value) -> Option<String> {
    token.as_str().or_else(|| token.get("content")?.as_str()).map(str::to_owned)
}
