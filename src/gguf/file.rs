//! A GGUF file, mapped into memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::header::{Header, StoredTensor};
use super::value::Value;
use crate::error::{Context, Result};

/// An opened GGUF file: its header is read and checked, everything else stays in the file until it is asked for.
pub(crate) struct GgufFile {
    path: PathBuf,
    mapped: Mmap,
    header: Header,
}

impl GgufFile {
    /// Maps the file and reads its header.
    ///
    /// # Errors
    /// A file that can't be read, isn't GGUF version 2 or 3, or is damaged.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).input_context(|| format!("can't read `{}`", path.display()))?;
        // SAFETY: the mapping is sound as long as nobody truncates the file while the model is loaded, which holds for
        // any program that maps model files.
        let mapped = unsafe { Mmap::map(&file) };
        let mapped = mapped.input_context(|| format!("can't map `{}`", path.display()))?;
        let header = Header::read(&mapped).map_err(|error| error.at(path.display()))?;
        Ok(Self { path: path.to_owned(), mapped, header })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The tensors, by their names in the file.
    pub(crate) fn tensors(&self) -> &BTreeMap<String, StoredTensor> {
        &self.header.tensors
    }

    /// A part of the file; `None` past its end.
    pub(crate) fn bytes(&self, range: Range<usize>) -> Option<&[u8]> {
        self.mapped.get(range)
    }

    /// The value of a metadata key.
    pub(super) fn metadata(&self, key: &str) -> Option<&Value> {
        self.header.metadata.get(key)
    }
}
