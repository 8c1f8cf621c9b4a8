//! From the files of a model folder to a [`Config`]: finds the family that reads an architecture, and checks what it
//! read.

use std::path::Path;

use serde_json::{Map, Value};

use super::architecture;
use super::families::FAMILIES;
use super::graph::{Attention, Config, FeedForward};
use crate::error::Result;
use crate::json::{Fields, read_object};

impl Config {
    /// Reads `config.json` and `generation_config.json` (if there is one) of a model folder, in the spellings of
    /// transformers 4 and 5.
    ///
    /// # Errors
    /// A file that can't be read, an architecture or a variant that isn't supported, or a field with a wrong value; the
    /// message names the file and the field.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let file = folder.join("config.json");
        let json = read_object(&file)?;
        let mut config = Self::from_json(&file, &json)?;
        if let Some(ids) = generation_eos(folder)? {
            config.eos_ids = ids;
        }
        Ok(config)
    }

    /// The same from the object that `config.json` holds.
    ///
    /// # Errors
    /// As for [`Config::read`].
    pub(crate) fn from_json(file: &Path, json: &Map<String, Value>) -> Result<Self> {
        let fields = Fields::new(file, json);
        refuse_quantised(&fields)?;
        let Some(named) = architecture::named(&fields) else {
            return Err(fields.error("architectures", format!("names no architecture; supported are {}", supported())));
        };
        let Some((_, read)) = FAMILIES.iter().find(|(name, _)| *name == named) else {
            return Err(
                fields.error("architectures", format!("`{named}` isn't supported; supported are {}", supported()))
            );
        };
        let config = read(&fields)?;
        config.check(&fields)?;
        Ok(config)
    }

    fn check(&self, fields: &Fields) -> Result<()> {
        let Attention { heads, kv_heads, head_dim, .. } = self.attention;
        if !heads.is_multiple_of(kv_heads) {
            let message = format!("{kv_heads} doesn't divide `num_attention_heads` ({heads})");
            return Err(fields.error("num_key_value_heads", message));
        }
        if head_dim == 0 {
            let message = format!("`num_attention_heads` ({heads}) is more than `hidden_size` ({})", self.hidden_size);
            return Err(fields.error("head_dim", message));
        }
        if let Some(rope) = self.ropes.iter().find(|rope| rope.dims == 0 || !rope.dims.is_multiple_of(2)) {
            let message = format!("{} isn't a positive even number, which the rotary embedding needs", rope.dims);
            return Err(fields.error("head_dim", message));
        }
        for layer in &self.layers {
            if let FeedForward::Experts(experts) = layer.feed_forward
                && experts.per_token > experts.count
            {
                let message = format!("{} of {} experts", experts.per_token, experts.count);
                return Err(fields.error("num_experts_per_tok", message));
            }
        }
        Ok(())
    }
}

/// All architectures, those of the decoder first.
fn supported() -> String {
    let mut names: Vec<_> = FAMILIES.iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    let listed = |names: &[&str]| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let grouped = listed(&architecture::GROUPED);
    format!("{} and, in groups of equally long prompts, {grouped}", listed(&names))
}

/// Refuses weights that were quantised: their tensors have the names of plain ones, and would be read as such.
///
/// # Errors
/// `config.json` has a `quantization_config`.
pub(crate) fn refuse_quantised(fields: &Fields<'_>) -> Result<()> {
    match fields.get("quantization_config") {
        None => Ok(()),
        Some(_) => Err(fields
            .error("quantization_config", "quantised safetensors aren't supported")
            .with_hint("take the unquantised model (f32, f16 or bf16 safetensors), or a GGUF file of it")),
    }
}

/// End-of-sequence ids of `generation_config.json`, which win over those of `config.json`.
///
/// # Errors
/// The file can't be read, or holds something other than token ids.
pub(crate) fn generation_eos(folder: &Path) -> Result<Option<Vec<u32>>> {
    let file = folder.join("generation_config.json");
    if !file.exists() {
        return Ok(None);
    }
    let json = read_object(&file)?;
    Fields::new(&file, &json).token_ids("eos_token_id")
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
