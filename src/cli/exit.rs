//! The exit codes, one for each outcome that a script may want to distinguish.

use std::process::ExitCode;

use crate::error::{Error, Kind};

/// The exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Everything was done.
    Done = 0,
    /// Something failed while running: a disk, a driver, the network, memory.
    Failed = 1,
    /// The user has to correct the input: a flag, a sweep file, a model folder.
    BadInput = 2,
    /// The sweep finished and the report is written, but some trials failed or were skipped.
    TrialsFailed = 3,
    /// Stopped by Ctrl-C or SIGTERM; finished work is kept, and the next start continues.
    Interrupted = 130,
}

impl From<&Error> for Exit {
    fn from(error: &Error) -> Self {
        match error.kind() {
            Kind::Input => Exit::BadInput,
            Kind::Runtime | Kind::OutOfMemory | Kind::Meter => Exit::Failed,
            Kind::Interrupted => Exit::Interrupted,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}
