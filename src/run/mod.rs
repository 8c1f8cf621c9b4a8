//! Carrying out a sweep: what is known before a model is loaded, the measuring loop, and scoring the answers.
//!
//! Reads neither the command line nor a report: a command hands in what was asked for.

pub mod earlier;
mod evaluate;
mod finished;
pub mod fit;
pub mod info;
mod learned;
mod loaded;
mod measure;
pub mod outlook;
pub mod prepare;
pub mod recompute;
mod resume;
pub mod setup;
mod spread;
pub mod start;
