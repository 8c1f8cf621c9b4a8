//! Architectures outside the decoder. Their models can't pad, so prompts of equal length run together, one group after
//! another. candle-transformers' code runs where it computes what transformers computes, behind a reader of
//! `config.json` that refuses what differs; three modules of our own, `state_space`, `latent_attention` and `rwkv`,
//! replace what it lacks or computes otherwise. docs/architectures.md has the verdicts.

mod deepseek;
mod definition;
mod fields;
mod granite_hybrid;
mod grouped_config;
mod grouped_engine;
mod latent_attention;
mod lfm2;
mod mamba;
mod recurrent_gemma;
mod routing;
mod rwkv;
mod source;
mod state_space;

pub(super) use grouped_config::GroupedConfig;
pub use grouped_engine::GroupedEngine;
pub(super) use grouped_engine::{inspect, load};
