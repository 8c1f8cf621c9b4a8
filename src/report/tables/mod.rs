//! The tables of a report, one file for each of its sections.

pub mod accuracy;
pub(crate) mod components;
pub mod phases;
pub(crate) mod results;
pub mod savings;
pub mod validity;
pub mod windows;
