//! Carrying out a sweep: what is known before a model is loaded, the measuring loop, and scoring the answers.
//!
//! Reads neither the command line nor a report: a command hands in what was asked for.

pub mod evaluate;
pub mod fit;
pub mod info;
pub mod measure;
pub mod prepare;
pub mod spread;
