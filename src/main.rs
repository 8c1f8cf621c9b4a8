//! The binary: reads the command line, installs the signal handler, and turns errors into messages and exit codes.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ept_sweep::cli::exit::Exit;
use ept_sweep::cli::{Cli, Command};
use ept_sweep::commands::dispatch;
use ept_sweep::console::Console;

fn main() -> ExitCode {
    let cli = Cli::read(std::env::args_os()).unwrap_or_else(|error| error.exit());
    let console = Console::new(cli.quiet);
    let runs_another = cli.command.runs_another();
    if !matches!(cli.command, Command::Run(_) | Command::Bench(_)) && !runs_another {
        end_with_the_reader();
    }
    // another program's signals are passed on to it
    let stop = if runs_another { Arc::default() } else { stop_on_signal(&console) };
    match dispatch(cli, &console, &stop) {
        Ok(exit) => exit.into(),
        Err(error) => {
            console.error(&error);
            Exit::from(&error).into()
        }
    }
}

/// A command that only prints ends quietly when its reader does (`| head`); one that measures continues.
#[cfg(unix)]
fn end_with_the_reader() {
    // SAFETY: nothing else has set this signal's handler yet.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

#[cfg(not(unix))]
fn end_with_the_reader() {}

/// The first Ctrl-C or SIGTERM asks the work to stop at the next batch; a second one ends the process at once.
fn stop_on_signal(console: &Console) -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    let handler = ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(Exit::Interrupted.code().into());
        }
        eprintln!("stopping after the current batch (press again to stop at once)");
    });
    if let Err(error) = handler {
        console.warn(format!("Ctrl-C won't be handled: {error}"));
    }
    stop
}
