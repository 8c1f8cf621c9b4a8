//! How models are run.

use super::file::File;
use crate::error::Result;
use crate::record::KernelsChoice;
use crate::sweep::model::ModelSource;
use crate::sweep::yaml::Step::Key;

/// A simulated model computes nothing: `plain` would be recorded as a condition that nothing depends on.
pub(super) fn engine(file: &File<'_>) -> Result<()> {
    let simulated = file.spec.models.iter().find(|model| matches!(model.source, ModelSource::Synthetic(_)));
    match (file.spec.engine.kernels, simulated) {
        (KernelsChoice::Plain, Some(model)) => {
            let message = format!("`kernels: plain` with the simulated model `{}`", model.label);
            let hint = "remove it: a simulated model runs on no kernels";
            Err(file.fail(&[Key("engine"), Key("kernels")], message, hint))
        }
        _ => Ok(()),
    }
}
