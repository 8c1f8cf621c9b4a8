//! Fetches one file into the cache: in one go or in several, over connections that break, and never as complete unless
//! its length and, where the hub names it, its SHA-256 are right.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use super::cache::{Cache, cant_write, create_parent};
use super::client::{Failure, Hub, Patience, Remote, lost};
use super::refusal::Asked;
use super::watch::{Event, Watch};
use crate::digest::Hasher;
use crate::error::{Context, Error, Kind, Result};

/// Fetches a file that isn't in the snapshot yet, and puts it there.
pub(super) async fn fetch(
    hub: &Hub,
    cache: &Cache,
    asked: Asked<'_>,
    path: &str,
    remote: &Remote,
    watch: &Watch,
) -> Result<PathBuf> {
    let blob = cache.blob(&remote.etag);
    let held = || watch.tell(Event::Note(format!("`{path}` is being fetched by another process: waiting for it")));
    let lock = cache.lock(&remote.etag, held)?;
    if fs::metadata(&blob).is_ok_and(|found| found.len() == remote.size) {
        watch.tell(Event::Bytes(remote.size));
    } else {
        fetch_blob(hub, asked, path, remote, &blob, watch).await?;
    }
    let file = cache.link(&remote.commit, path, &remote.etag)?;
    drop(lock);
    Ok(file)
}

async fn fetch_blob(
    hub: &Hub,
    asked: Asked<'_>,
    path: &str,
    remote: &Remote,
    blob: &Path,
    watch: &Watch,
) -> Result<()> {
    let mut part = Part::open(blob, remote, watch)?;
    let mut patience = Patience::default();
    let mut resumed = part.length > 0;
    loop {
        while part.length < remote.size {
            let before = part.length;
            let failure = match transfer(hub, asked, path, remote, &mut part, watch).await {
                Ok(()) => break,
                Err(failure) => failure,
            };
            if part.length > before {
                patience.renew();
            }
            let waited = patience.wait(failure, path, watch).await;
            waited.map_err(|error| stopped(error, path, part.length, remote.size))?;
        }
        if part.is_right(remote) {
            return part.complete(blob);
        }
        part.restart(watch)?;
        if !resumed {
            fs::remove_file(&part.path).map_err(|cause| cant_write(&part.path, &cause))?;
            let message = format!("`{path}` isn't what the hub says: its SHA-256 is another one");
            return Err(asked.error(message).kind(Kind::Runtime).hint(
                "nothing of it is kept; start again, and where it stays so, look for a proxy or mirror on the way",
            ));
        }
        // an earlier start may have left the wrong beginning: once from the first byte
        resumed = false;
        watch.tell(Event::Note(format!("`{path}`: what an earlier start left doesn't fit; fetching it anew")));
    }
}

/// One attempt: what comes is appended, also where the connection breaks.
async fn transfer(
    hub: &Hub,
    asked: Asked<'_>,
    path: &str,
    remote: &Remote,
    part: &mut Part,
    watch: &Watch,
) -> Result<(), Failure> {
    let (mut response, begin) = hub.bytes(asked, remote, path, part.length).await?;
    if begin != part.length {
        part.restart(watch)?;
    }
    while let Some(bytes) = response.chunk().await.map_err(|error| lost(asked, &error))? {
        watch.check()?;
        if part.length + bytes.len() as u64 > remote.size {
            part.restart(watch)?;
            let error = asked.error(format!("`{path}`: the server sends more than the {} bytes it has", remote.size));
            return Err(error.hint("a proxy or mirror on the way changes files: try without it").into());
        }
        part.append(&bytes)?;
        watch.tell(Event::Bytes(bytes.len() as u64));
    }
    match part.length < remote.size {
        true => Err(Failure::Passing { error: asked.unreachable("it ended before its time"), wait: None }),
        false => Ok(()),
    }
}

/// Says how far a file came, so that a user knows that starting again isn't starting anew.
fn stopped(error: Error, path: &str, length: u64, size: u64) -> Error {
    match error.kind_of() {
        Kind::Interrupted => error,
        _ if length == 0 => error,
        kind => {
            let stopped = format!("{} (`{path}` stopped after {length} of {size} bytes)", error.message());
            let hint = error.hint_text().unwrap_or("start again");
            Error::new(stopped).kind(kind).hint(format!("{hint}; the next start goes on where this one stopped"))
        }
    }
}

/// What is here of a file: `<etag>.incomplete`, and the digest of its bytes so far.
struct Part {
    path: PathBuf,
    file: File,
    length: u64,
    digest: Hasher,
}

impl Part {
    /// Opens what an earlier start left, or nothing.
    fn open(blob: &Path, remote: &Remote, watch: &Watch) -> Result<Self> {
        create_parent(blob)?;
        let mut path = blob.as_os_str().to_owned();
        path.push(".incomplete");
        let path = PathBuf::from(path);
        let opened = File::options().read(true).append(true).create(true).open(&path);
        let file = opened.map_err(|cause| cant_write(&path, &cause))?;
        let mut part = Self { path, file, length: 0, digest: Hasher::default() };
        part.read(watch)?;
        watch.tell(Event::Bytes(part.length));
        if part.length > remote.size {
            part.restart(watch)?;
        }
        Ok(part)
    }

    fn read(&mut self, watch: &Watch) -> Result<()> {
        let what = || format!("can't read `{}`", self.path.display());
        let mut buffer = vec![0; 1 << 20];
        loop {
            watch.check()?;
            let count = self.file.read(&mut buffer).context(what)?;
            if count == 0 {
                return Ok(());
            }
            self.digest.update(buffer.get(..count).unwrap_or_default());
            self.length += count as u64;
        }
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|cause| cant_write(&self.path, &cause))?;
        self.digest.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn restart(&mut self, watch: &Watch) -> Result<()> {
        self.file.set_len(0).map_err(|cause| cant_write(&self.path, &cause))?;
        watch.tell(Event::Lost(self.length));
        self.length = 0;
        self.digest = Hasher::default();
        Ok(())
    }

    fn is_right(&self, remote: &Remote) -> bool {
        self.length == remote.size && remote.sha256().is_none_or(|expected| self.digest.hex() == expected)
    }

    /// Gives the file its name, once it is on the disk.
    fn complete(self, blob: &Path) -> Result<()> {
        let named = self.file.sync_all().and_then(|()| fs::rename(&self.path, blob));
        named.map_err(|cause| cant_write(blob, &cause))
    }
}
