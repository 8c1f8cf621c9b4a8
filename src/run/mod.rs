//! Carrying out a sweep: what is known before a model is loaded, the measuring loop, and scoring the answers.
//!
//! Reads neither the command line nor a report: a command hands in what was asked for.

pub(crate) mod calibrate;
pub(crate) mod earlier;
mod evaluate;
mod finished;
pub(crate) mod fit;
pub(crate) mod info;
mod learned;
mod loaded;
mod measure;
pub(crate) mod outlook;
pub(crate) mod prepare;
pub(crate) mod recompute;
mod resume;
pub(crate) mod setup;
mod spread;
pub(crate) mod start;
mod training;
