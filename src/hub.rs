//! The one door to the Hugging Face hub: files of a model or data set, in the cache that the Python library shares.
//!
//! `HF_HOME`, `HF_HUB_CACHE`, `HF_TOKEN` and `HF_ENDPOINT` work as in Python; `HF_HUB_OFFLINE=1` uses the cache alone.

use std::path::PathBuf;

use hf_hub::{HFClientSync, HFError};

use crate::error::{Error, Kind, Result};

/// Files of a model that running it needs; pickled weights are never fetched.
const MODEL_FILES: [&str; 4] = ["*.json", "*.safetensors", "*.model", "*.jinja"];

/// A revision of a repository in the local cache.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// The folder that holds its files.
    pub folder: PathBuf,
    /// The commit that the revision stands for, where the cache tells it.
    pub commit: Option<String>,
}

/// Splits `owner/name`.
pub fn parse_id(id: &str) -> Option<(&str, &str)> {
    let plain = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    let (owner, name) = id.split_once('/')?;
    (plain(owner) && plain(name) && !owner.starts_with('.')).then_some((owner, name))
}

/// Gets a model's configuration, tokenizer and safetensors; from the cache alone where `offline` is set.
///
/// # Errors
/// The model doesn't exist, is gated, isn't in the cache while offline, or the network fails.
pub fn model(id: &str, revision: Option<&str>, offline: bool) -> Result<Snapshot> {
    let Some((owner, name)) = parse_id(id) else {
        return Err(Error::input(format!("`{id}` is no hub id")).hint("a hub id has the form `owner/name`"));
    };
    let folder = client(id)?
        .model(owner, name)
        .snapshot_download()
        .maybe_revision(revision.map(str::to_owned))
        .allow_patterns(MODEL_FILES.map(str::to_owned).to_vec())
        .local_files_only(offline || offline_by_environment())
        .send()
        .map_err(|error| explain(id, revision, &error))?;
    Ok(snapshot(folder))
}

/// Gets one file of a data set.
///
/// # Errors
/// As [`model`].
pub fn dataset_file(id: &str, file: &str, folder: Option<PathBuf>, offline: bool) -> Result<PathBuf> {
    let Some((owner, name)) = parse_id(id) else {
        return Err(Error::input(format!("`{id}` is no hub id")).hint("a hub id has the form `owner/name`"));
    };
    client(id)?
        .dataset(owner, name)
        .download_file()
        .filename(file)
        .maybe_local_dir(folder)
        .local_files_only(offline || offline_by_environment())
        .send()
        .map_err(|error| explain(id, None, &error))
}

fn client(id: &str) -> Result<HFClientSync> {
    HFClientSync::new().map_err(|error| Error::new(format!("can't reach the hub for `{id}`: {error}")))
}

fn offline_by_environment() -> bool {
    let set = |value: String| matches!(value.to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on");
    std::env::var("HF_HUB_OFFLINE").is_ok_and(set)
}

/// The cache keeps a revision's files under `snapshots/<commit>`.
fn snapshot(folder: PathBuf) -> Snapshot {
    let name = folder.file_name().map(|name| name.to_string_lossy().into_owned());
    let commit = name.filter(|name| name.len() == 40 && name.chars().all(|c| c.is_ascii_hexdigit()));
    Snapshot { folder, commit }
}

fn explain(id: &str, revision: Option<&str>, error: &HFError) -> Error {
    let at = revision.map_or(String::new(), |revision| format!(" at `{revision}`"));
    let failed = |cause: String| Error::input(format!("can't get `{id}`{at}: {cause}"));
    match error {
        HFError::AuthRequired { .. } => failed("the hub asks for a login, or the repository doesn't exist".into())
            .hint("check the name; for a gated model accept its terms on its page and set `HF_TOKEN`"),
        HFError::Forbidden { .. } => failed("this account may not read it".into())
            .hint("accept the model's terms on its page, with the account whose token is in `HF_TOKEN`"),
        HFError::RepoNotFound { .. } => failed("no such repository".into())
            .hint("check the spelling of `owner/name`; a local folder starts with `./`, `../` or `/`"),
        HFError::RevisionNotFound { .. } => failed("no such revision".into()).hint("check `revision`"),
        HFError::LocalEntryNotFound { .. } => {
            failed("it isn't in the local cache".into()).hint("run once with network and without `HF_HUB_OFFLINE`")
        }
        HFError::RateLimited { .. } => failed(error.to_string()).kind(Kind::Runtime).hint("wait and start again"),
        _ => failed(error.to_string())
            .kind(Kind::Runtime)
            .hint("start again: what was downloaded is kept; without network, name a local folder"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hub_id_is_an_owner_and_a_name() {
        assert_eq!(parse_id("meta-llama/Llama-3.2-1B"), Some(("meta-llama", "Llama-3.2-1B")));
        for wrong in ["gpt2", "./models/gpt2", "a/b/c", "/abs/path", "a/"] {
            assert_eq!(parse_id(wrong), None, "{wrong}");
        }
    }
}
