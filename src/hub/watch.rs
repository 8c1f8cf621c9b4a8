//! The events of a download, and how it is stopped. It draws nothing: that is the console's part.

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

/// Something that happens while files are fetched.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Files are about to be fetched.
    Begin {
        repository: String,
        /// Their number.
        files: usize,
        /// Bytes of all of them.
        bytes: u64,
    },
    /// This many bytes more are here, from the hub or from an earlier start.
    Bytes(u64),
    /// A file starts over: this many bytes no longer count.
    Lost(u64),
    /// Something that a user wants to know, such as a lost connection.
    Note(String),
    /// All files are here, or the download failed.
    End,
}

/// Listens to downloads, and can end them.
#[derive(Clone)]
pub struct Watch {
    report: Rc<dyn Fn(&Event)>,
    stop: Arc<AtomicBool>,
}

impl Watch {
    /// Calls `report` with each event; a download ends soon after `stop` is set.
    pub fn new(report: impl Fn(&Event) + 'static, stop: Arc<AtomicBool>) -> Self {
        Self { report: Rc::new(report), stop }
    }

    /// Listens to nothing.
    pub(crate) fn silent() -> Self {
        Self::new(|_| (), Arc::default())
    }

    pub(super) fn report(&self, event: Event) {
        (self.report)(&event);
    }

    /// Fails if the user asked to stop.
    pub(super) fn check(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) { Err(Error::interrupted()) } else { Ok(()) }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch")
    }
}
