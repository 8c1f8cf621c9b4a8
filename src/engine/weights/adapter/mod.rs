//! LoRA adapters as PEFT saves them: reads `adapter_config.json` and `adapter_model.safetensors`, and merges the
//! adapter into the base model's weights, tensor by tensor, in f32. Knows names and shapes, no architecture.
//!
//! Implements LoRA (Hu et al. 2021), rank-stabilised LoRA (Kalajdzievski 2023) and DoRA (Liu et al. 2024) as PEFT's
//! `merge_and_unload` does. What would change the merged weights and isn't implemented is refused when the adapter is
//! opened; what only says how training began (`init_lora_weights: "gaussian"`, `lora_dropout` …) is passed over.

mod files;
mod merge;
mod names;
mod settings;

pub(crate) use files::Adapter;

#[cfg(test)]
mod tests;
