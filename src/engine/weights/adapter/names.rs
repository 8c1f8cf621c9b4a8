//! The names of an adapter's tensors: what each of them changes.

use crate::error::{Error, Result};

/// PEFT's prefix of the base model's names.
const PREFIX: &str = "base_model.model.";

/// The role of a tensor in the adapter's file.
#[derive(Debug, PartialEq)]
pub(super) enum Part {
    /// Takes the place of the base's tensor with this name.
    Whole(String),
    /// Belongs to the low-rank update of a module.
    OfUpdate { module: String, which: Factor, embedding: bool },
}

/// A part of a low-rank update.
#[derive(Debug, PartialEq)]
pub(crate) enum Factor {
    /// A: from the inputs to the rank.
    Down,
    /// B: from the rank to the outputs.
    Up,
    /// DoRA's magnitudes of the outputs.
    Magnitude,
}

/// Reads a name such as `base_model.model.model.layers.0.mlp.up_proj.lora_A.default.weight`. The prefix and the name of
/// the adapter (`default`) may be absent, as in files that PEFT writes.
pub(crate) fn classify(name: &str) -> Result<Part> {
    let path = name.strip_prefix(PREFIX).unwrap_or(name);
    let words: Vec<&str> = path.split('.').collect();
    let kinds = [
        ("lora_A", Factor::Down, false),
        ("lora_B", Factor::Up, false),
        ("lora_embedding_A", Factor::Down, true),
        ("lora_embedding_B", Factor::Up, true),
        ("lora_magnitude_vector", Factor::Magnitude, false),
    ];
    for (word, which, embedding) in kinds {
        let Some(at) = words.iter().position(|each| *each == word) else { continue };
        return match words.get(at + 1..).unwrap_or_default() {
            ["bias"] | [_, "bias"] => Err(Error::input("is a bias of LoRA's own (`lora_bias`), which isn't supported")),
            [] | [_] | [_, "weight"] => Ok(Part::OfUpdate { module: words[..at].join("."), which, embedding }),
            _ => Err(Error::input("has a name that isn't one of PEFT's")),
        };
    }
    if let Some(word) = words.iter().find(|word| word.starts_with("lora_")) {
        return Err(Error::input(format!("`{word}` belongs to a variant of LoRA that isn't supported")));
    }
    // `lm_head.modules_to_save.default.weight` of older versions, `embed_tokens.base_layer.weight` of targeted tables
    let mut plain: Vec<&str> = Vec::with_capacity(words.len());
    let mut rest = words.into_iter();
    while let Some(word) = rest.next() {
        match word {
            "base_layer" => {}
            "modules_to_save" => drop(rest.next()),
            word => plain.push(word),
        }
    }
    Ok(Part::Whole(plain.join(".")))
}
