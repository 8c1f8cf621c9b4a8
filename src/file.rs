//! Files that a reader sees whole: the old one or the new one, and never half of one.

use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use crate::error::{Context, Result};

/// Replaces a file's contents in one step that survives a loss of power: writes `<path>.tmp`, waits until it is on the disk,
/// gives it the file's name, and waits until the name is on the disk too.
///
/// # Errors
/// `write` or the disk fails; the old file is then still there, and nothing else is left.
pub(crate) fn write_atomically<E: Display + From<io::Error>>(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<(), E>,
) -> Result<()> {
    let temporary = path.with_added_extension("tmp");
    let written = write_and_sync(&temporary, write).and_then(|()| Ok(fs::rename(&temporary, path)?));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    let named = written.and_then(|()| Ok(sync_folder(path)?));
    named.context(|| format!("can't write `{}`", path.display()))
}

/// [`write_atomically`] for contents that are in memory.
///
/// # Errors
/// The disk fails.
pub(crate) fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomically(path, |file| file.write_all(bytes))
}

fn write_and_sync<E: From<io::Error>>(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<(), E>,
) -> Result<(), E> {
    let mut file = BufWriter::new(File::create(path)?);
    write(&mut file)?;
    file.flush()?;
    Ok(file.get_ref().sync_all()?)
}

/// Waits until the name of a file is on the disk, not only its contents.
fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent().filter(|folder| cfg!(unix) && !folder.as_os_str().is_empty()) {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_fails_leaves_the_old_file_and_nothing_else() {
        let folder = std::env::temp_dir().join(format!("ept-sweep-file-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("a.txt");
        write_atomic(&path, b"old").unwrap();
        let failed = write_atomically(&path, |file| {
            file.write_all(b"new")?;
            Err(io::Error::other("full"))
        });
        assert_eq!(failed.unwrap_err().message(), format!("can't write `{}`: full", path.display()));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        fs::remove_dir_all(folder).unwrap();
    }
}
