//! The architectures of the decoder: each function reads the `config.json` of one family. Defaults are those of the
//! family's configuration class in transformers 5.

mod base;
mod cohere;
mod experts;
mod gemma;
mod glm;
mod gpt;
mod llama;
mod olmo;
mod phi;
mod windows;

use super::graph::Config;
use crate::error::Result;
use crate::json::Fields;

type Read = fn(&Fields) -> Result<Config>;

/// Every architecture of the decoder, as `config.json` names it, with the function that reads it.
pub(crate) const FAMILIES: [(&str, Read); 39] = [
    ("ArceeForCausalLM", llama::arcee),
    ("BloomForCausalLM", gpt::bloom),
    ("CohereForCausalLM", cohere::cohere),
    ("Cohere2ForCausalLM", cohere::cohere2),
    ("CwmForCausalLM", llama::cwm),
    ("Ernie4_5ForCausalLM", llama::ernie4_5),
    ("Exaone4ForCausalLM", olmo::exaone4),
    ("FalconForCausalLM", gpt::falcon),
    ("GPT2LMHeadModel", gpt::gpt2),
    ("GPTNeoXForCausalLM", gpt::gpt_neox),
    ("GemmaForCausalLM", gemma::gemma),
    ("Gemma2ForCausalLM", gemma::gemma2),
    ("Gemma3ForCausalLM", gemma::gemma3),
    ("GlmForCausalLM", glm::glm),
    ("Glm4ForCausalLM", glm::glm4),
    ("GraniteForCausalLM", llama::granite),
    ("HeliumForCausalLM", llama::helium),
    ("LlamaForCausalLM", llama::llama),
    ("MinistralForCausalLM", llama::ministral),
    ("MistralForCausalLM", llama::mistral),
    ("MixtralForCausalLM", experts::mixtral),
    ("NemotronForCausalLM", llama::nemotron),
    ("OPTForCausalLM", gpt::opt),
    ("OlmoForCausalLM", olmo::olmo),
    ("Olmo2ForCausalLM", olmo::olmo2),
    ("Olmo3ForCausalLM", olmo::olmo3),
    ("OlmoeForCausalLM", experts::olmoe),
    ("PhiForCausalLM", phi::phi),
    ("Phi3ForCausalLM", phi::phi3),
    ("Qwen2ForCausalLM", llama::qwen2),
    ("Qwen2MoeForCausalLM", experts::qwen2_moe),
    ("Qwen3ForCausalLM", llama::qwen3),
    ("Qwen3MoeForCausalLM", experts::qwen3_moe),
    ("SeedOssForCausalLM", llama::seed_oss),
    ("SmolLM3ForCausalLM", llama::smollm3),
    ("StableLmForCausalLM", llama::stablelm),
    ("Starcoder2ForCausalLM", llama::starcoder2),
    ("GPTJForCausalLM", gpt::gpt_j),
    ("GPTBigCodeForCausalLM", gpt::gpt_bigcode),
];
