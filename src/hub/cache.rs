//! A repository in the cache that Python's `huggingface_hub` reads and writes too:
//!
//! ```text
//! models--owner--name/blobs/<etag>                contents, under the hub's ETag
//! models--owner--name/blobs/<etag>.incomplete     the bytes that have come so far
//! models--owner--name/refs/<revision>             the commit that a branch or tag stood for
//! models--owner--name/snapshots/<commit>/<path>   a link to the contents
//! .locks/models--owner--name/<etag>.lock          held while a file is fetched
//! ```

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Component, Path, PathBuf};

use crate::error::{Context, Error, Result};
use crate::file::write_atomically;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Model,
    Dataset,
}

impl Kind {
    /// The part of a repository's address before its id.
    pub(crate) fn prefix(self) -> &'static str {
        match self {
            Self::Model => "",
            Self::Dataset => "datasets/",
        }
    }
}

/// The folder of one repository.
#[derive(Debug, Clone)]
pub(super) struct Cache {
    folder: PathBuf,
    locks: PathBuf,
}

impl Cache {
    /// The folder of a repository in the cache at `root`; it doesn't have to be there.
    pub(super) fn new(root: &Path, kind: Kind, repository: &str) -> Self {
        let kind = match kind {
            Kind::Model => "models",
            Kind::Dataset => "datasets",
        };
        let name = format!("{kind}--{}", repository.replace('/', "--"));
        Self { folder: root.join(&name), locks: root.join(".locks").join(name) }
    }

    /// The commit that a revision stood for when it was fetched.
    pub(crate) fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let text = fs::read_to_string(self.folder.join("refs").join(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_plain_name(commit))
    }

    /// Notes the commit that a revision stands for.
    pub(crate) fn remember(&self, revision: &str, commit: &str) -> Result<()> {
        if is_commit(revision) || self.commit(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.folder.join("refs").join(revision);
        create_parent(&path)?;
        // another process may do the same: each has a temporary file of its own
        let temporary = self.folder.join("refs").join(format!(".{commit}.{}", std::process::id()));
        let written = fs::write(&temporary, commit).and_then(|()| fs::rename(&temporary, &path));
        written.map_err(|cause| cant_write(&path, &cause))
    }

    /// The folder of a commit's files.
    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// A commit's file, if it is complete.
    pub(crate) fn file(&self, commit: &str, path: &str) -> Option<PathBuf> {
        Some(self.snapshot(commit).join(path)).filter(|file| file.is_file())
    }

    /// Paths of a commit's files that are here, `/` between folders.
    pub(crate) fn listed(&self, commit: &str) -> Vec<String> {
        let root = self.snapshot(commit);
        let mut found = vec![];
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            let Ok(entries) = fs::read_dir(&folder) else { continue };
            for path in entries.flatten().map(|entry| entry.path()) {
                if path.is_file() {
                    let parts = path.strip_prefix(&root).into_iter().flat_map(Path::components);
                    let parts = parts.map(|part| part.as_os_str().to_string_lossy());
                    found.push(parts.collect::<Vec<_>>().join("/"));
                } else if path.is_dir() && !path.is_symlink() {
                    folders.push(path);
                }
            }
        }
        found.sort();
        found
    }

    /// The file that holds the contents with this ETag.
    pub(crate) fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    /// Makes a commit's file out of its contents. A file that is there already is left: another process may be reading
    /// it.
    pub(crate) fn link(&self, commit: &str, path: &str, etag: &str) -> Result<PathBuf> {
        let pointer = self.snapshot(commit).join(path);
        if pointer.is_file() {
            return Ok(pointer);
        }
        create_parent(&pointer)?;
        let up = "../".repeat(path.split('/').count() + 1);
        let temporary = pointer.with_file_name(format!(".{etag}.{}", std::process::id()));
        let made = symlink(Path::new(&format!("{up}blobs/{etag}")), &temporary);
        // a file system without links holds the contents twice, as in Python
        let made = made.or_else(|_| fs::copy(self.blob(etag), &temporary).map(drop));
        let named = made.and_then(|()| fs::rename(&temporary, &pointer));
        named.map_err(|cause| cant_write(&pointer, &cause))?;
        Ok(pointer)
    }

    /// Takes the lock of a file; `wait` is called if another process holds it. The kernel frees it with the process.
    pub(crate) fn lock(&self, etag: &str, wait: impl FnOnce()) -> Result<File> {
        let path = self.locks.join(format!("{etag}.lock"));
        create_parent(&path)?;
        let file = File::options().create(true).append(true).open(&path).map_err(|cause| cant_write(&path, &cause))?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                wait();
                file.lock().context(|| format!("can't lock `{}`", path.display()))?;
            }
            // a file system without locks: sizes and digests are checked all the same
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        Ok(file)
    }
}

/// Whether a revision is a commit by its full name.
pub(super) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.chars().all(|c| c.is_ascii_hexdigit())
}

/// Whether a text can be the name of a file in a folder, as an ETag or commit has to be.
pub(super) fn is_plain_name(name: &str) -> bool {
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    plain && !name.is_empty() && !name.starts_with('.') && name.len() <= 128
}

/// Whether a revision can be the name of a file under `refs`.
pub(super) fn is_plain_revision(revision: &str) -> bool {
    let mut parts = Path::new(revision).components();
    !revision.is_empty() && !revision.contains(['\\', '\0']) && parts.all(|part| matches!(part, Component::Normal(_)))
}

pub(super) fn create_parent(path: &Path) -> Result<()> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).map_err(|cause| cant_write(folder, &cause))
}

pub(super) fn cant_write(path: &Path, cause: &io::Error) -> Error {
    let hint = match cause.kind() {
        io::ErrorKind::StorageFull => "free some space, or let `HF_HOME` name a folder on another disk; start again",
        _ => "let `HF_HOME` or `HF_HUB_CACHE` name a folder that can be written",
    };
    Error::new(format!("can't write `{}`: {cause}", path.display())).with_hint(hint)
}

/// Copies a file so that its name never holds half of it.
pub(super) fn copy(from: &Path, to: &Path) -> Result<()> {
    create_parent(to)?;
    write_atomically(to, |file| io::copy(&mut File::open(from)?, file).map(drop))
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(not(unix))]
fn symlink(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_lies_where_python_looks_for_it() {
        let folder = |kind, name| Cache::new(Path::new("/hub"), kind, name).folder;
        assert_eq!(folder(Kind::Model, "owner/name"), Path::new("/hub/models--owner--name"));
        assert_eq!(folder(Kind::Model, "gpt2"), Path::new("/hub/models--gpt2"));
        assert_eq!(folder(Kind::Dataset, "owner/name"), Path::new("/hub/datasets--owner--name"));
    }

    #[test]
    fn a_revision_that_leads_out_of_the_cache_is_none() {
        for good in ["main", "refs/pr/1", "v1.0", "feature/x"] {
            assert!(is_plain_revision(good), "{good}");
        }
        for bad in ["", "..", "../x", "a/../../b", "/abs", "a\\b"] {
            assert!(!is_plain_revision(bad), "{bad}");
        }
    }
}
