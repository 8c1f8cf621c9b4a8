//! What a download says while it is under way, and how it is told to stop. It draws nothing: that is the console's
//! part.

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
        /// The repository.
        repository: String,
        /// How many files are fetched.
        files: usize,
        /// Bytes of all of them.
        bytes: u64,
    },
    /// So many bytes more are here, from the hub or from an earlier start.
    Bytes(u64),
    /// A file starts over: so many bytes don't count any more.
    Lost(u64),
    /// Something that a user wants to know, such as a lost connection.
    Note(String),
    /// All files are here, or the download failed.
    End,
}

/// Listens to downloads, and can end them.
#[derive(Clone)]
pub struct Watch {
    tell: Rc<dyn Fn(&Event)>,
    stop: Arc<AtomicBool>,
}

impl Watch {
    /// Tells `tell` what happens; a download ends soon after `stop` is set.
    pub fn new(tell: impl Fn(&Event) + 'static, stop: Arc<AtomicBool>) -> Self {
        Self { tell: Rc::new(tell), stop }
    }

    /// Listens to nothing.
    pub fn silent() -> Self {
        Self::new(|_| (), Arc::default())
    }

    pub(super) fn tell(&self, event: Event) {
        (self.tell)(&event);
    }

    /// Fails where the user asked to stop.
    pub(super) fn check(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) { Err(Error::interrupted()) } else { Ok(()) }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch")
    }
}
