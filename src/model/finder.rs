//! Finding the files that a source names, on this machine or in the hub.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::location::Location;
use crate::error::{Error, Result};
use crate::hub;

/// Finds sources; relative ones start at the folder `base`.
#[derive(Debug, Clone)]
pub(super) struct Finder {
    /// Use the hub's local cache alone.
    offline: bool,
    /// Notified of downloads.
    watch: hub::Watch,
    /// Models of the hub that were found: loading one again for the next block must not ask the network again.
    found: RefCell<BTreeMap<(hub::Source, Option<String>), hub::Snapshot>>,
}

impl Finder {
    pub(super) fn new(offline: bool, watch: hub::Watch) -> Self {
        Self { offline, watch, found: RefCell::default() }
    }

    /// Whether a source is the hub's.
    pub(crate) fn is_from_hub(&self, base: &Path, source: &str) -> bool {
        matches!(place(base, source), Place::Hub(_))
    }

    /// Finds the files that a source names: a folder, a GGUF file, or what `hub::Source` reads.
    ///
    /// # Errors
    /// The folder or file doesn't exist, or the hub can't give the model.
    pub(super) fn find(&self, base: &Path, source: &str, revision: Option<&str>) -> Result<Location> {
        let hint = "a local source starts with `./`, `../`, `~/` or `/` and is relative to the sweep file; \
                    a hub id has the form `owner/name`";
        match place(base, source) {
            Place::Local(_) if revision.is_some() => {
                Err(Error::input(format!("`{source}` is local: it has no revision"))
                    .with_hint("remove `revision`, or name a model of the hub"))
            }
            Place::Local(path) if path.is_dir() => Ok(Location::Folder { path, commit: None }),
            Place::Local(path) if hub::is_gguf(source) => match path.is_file() {
                true => {
                    let folder = path.parent().unwrap_or(Path::new("")).to_owned();
                    Ok(Location::Gguf { path, folder, commit: None })
                }
                false => Err(Error::input(format!("no file `{}`", path.display())).with_hint(hint)),
            },
            Place::Local(path) => Err(Error::input(format!("no folder `{}`", path.display())).with_hint(hint)),
            Place::Hub(id) => self.fetch(base, source, id, revision),
        }
    }

    fn fetch(&self, base: &Path, name: &str, source: hub::Source, revision: Option<&str>) -> Result<Location> {
        let key = (source, revision.map(str::to_owned));
        let known = self.found.borrow().get(&key).cloned();
        let snapshot = match known {
            Some(snapshot) => snapshot,
            None => {
                let fetched = hub::model(&key.0, revision, self.offline, &self.watch);
                fetched.map_err(|error| or_local(base, name, error))?
            }
        };
        self.found.borrow_mut().insert(key, snapshot.clone());
        let hub::Snapshot { folder, commit, gguf } = snapshot;
        Ok(match gguf {
            Some(path) => Location::Gguf { path, folder, commit: Some(commit) },
            None => Location::Folder { path: folder, commit: Some(commit) },
        })
    }
}

/// A name that the hub doesn't give may have been meant for something local.
fn or_local(base: &Path, name: &str, error: Error) -> Error {
    if base.join(name).exists() {
        return error.with_hint(format!(
            "for the local one write `./{name}`: a name with a slash and without `./` is a hub id"
        ));
    }
    match name.contains('/') {
        true => error,
        false => error.at(format!("no folder `{}`, and from the hub", base.join(name).display())),
    }
}

/// Decides whether a source is local or the hub's. A bare name (`gpt2`) is a folder if there is one, else one of the
/// hub's oldest models.
fn place(base: &Path, name: &str) -> Place {
    if let (Some(rest), Some(home)) = (name.strip_prefix("~/"), std::env::home_dir()) {
        return Place::Local(home.join(rest));
    }
    let path = base.join(name);
    match hub::Source::parse(name) {
        Some(source) if name.contains(['/', ':']) || !path.is_dir() => Place::Hub(source),
        _ => Place::Local(path),
    }
}

/// Where a source points.
enum Place {
    Local(PathBuf),
    Hub(hub::Source),
}
