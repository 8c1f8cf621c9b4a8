//! Names of architectures, as `config.json` has them.

use crate::json::Fields;

/// Those that run outside the decoder, in groups of equally long prompts. The decoder's are in
/// [`FAMILIES`](super::families::FAMILIES), next to the functions that read them.
pub(crate) const GROUPED: [&str; 9] = [
    "DeepseekV2ForCausalLM",
    "DeepseekV3ForCausalLM",
    "FalconMambaForCausalLM",
    "GraniteMoeHybridForCausalLM",
    "Lfm2ForCausalLM",
    "Mamba2ForCausalLM",
    "MambaForCausalLM",
    "RecurrentGemmaForCausalLM",
    "RwkvForCausalLM",
];

/// The architecture that `config.json` names: the first of its list.
pub(crate) fn named<'a>(fields: &Fields<'a>) -> Option<&'a str> {
    fields.get("architectures")?.get(0)?.as_str()
}
