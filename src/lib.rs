//! Energy-per-token sweeps over language models: measure, analyse, draw and report.
//!
//! The modules in import order (a module imports only from modules above it) are described in `docs/design.md`.

// not in Cargo.toml: the helpers of integration tests may unwrap
#![warn(clippy::unwrap_used)]

pub mod calendar;
pub mod clock;
pub mod digest;
pub mod error;
pub mod file;
pub mod host;
pub(crate) mod json;
pub mod stats;
pub mod units;
mod vocabulary;

pub(crate) mod energy_floor;
pub mod record;
pub mod validity;

pub mod hub;
pub mod table;
pub mod template;

pub(crate) mod gguf;

pub mod prompts;
pub mod text;

pub mod engine;
pub mod meter;

pub mod sweep;

pub mod model;

pub mod store;

pub mod evaluate;
pub mod stage;

pub mod frame;

pub mod analysis;

pub mod format;

pub mod figures;

pub mod report;

pub mod console;

#[cfg(unix)]
pub(crate) mod child;
pub mod run;

pub mod cli;
pub mod commands;

#[cfg(test)]
mod fixtures;
