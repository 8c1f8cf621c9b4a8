//! What a sweep file must satisfy beyond its types: every finding points into the file.

mod axes;
mod engine;
mod file;
mod measure;
mod models;
mod prompts;

use self::file::File;
use crate::error::Result;
use crate::sweep::spec::SweepSpec;
use crate::sweep::yaml::Source;
use crate::sweep::yaml::Step::Key;

/// Checks everything that can be checked without looking at other files.
///
/// # Errors
/// The first contradiction, with its place in the file and what to do.
pub(super) fn check(spec: &SweepSpec, source: &Source<'_>) -> Result<()> {
    let file = File { spec, source };
    name(&file)?;
    models::models(&file)?;
    axes::axes(&file)?;
    prompts::prompts(&file)?;
    prompts::generation(&file)?;
    engine::engine(&file)?;
    measure::measure(&file)?;
    prompts::accuracy(&file)?;
    measure::report(&file)
}

fn name(file: &File<'_>) -> Result<()> {
    let name = &file.spec.name;
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    if name.is_empty() || name.starts_with('.') || !plain {
        let hint = "the name is also the folder's: letters, digits, `-`, `_` and `.`, not starting with `.`";
        return Err(file.fail(&[Key("name")], format!("bad sweep name `{name}`"), hint));
    }
    Ok(())
}
