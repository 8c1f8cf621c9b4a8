//! The one door to the Hugging Face hub: files of a model or data set, in the cache that the Python library shares.
//!
//! `HF_HOME`, `HF_HUB_CACHE`, `HF_TOKEN` (or the file that `hf auth login` writes), `HF_ENDPOINT` and `HF_HUB_OFFLINE`
//! are read as in Python. A revision is resolved to its commit first, and every file is taken from that commit.
//!
//! The crate hf-hub 1.0.0 resolves the revision and lists its files. Its downloads aren't used. Against a scripted hub
//! they put a shortened file and one with another SHA-256 into the cache as complete, began at the first byte after a
//! cut or a kill, and sent no token where `HF_TOKEN` ended with a line break; in its source they don't look at the
//! status of the answer that brings the file, and have no time limit. Its `get_file_metadata` follows the redirect to
//! the file server, so that a large file has neither commit nor SHA-256. So the bytes come through reqwest, the HTTP
//! client beneath it: with a `Range` where an earlier start left a part, and checked before they count (`download`).
//! Files in xet storage come over the hub's HTTP bridge, as for every client without xet.

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
use environment::Environment;
use files::Needed;
use refusal::Asked;

pub use source::{Gguf, Source, is_gguf};
pub use watch::{Event, Watch};

use crate::error::{Context, Error, Result};

/// A revision of a repository in the local cache.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// The folder that holds its files.
    pub folder: PathBuf,
    /// The commit that the revision stands for.
    pub commit: String,
    /// The GGUF file, where the source names one.
    pub gguf: Option<PathBuf>,
}

/// Gets what a model needs (configuration, tokenizer, chat template, safetensors), an adapter of PEFT, or the GGUF file
/// that the source names with what helps to run it; from the cache alone where `offline` is set or `HF_HUB_OFFLINE` is.
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
    hub.block_on(fetch_model(&hub, &cache, source, asked, watch))
}

/// Gets one file of a data set, into `folder` where one is named.
///
/// # Errors
/// As [`model`].
pub fn dataset_file(id: &str, path: &str, folder: Option<&Path>, offline: bool, watch: &Watch) -> Result<PathBuf> {
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
            hub.block_on(async {
                let remote = hub.file(asked, "main", path, watch).await?;
                if cache.file(&remote.commit, path).is_none() {
                    fetch_all(&hub, &cache, asked, &[(path.to_owned(), remote.clone())], watch).await?;
                }
                cache.remember("main", &remote.commit).map(|()| cache.snapshot(&remote.commit).join(path))
            })?
        }
    };
    match folder.map(|folder| folder.join(path)) {
        Some(copy) => cache::copy(&file, &copy).map(|()| copy),
        None => Ok(file),
    }
}

async fn fetch_model(hub: &Hub, cache: &Cache, source: &Source, asked: Asked<'_>, watch: &Watch) -> Result<Snapshot> {
    let listing = hub.listing(asked).await?;
    let commit = listing.commit.as_str();
    let mut needed = needed(source, &listing.files)?;
    if needed.sharded {
        get(hub, cache, asked, commit, &[files::INDEX.to_owned()], watch).await?;
        needed.files.extend(files::shards(&read_index(&cache.snapshot(commit))?)?);
    }
    get(hub, cache, asked, commit, &needed.files, watch).await?;
    cache.remember(asked.revision.unwrap_or("main"), commit)?;
    Ok(snapshot(cache, source, commit, &needed))
}

/// Gets the files that aren't in a commit's snapshot yet.
async fn get(hub: &Hub, cache: &Cache, asked: Asked<'_>, commit: &str, files: &[String], watch: &Watch) -> Result<()> {
    let mut missing = vec![];
    for path in files.iter().filter(|path| cache.file(commit, path).is_none()) {
        watch.check()?;
        let remote = hub.file(asked, commit, path, watch).await?;
        // the commit was resolved once, and is what the run records
        missing.push((path.clone(), Remote { commit: commit.to_owned(), ..remote }));
    }
    if missing.is_empty() { Ok(()) } else { fetch_all(hub, cache, asked, &missing, watch).await }
}

async fn fetch_all(
    hub: &Hub,
    cache: &Cache,
    asked: Asked<'_>,
    files: &[(String, Remote)],
    watch: &Watch,
) -> Result<()> {
    let bytes = files.iter().map(|(_, remote)| remote.size).fold(0, u64::saturating_add);
    watch.tell(Event::Begin { repository: asked.repository.to_owned(), files: files.len(), bytes });
    let mut fetched = Ok(());
    for (path, remote) in files {
        fetched = download::fetch(hub, cache, asked, path, remote, watch).await.map(drop);
        if fetched.is_err() {
            break;
        }
    }
    watch.tell(Event::End);
    fetched
}

/// What of a model is in the cache, where it is all there.
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
        .hint("start once with network, without `--offline` and `HF_HUB_OFFLINE`; or name a local folder")
}

fn check_revision(id: &str, revision: Option<&str>) -> Result<()> {
    match revision {
        Some(revision) if !is_plain_revision(revision) => {
            let hint = "a revision is a branch, a tag, `refs/pr/N` or a commit";
            Err(Error::input(format!("can't get `{id}`: `{revision}` is no revision")).hint(hint))
        }
        _ => Ok(()),
    }
}
