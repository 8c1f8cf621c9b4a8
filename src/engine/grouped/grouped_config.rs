//! From `config.json` to the definition of a model outside the decoder.

use std::path::Path;

use super::definition::Definition;
use super::{deepseek, granite_hybrid, lfm2, mamba, recurrent_gemma, rwkv};
use crate::engine::config::{self, generation_eos, refuse_quantised};
use crate::error::Result;
use crate::json::{Fields, read_object};

/// Largest number of positions for which the models may tabulate their rotations.
const MOST_POSITIONS: usize = 1 << 20;

/// A model outside the decoder, as its configuration describes it.
pub(crate) struct GroupedConfig {
    /// As `config.json` names it.
    pub(crate) architecture: String,
    /// Token ids that end a sequence.
    pub(crate) eos_ids: Vec<u32>,
    pub(crate) definition: Definition,
}

/// Reads the fields of one architecture.
type Read = fn(&Fields<'_>) -> Result<Definition>;

impl GroupedConfig {
    /// Reads `config.json` and `generation_config.json`; `None` if the decoder runs the architecture, or nothing does.
    ///
    /// # Errors
    /// A file that can't be read, or a field whose value isn't supported; the message names file and field.
    pub(crate) fn read(folder: &Path) -> Result<Option<Self>> {
        let file = folder.join("config.json");
        let json = read_object(&file)?;
        let fields = Fields::new(&file, &json);
        let Some((architecture, read)) = config::named(&fields).and_then(|name| Some((name, reader(name)?))) else {
            return Ok(None);
        };
        let definition = read(&fields)?;
        refuse_quantised(&fields)?;
        if definition.max_positions.is_some_and(|limit| limit > MOST_POSITIONS) {
            return Err(fields.error("max_position_embeddings", format!("more than {MOST_POSITIONS} aren't supported")));
        }
        let eos_ids = match generation_eos(folder)? {
            Some(ids) => ids,
            None => fields.token_ids("eos_token_id")?.unwrap_or_default(),
        };
        Ok(Some(Self { architecture: architecture.to_owned(), eos_ids, definition }))
    }
}

fn reader(architecture: &str) -> Option<Read> {
    Some(match architecture {
        "DeepseekV2ForCausalLM" => deepseek::read_2,
        "DeepseekV3ForCausalLM" => deepseek::read_3,
        "FalconMambaForCausalLM" => mamba::read_falcon,
        "GraniteMoeHybridForCausalLM" => granite_hybrid::read,
        "Lfm2ForCausalLM" => lfm2::read,
        "Mamba2ForCausalLM" => mamba::read_2,
        "MambaForCausalLM" => mamba::read,
        "RecurrentGemmaForCausalLM" => recurrent_gemma::read,
        "RwkvForCausalLM" => rwkv::read,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_architecture_outside_the_decoder_that_messages_name_can_be_read() {
        assert!(config::architecture::GROUPED.iter().all(|name| reader(name).is_some()));
    }
}
