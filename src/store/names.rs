//! Names of the files in a run directory.

pub(super) const RUN: &str = "run.json";
pub(super) const RECORDS: &str = "records.jsonl";
pub(super) const GENERATIONS: &str = "generations.jsonl";
pub(super) const SAMPLES: &str = "samples";
pub(super) const LOCK: &str = ".lock";
