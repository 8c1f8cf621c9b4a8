//! Running a model: token ids in, token ids out. Knows nothing of text, energy, windows or records of trials.

mod config;
mod cpu;
mod decoder;
mod device;
mod dtype;
mod failure;
pub mod generate;
#[cfg(feature = "cuda")]
mod gpu;
pub mod grouped;
mod heads;
mod identity;
mod interface;
mod layout;
pub mod load;
mod options;
mod position_encoding;
mod summary;
pub mod synthetic;
mod weights;
mod workload;
mod yardstick;

pub use decoder::Kernels;
pub use interface::{Continuation, Engine, GenerateOptions, Generation, Prompt, Score};
pub use yardstick::{Amount, Yardstick};
