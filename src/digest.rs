//! SHA-256 of bytes and files, and bytes in hex: how inputs are identified in records.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use sha2::{Digest, Sha256};

use crate::error::{Context, Result};

/// The SHA-256 of bytes that come in pieces.
/// SHA-256 in lower-case hex.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// SHA-256 as bytes.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// SHA-256 of a file, read in pieces.
///
/// # Errors
/// The file can't be read.
pub(crate) fn sha256_file(path: &Path) -> Result<String> {
    let what = || format!("can't read `{}`", path.display());
    let mut file = File::open(path).context(what)?;
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer).context(what)?;
        if read == 0 {
            return Ok(hasher.hex());
        }
        hasher.update(&buffer[..read]);
    }
}

/// SHA-256 of a file, kept for the life of the process and computed again only if the file's size or modification time
/// changes: a model is loaded once per block, and reading 16 GB again only to identify it would cost as much as a load.
///
/// # Errors
/// The file can't be read.
pub(crate) fn sha256_file_once(path: &Path) -> Result<String> {
    /// Path, size and time of change.
    type Version = (PathBuf, u64, Option<SystemTime>);
    static KNOWN: Mutex<BTreeMap<Version, String>> = Mutex::new(BTreeMap::new());
    let metadata = path.metadata().context(|| format!("can't read `{}`", path.display()))?;
    let key = (path.to_owned(), metadata.len(), metadata.modified().ok());
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(digest) = known().get(&key) {
        return Ok(digest.clone());
    }
    let digest = sha256_file(path)?;
    known().insert(key, digest.clone());
    Ok(digest)
}

/// SHA-256 of bytes that come in pieces.
#[derive(Clone, Default)]
pub(crate) struct Hasher(Sha256);

impl Hasher {
    /// Takes the next piece.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all pieces so far, in lower-case hex.
    pub(crate) fn hex(&self) -> String {
        hex(&self.0.clone().finalize())
    }
}

/// Bytes in lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_have_the_digest_of_the_whole() {
        let mut hasher = Hasher::default();
        hasher.update(b"a");
        hasher.update(b"bc");
        assert_eq!(hasher.hex(), sha256_hex(b"abc"));
    }

    #[test]
    fn the_digest_of_abc_is_the_one_that_fips_180_4_publishes() {
        assert_eq!(sha256_hex(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
