//! Where a model's files are.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::gguf::GgufFile;
use crate::text::{GgufTokenizer, ModelText};

/// Where a model's files are on this machine.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Location {
    /// A folder, with the hub's commit if it comes from there.
    Folder { path: PathBuf, commit: Option<String> },
    /// A GGUF file; tokenizer files are next to it, or in `folder` if it comes from the hub.
    Gguf {
        path: PathBuf,
        /// Folder of the files that may belong to it, such as `tokenizer.json`.
        folder: PathBuf,
        commit: Option<String>,
    },
    /// Nowhere: it is simulated.
    Simulated,
}

impl Location {
    /// The folder or file that holds the weights, and the hub's commit.
    pub(super) fn files(&self) -> Option<(&Path, Option<&str>)> {
        match self {
            Location::Folder { path, commit } | Location::Gguf { path, commit, .. } => Some((path, commit.as_deref())),
            Location::Simulated => None,
        }
    }

    /// Whether a tokenizer lies with the weights.
    ///
    /// # Errors
    /// A GGUF file that can't be read.
    pub(super) fn has_tokenizer(&self) -> Result<bool> {
        match self {
            Location::Folder { path, .. } => Ok(path.join("tokenizer.json").is_file()),
            Location::Gguf { folder, .. } if folder.join("tokenizer.json").is_file() => Ok(true),
            Location::Gguf { path, .. } => GgufTokenizer::is_in(&GgufFile::open(path)?),
            Location::Simulated => Ok(false),
        }
    }

    /// The text side of the model. A `tokenizer.json` next to a GGUF file wins over the file's own metadata.
    pub(super) fn text(&self) -> Result<ModelText> {
        match self {
            Location::Folder { path, .. } => ModelText::load(path),
            Location::Gguf { folder, .. } if folder.join("tokenizer.json").is_file() => ModelText::load(folder),
            Location::Gguf { path, .. } => {
                GgufTokenizer::read(&GgufFile::open(path)?)?.text(&path.display().to_string())
            }
            Location::Simulated => Err(Error::new("a simulated model has no tokenizer")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::fixture::{Builder, text};

    #[test]
    fn a_gguf_file_without_a_tokenizer_is_known_for_it() {
        let folder = std::env::temp_dir().join(format!("ept-sweep-location-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        for (key, has) in [("general.name", false), ("tokenizer.ggml.model", true)] {
            let path = folder.join("model.gguf");
            std::fs::write(&path, Builder::new().entry(key, 8, &text("gpt2")).bytes()).unwrap();
            let location = Location::Gguf { path, folder: folder.clone(), commit: None };
            assert_eq!(location.has_tokenizer().unwrap(), has, "{key}");
        }
        std::fs::remove_dir_all(folder).unwrap();
    }
}
