//! An append-only file of JSON lines in which a torn last line is dropped and every other damage is an error.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Context, Error, Result};

/// Opens a journal for appending and reads its lines; a last line that was never finished is cut off.
///
/// # Errors
/// The file can't be read or written, or a line before the last one is damaged.
pub(super) fn open<T: DeserializeOwned>(path: &Path) -> Result<(File, Vec<T>)> {
    let what = || format!("can't open `{}`", path.display());
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).context(what)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).context(what)?;
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    if whole < bytes.len() {
        file.set_len(whole as u64).context(what)?;
    }
    file.seek(SeekFrom::Start(whole as u64)).context(what)?;
    Ok((file, parse(path, &bytes[..whole])?))
}

/// Reads a journal without touching it; a torn last line is skipped.
///
/// # Errors
/// The file can't be read, or a line before the last one is damaged.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let bytes = std::fs::read(path).context(|| format!("can't read `{}`", path.display()))?;
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    parse(path, &bytes[..whole])
}

/// Appends lines and waits until they are on the disk.
pub(crate) fn append<T: Serialize>(file: &mut File, lines: &[T]) -> io::Result<()> {
    file.write_all(&to_bytes(lines)?)?;
    file.sync_data()
}

/// The lines as they are stored.
pub(crate) fn to_bytes<T: Serialize>(lines: &[T]) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for line in lines {
        serde_json::to_writer(&mut bytes, line)?;
        bytes.push(b'\n');
    }
    Ok(bytes)
}

fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<Vec<T>> {
    let lines = bytes.split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty());
    lines.map(|(index, line)| serde_json::from_slice(line).map_err(|error| damaged(path, index + 1, &error))).collect()
}

fn damaged(path: &Path, line: usize, error: &serde_json::Error) -> Error {
    Error::input(format!("{}:{line}: damaged line: {error}", path.display()))
        .with_hint("restore the file from a copy, or start over with `--fresh`")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, text: &str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("ept-journal-{}-{name}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn a_torn_last_line_is_cut_off_and_the_next_line_is_a_line_of_its_own() {
        let path = file("torn", "1\n2\n{\"half");
        let (mut journal, lines) = open::<u32>(&path).unwrap();
        assert_eq!(lines, [1, 2]);
        append(&mut journal, &[3]).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "1\n2\n3\n");
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn damage_before_the_last_line_is_an_error_that_names_the_line() {
        let path = file("damaged", "1\nxx\n3\n");
        let error = open::<u32>(&path).unwrap_err();
        assert!(error.message().contains(":2: damaged line"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "1\nxx\n3\n");
        std::fs::remove_file(path).unwrap();
    }
}
