//! The exit codes, one for each outcome that a script may want to distinguish.

use std::process::ExitCode;

use crate::error::{Error, Kind};

/// The exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Everything was done.
    Done,
    /// Something failed while running: a disk, a driver, the network, memory.
    Failed,
    /// The user has to correct the input: a flag, a sweep file, a model folder.
    BadInput,
    /// The sweep finished and the report is written, but some trials failed or were skipped.
    TrialsFailed,
    /// Stopped by Ctrl-C or SIGTERM; finished work is kept, and the next start continues.
    Interrupted,
    /// That of a command that was measured.
    OfCommand(u8),
}

impl Exit {
    /// The number that a script sees.
    pub fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::BadInput => 2,
            Exit::TrialsFailed => 3,
            Exit::Interrupted => 130,
            Exit::OfCommand(code) => code,
        }
    }
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
        ExitCode::from(exit.code())
    }
}
