//! Which model it is: digests of its files, for the record.

use std::collections::BTreeMap;
use std::path::Path;

use rayon::prelude::*;

use crate::digest::sha256_file_once;
use crate::error::Result;

/// Files next to the weights that change what a model does.
const FILES: [&str; 6] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "model.safetensors.index.json",
];

/// SHA-256 of the files that determine a model's behaviour, by name.
///
/// # Errors
/// A file can't be read.
pub(crate) fn digests<'a>(
    folder: &Path,
    weights: impl IntoIterator<Item = &'a Path>,
) -> Result<BTreeMap<String, String>> {
    let described = FILES.iter().map(|name| folder.join(name)).filter(|path| path.is_file());
    let all: Vec<_> = described.chain(weights.into_iter().map(Path::to_owned)).collect();
    // one thread computes about a gigabyte per second, less than disks and page caches give: shards go side by side
    all.into_par_iter()
        .map(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Ok((name, sha256_file_once(&path)?))
        })
        .collect()
}
