//! An earlier run of a sweep, as far as planning the next one goes.

use std::path::{Path, PathBuf};

use crate::analysis::history;
use crate::record::MeterInfo;
use crate::store;
use crate::sweep::budget::Known;

/// What an earlier run shows.
pub(crate) struct Earlier {
    /// Times of loading and of passes; empty without a run.
    pub(crate) known: Known,
    /// Relative standard deviation between repeats.
    pub(crate) spread: Option<f64>,
    /// Directory of the run, or why there is none.
    pub(crate) source: Result<PathBuf, String>,
}

impl Earlier {
    /// Reads the run in `root`, if it was measured by the same meter.
    pub(crate) fn find(root: &Path, meter: &MeterInfo) -> Self {
        let none = |why: String| Self { known: Known::default(), spread: None, source: Err(why) };
        if !root.join("run.json").exists() {
            return none(format!("no earlier run in `{}`", root.display()));
        }
        match store::read(root) {
            Ok(stored) if stored.info.parts.iter().any(|part| part.meter.name == meter.name) => {
                let history::Times { load_s, pass_s } = history::times(&stored.trials);
                let spread = history::spread(&stored.trials);
                Self { known: Known { load_s, pass_s }, spread, source: Ok(root.to_owned()) }
            }
            Ok(_) => none(format!("the run in `{}` was measured by another meter", root.display())),
            Err(error) => none(format!("the run in `{}` can't be read: {}", root.display(), error.message())),
        }
    }
}
