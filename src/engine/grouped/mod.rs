//! Architectures outside the decoder. Their models can't pad, so prompts of equal length run together, one group after
//! another. candle-transformers' code runs where it computes what transformers computes, behind a reader of
//! `config.json` that refuses what differs; three modules of our own, `state_space`, `latent_attention` and `rwkv`,
//! replace what it lacks or computes otherwise. docs/architectures.md has the verdicts.

mod config;
mod deepseek;
mod definition;
mod engine;
mod fields;
mod granite_hybrid;
mod latent_attention;
mod lfm2;
mod mamba;
mod recurrent_gemma;
mod routing;
mod rwkv;
mod source;
mod state_space;

pub(super) use config::GroupedConfig;
pub use engine::GroupedEngine;
pub(super) use engine::{inspect, load};
