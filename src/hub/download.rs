//! Fetches one file into the cache: in one go or in several, over connections that break, and never as complete unless
//! its length and, if the hub names it, its SHA-256 are right.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use super::cache::{Cache, cant_write, create_parent};
use super::client::{Failure, Hub, Patience, Remote, lost};
use super::refusal::Asked;
use super::watch::{Event, Watch};
use crate::digest::Hasher;
use crate::error::{Context, Error, Kind, Result};

/// One repository on its way from the hub into the cache.
#[derive(Clone, Copy)]
pub(super) struct Download<'a> {
    pub(crate) hub: &'a Hub,
    pub(crate) cache: &'a Cache,
    pub(crate) asked: Asked<'a>,
    pub(crate) watch: &'a Watch,
}

impl Download<'_> {
    /// Fetches a file that isn't in the snapshot yet, and puts it there.
    pub(crate) fn fetch(&self, path: &str, remote: &Remote) -> Result<()> {
        let blob = self.cache.blob(&remote.etag);
        let held = || {
            self.watch.report(Event::Note(format!("`{path}` is being fetched by another process: waiting for it")));
        };
        let lock = self.cache.lock(&remote.etag, held)?;
        if fs::metadata(&blob).is_ok_and(|found| found.len() == remote.size) {
            self.watch.report(Event::Bytes(remote.size));
        } else {
            self.fetch_blob(path, remote, &blob)?;
        }
        self.cache.link(&remote.commit, path, &remote.etag)?;
        drop(lock);
        Ok(())
    }

    fn fetch_blob(&self, path: &str, remote: &Remote, blob: &Path) -> Result<()> {
        let mut part = Part::open(blob, remote, self.watch)?;
        let resumed = part.length > 0;
        self.complete(path, remote, &mut part)?;
        if resumed && !part.is_right(remote) {
            // an earlier start may have left a wrong beginning: once more, from the first byte
            part.restart(self.watch)?;
            let note = format!("`{path}`: what an earlier start left doesn't fit; fetching all of it again");
            self.watch.report(Event::Note(note));
            self.complete(path, remote, &mut part)?;
        }
        if part.is_right(remote) {
            return part.publish(blob);
        }
        part.restart(self.watch)?;
        fs::remove_file(&part.path).map_err(|cause| cant_write(&part.path, &cause))?;
        let message = format!("`{path}` isn't what the hub says: its SHA-256 is another one");
        Err(self.asked.error(message).with_kind(Kind::Runtime).with_hint(
            "nothing of it is kept; start again, and if it happens again, look for a proxy or mirror on the way",
        ))
    }

    /// Fetches what is missing, in as many attempts as it takes while they bring something.
    fn complete(&self, path: &str, remote: &Remote, part: &mut Part) -> Result<()> {
        let mut patience = Patience::default();
        while part.length < remote.size {
            let before = part.length;
            let Err(failure) = self.transfer(path, remote, part) else { break };
            if part.length > before {
                patience.renew();
            }
            let waited = patience.wait(failure, &format!("`{path}`"), self.watch);
            waited.map_err(|error| stopped(error, path, part.length, remote.size))?;
        }
        Ok(())
    }

    /// One attempt: what comes is appended, also if the connection breaks.
    fn transfer(&self, path: &str, remote: &Remote, part: &mut Part) -> Result<(), Failure> {
        let Self { hub, asked, watch, .. } = self;
        let (answer, begin) = hub.bytes(*asked, remote, path, part.length)?;
        if begin != part.length {
            part.restart(watch)?;
        }
        let mut body = answer.into_body().into_reader();
        let mut buffer = vec![0; 1 << 16];
        loop {
            let count = body.read(&mut buffer).map_err(|error| lost(*asked, error))?;
            watch.check()?;
            if count == 0 {
                break;
            }
            if part.length + count as u64 > remote.size {
                part.restart(watch)?;
                let error =
                    asked.error(format!("`{path}`: the server sends more than the {} bytes it has", remote.size));
                return Err(error.with_hint("a proxy or mirror on the way changes files: try without it").into());
            }
            part.append(&buffer[..count])?;
            watch.report(Event::Bytes(count as u64));
        }
        match part.length < remote.size {
            true => Err(Failure::Passing { error: asked.unreachable("it ended too early"), wait: None }),
            false => Ok(()),
        }
    }
}

/// Says how far a file came, so that a user knows that starting again doesn't lose it.
fn stopped(error: Error, path: &str, length: u64, size: u64) -> Error {
    match error.kind() {
        Kind::Interrupted => error,
        _ if length == 0 => error,
        kind => {
            let stopped = format!("{} (`{path}` stopped after {length} of {size} bytes)", error.message());
            let hint = error.hint().unwrap_or("start again");
            Error::new(stopped)
                .with_kind(kind)
                .with_hint(format!("{hint}; the next start goes on where this one stopped"))
        }
    }
}

/// The part of a file that is here, `<etag>.incomplete`, and the digest of its bytes so far.
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
        watch.report(Event::Bytes(part.length));
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
        watch.report(Event::Lost(self.length));
        self.length = 0;
        self.digest = Hasher::default();
        Ok(())
    }

    fn is_right(&self, remote: &Remote) -> bool {
        self.length == remote.size && remote.sha256().is_none_or(|expected| self.digest.hex() == expected)
    }

    /// Gives the file its name once its bytes are on the disk.
    fn publish(self, blob: &Path) -> Result<()> {
        let named = self.file.sync_all().and_then(|()| fs::rename(&self.path, blob));
        named.map_err(|cause| cant_write(blob, &cause))
    }
}
