//! `ept-sweep meter`: the energy sources of this machine, or the energy of a command.

#[cfg(unix)]
mod command;
#[cfg(unix)]
mod record;
#[cfg(unix)]
mod summary;
mod survey;

use crate::cli::MeterArgs;
use crate::cli::exit::Exit;
use crate::console::Console;
use crate::error::Result;

/// Shows the sources or, if a command is given, measures it.
///
/// # Errors
/// The command can't be measured; what the command itself does is an exit code.
pub(super) fn meter(arguments: &MeterArgs, console: &Console) -> Result<Exit> {
    if arguments.command.is_empty() { survey::survey(arguments.format) } else { command(arguments, console) }
}

#[cfg(unix)]
fn command(arguments: &MeterArgs, console: &Console) -> Result<Exit> {
    command::measure(arguments, console)
}

#[cfg(not(unix))]
fn command(_: &MeterArgs, _: &Console) -> Result<Exit> {
    Err(crate::error::Error::input("measuring a command needs a Unix system"))
}
