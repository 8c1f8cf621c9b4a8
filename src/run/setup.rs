//! What a run starts with and never changes.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::clock::Clock;
use crate::console::Console;
use crate::error::{Error, Result};
use crate::run::prepare::Prepared;
use crate::sweep::plan::CellFilter;

/// What is fixed for a run.
#[derive(Clone, Copy)]
pub struct Setup<'a> {
    /// The sweep with its prompts and its plan.
    pub prepared: &'a Prepared,
    /// The cells to measure and to score; `None` for all of them.
    pub only: Option<&'a CellFilter>,
    /// The clock of engine and meter.
    pub clock: &'a Clock,
    /// Takes messages and progress.
    pub console: &'a Console,
    /// Set when the user asks to stop.
    pub stop: &'a AtomicBool,
}

impl Setup<'_> {
    /// # Errors
    /// The user asked to stop.
    pub(super) fn check_stop(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) { Err(Error::interrupted()) } else { Ok(()) }
    }
}
