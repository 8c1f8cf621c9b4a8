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
    pub(super) fn has_tokenizer(&self) -> bool {
        match self {
            Location::Folder { path, .. } => path.join("tokenizer.json").is_file(),
            Location::Gguf { .. } => true,
            Location::Simulated => false,
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
