//! Answers of a loaded model: a left-padded batch of prompts goes through the decoder, and a strategy chooses the
//! tokens.
//!
//! | file | |
//! |---|---|
//! | `greedy`, `ahead` | the most likely token of each step, chosen from logits or on the GPU |
//! | `sample` | a token drawn at each step |
//! | `beam` | the best of several sequences that are followed side by side |
//! | `score` | no answer: how likely given texts are |

#[cfg(feature = "cuda")]
mod ahead;
mod batch;
mod beam;
mod choice;
mod chooser;
mod decoder_engine;
mod greedy;
mod progress;
mod request;
mod runner;
mod sample;
mod score;

pub(super) use chooser::Chooser;
pub use decoder_engine::DecoderEngine;
pub(super) use progress::Progress;
pub(super) use request::{check_batch, check_request};
