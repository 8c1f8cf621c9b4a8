//! The one door to the Hugging Face hub: files of a model or data set, in the cache that the Python library shares.
//!
//! `HF_HOME`, `HF_HUB_CACHE`, `HF_TOKEN` (or the file that `hf auth login` writes), `HF_ENDPOINT` and `HF_HUB_OFFLINE`
//! are read as in Python. A revision is resolved to its commit first, and every file is taken from that commit.
//!
//! Files come over HTTP with a `Range` if an earlier start left a part, and are checked before they count (`download`);
//! docs/dependencies.md says why not through the crate hf-hub. Files in xet storage come over the hub's HTTP bridge, as for
//! every client without xet.

mod cache;
mod client;
mod download;
mod environment;
mod files;
mod refusal;
mod source;
mod watch;

use std::path::{Path, PathBuf};

use cache::{Cache, is_plain_revision};
use client::{Hub, Remote};
use download::Download;
use environment::Environment;
use files::Needed;

pub(crate) use source::{Source, is_gguf};
pub(crate) use watch::{Event, Watch};

use crate::error::{Context, Error, Result};

/// A revision of a repository in the local cache.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// The folder that holds its files.
    pub(crate) folder: PathBuf,
    /// The commit that the revision stands for.
    pub(crate) commit: String,
    /// The GGUF file, if the source names one.
    pub(crate) gguf: Option<PathBuf>,
}

/// Gets what a model needs (configuration, tokenizer, chat template, safetensors), an adapter of PEFT, or the GGUF file
/// that the source names with what helps to run it; from the cache alone if `offline` or `HF_HUB_OFFLINE` is set.
///
/// # Errors
/// The model doesn't exist, is gated, has no weights that can be used, isn't in the cache while offline, or the network
/// fails for longer than a few attempts: then what was fetched is kept, and the next call goes on from there.
pub fn model(source: &Source, revision: Option<&str>, offline: bool, watch: &Watch) -> Result<Snapshot> {
    let environment = Environment::read();
    check_revision(&source.repository, revision)?;
    let cache = Cache::new(&environment.cache, cache::Kind::Model, &source.repository);
    if offline || environment.offline {
        return cached_model(&cache, source, revision);
    }
    let hub = Hub::new(environment)?;
    let asked = hub.asked(cache::Kind::Model, &source.repository, revision);
    fetch_model(Download { hub: &hub, cache: &cache, asked, watch }, source)
}

/// Gets one file of a data set, and copies it to `folder` if one is named.
///
/// # Errors
/// As [`model`].
pub(crate) fn dataset_file(
    id: &str,
    path: &str,
    folder: Option<&Path>,
    offline: bool,
    watch: &Watch,
) -> Result<PathBuf> {
    let environment = Environment::read();
    let cache = Cache::new(&environment.cache, cache::Kind::Dataset, id);
    let file = match offline || environment.offline {
        true => {
            let found = cache.commit("main").and_then(|commit| cache.file(&commit, path));
            found.ok_or_else(|| not_cached(id, None, &format!("`{path}` isn't in the local cache")))?
        }
        false => {
            let hub = Hub::new(environment)?;
            let asked = hub.asked(cache::Kind::Dataset, id, None);
            fetch_file(Download { hub: &hub, cache: &cache, asked, watch }, path)?
        }
    };
    match folder.map(|folder| folder.join(path)) {
        Some(copy) => cache::copy(&file, &copy).map(|()| copy),
        None => Ok(file),
    }
}

fn fetch_model(download: Download<'_>, source: &Source) -> Result<Snapshot> {
    let Download { hub, cache, asked, watch } = download;
    let listing = hub.listing(asked, watch)?;
    let commit = listing.sha.as_str();
    let files: Vec<String> = listing.files.into_iter().map(|file| file.path).collect();
    let mut needed = needed(source, &files)?;
    if needed.sharded {
        get(download, commit, &[files::INDEX.to_owned()])?;
        needed.files.extend(files::shards(&read_index(&cache.snapshot(commit))?)?);
    }
    get(download, commit, &needed.files)?;
    cache.remember(asked.revision.unwrap_or("main"), commit)?;
    Ok(snapshot(cache, source, commit, &needed))
}

fn fetch_file(download: Download<'_>, path: &str) -> Result<PathBuf> {
    let Download { hub, cache, asked, watch } = download;
    let remote = hub.file(asked, "main", path, watch)?;
    if cache.file(&remote.commit, path).is_none() {
        fetch_all(download, &[(path, remote.clone())])?;
    }
    cache.remember("main", &remote.commit)?;
    Ok(cache.snapshot(&remote.commit).join(path))
}

/// Gets the files that aren't in a commit's snapshot yet.
fn get(download: Download<'_>, commit: &str, files: &[String]) -> Result<()> {
    let Download { hub, cache, asked, watch } = download;
    let mut missing = vec![];
    for path in files.iter().filter(|path| cache.file(commit, path).is_none()) {
        watch.check()?;
        let remote = hub.file(asked, commit, path, watch)?;
        // the commit was resolved once, and is what the run records
        missing.push((path.as_str(), Remote { commit: commit.to_owned(), ..remote }));
    }
    if missing.is_empty() { Ok(()) } else { fetch_all(download, &missing) }
}

fn fetch_all(download: Download<'_>, files: &[(&str, Remote)]) -> Result<()> {
    let bytes = files.iter().map(|(_, remote)| remote.size).fold(0, u64::saturating_add);
    let repository = download.asked.repository.to_owned();
    download.watch.report(Event::Begin { repository, files: files.len(), bytes });
    let fetched = files.iter().try_for_each(|(path, remote)| download.fetch(path, remote));
    download.watch.report(Event::End);
    fetched
}

/// A model that is complete in the cache.
fn cached_model(cache: &Cache, source: &Source, revision: Option<&str>) -> Result<Snapshot> {
    let id = &source.repository;
    let commit = cache.commit(revision.unwrap_or("main"));
    let found = commit.map(|commit| (cache.listed(&commit), commit)).filter(|(listed, _)| !listed.is_empty());
    let (listed, commit) = found.ok_or_else(|| not_cached(id, revision, "it isn't in the local cache"))?;
    let partly = |what: &str| not_cached(id, revision, &format!("the local cache holds only a part of it: {what}"));
    let mut needed = needed(source, &listed).map_err(|error| partly(error.message()))?;
    if needed.sharded {
        let shards = files::shards(&read_index(&cache.snapshot(&commit))?)?;
        if let Some(missing) = shards.iter().find(|shard| !listed.contains(shard)) {
            return Err(partly(&format!("`{missing}` is missing")));
        }
        needed.files.extend(shards);
    }
    Ok(snapshot(cache, source, &commit, &needed))
}

fn needed(source: &Source, listed: &[String]) -> Result<Needed> {
    match &source.gguf {
        Some(which) => files::of_gguf(&source.repository, which, listed),
        None => files::of_model(&source.repository, listed),
    }
}

fn snapshot(cache: &Cache, source: &Source, commit: &str, needed: &Needed) -> Snapshot {
    let folder = cache.snapshot(commit);
    let gguf = source.gguf.as_ref().and_then(|_| needed.files.last()).map(|file| folder.join(file));
    Snapshot { folder, commit: commit.to_owned(), gguf }
}

fn read_index(folder: &Path) -> Result<String> {
    let path = folder.join(files::INDEX);
    std::fs::read_to_string(&path).context(|| format!("can't read `{}`", path.display()))
}

fn not_cached(id: &str, revision: Option<&str>, cause: &str) -> Error {
    let at = revision.map_or(String::new(), |revision| format!(" at `{revision}`"));
    Error::input(format!("can't get `{id}`{at} offline: {cause}"))
        .with_hint("start once with network, without `--offline` and `HF_HUB_OFFLINE`; or name a local folder")
}

fn check_revision(id: &str, revision: Option<&str>) -> Result<()> {
    match revision {
        Some(revision) if !is_plain_revision(revision) => {
            let hint = "a revision is a branch, a tag, `refs/pr/N` or a commit";
            Err(Error::input(format!("can't get `{id}`: `{revision}` is no revision")).with_hint(hint))
        }
        _ => Ok(()),
    }
}
