//! What a run starts with and never changes.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::clock::Clock;
use crate::console::Console;
use crate::error::{Error, Result};
use crate::run::prepare::Prepared;
use crate::sweep::plan::CellFilter;

/// What is fixed for a run.
#[derive(Clone, Copy)]
pub(crate) struct Setup<'a> {
    /// The sweep with its prompts and its plan.
    pub(crate) prepared: &'a Prepared,
    /// The cells to measure and to score; `None` for all of them.
    pub(crate) only: Option<&'a CellFilter>,
    /// The clock of engine and meter.
    pub(crate) clock: &'a Clock,
    /// Takes messages and progress.
    pub(crate) console: &'a Console,
    /// Set when the user asks to stop.
    pub(crate) stop: &'a AtomicBool,
}

impl Setup<'_> {
    /// # Errors
    /// The user asked to stop.
    pub(super) fn check_stop(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) { Err(Error::interrupted()) } else { Ok(()) }
    }
}
