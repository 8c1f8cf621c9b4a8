//! The tables of a report, one file for each of its sections.

pub(super) mod accuracy;
pub(crate) mod components;
pub(crate) mod conditions;
pub(super) mod engine;
pub(super) mod phases;
pub(crate) mod results;
pub(super) mod savings;
pub(super) mod validity;
pub(super) mod windows;
