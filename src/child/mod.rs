//! A command as a child process: found, started with this process's own streams, marked, signalled, waited for.
//! Knows nothing of energy.

mod lines;
mod marks;
mod signals;

use std::ffi::{OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{self, Sender};
use std::thread;

use crate::clock::Clock;
use crate::error::{Context, Error, Result};

pub(crate) use self::lines::printable;
use self::marks::Watching;
pub(crate) use self::marks::{MarkFile, Marks, VARIABLE};
use self::signals::PassingOn;
pub(crate) use self::signals::{Signals, end_by};

/// Exit code of a shell for a command that isn't there.
pub(crate) const NOT_FOUND: u8 = 127;
/// Exit code of a shell for a command that can't be executed.
pub(crate) const NOT_EXECUTABLE: u8 = 126;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Exit(i32),
    Signal(i32),
}

/// Why a command wasn't started, with the exit code by which shells say so.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NotStarted {
    pub(crate) code: u8,
    pub(crate) error: Error,
}

/// A command that runs.
pub(crate) struct Running {
    child: Child,
    marks: Watching,
    signals: PassingOn,
    events: mpsc::Receiver<Event>,
}

enum Event {
    Mark,
    Ended,
}

/// Whether a command can be started, as far as its file shows: known before minutes are spent on an idle baseline.
///
/// # Errors
/// There is no such program, or it can't be executed.
pub(crate) fn find(program: &OsStr) -> Result<(), NotStarted> {
    let is_path = program.as_bytes().contains(&b'/');
    let places = match std::env::var_os("PATH") {
        _ if is_path => vec![Path::new(program).to_owned()],
        Some(path) => std::env::split_paths(&path).map(|folder| folder.join(program)).collect(),
        // without `PATH` the system has a default of its own
        None => return Ok(()),
    };
    let files: Vec<_> = places.iter().filter_map(|place| place.metadata().ok()).collect();
    match (files.iter().any(|file| file.is_file() && file.permissions().mode() & 0o111 != 0), files.is_empty()) {
        (true, _) => Ok(()),
        (false, true) => Err(NotStarted::of(program, &io::ErrorKind::NotFound.into())),
        (false, false) => Err(NotStarted::of(program, &io::ErrorKind::PermissionDenied.into())),
    }
}

impl NotStarted {
    fn of(program: &OsStr, why: &io::Error) -> Self {
        let name = printable(&program.to_string_lossy());
        let (code, message, hint) = match why.kind() {
            io::ErrorKind::NotFound => (
                NOT_FOUND,
                format!("there is no command `{name}`"),
                "check the spelling; a script in this folder is `./script.sh`, and a shell's own words need \
                 `sh -c '…'`",
            ),
            io::ErrorKind::PermissionDenied => (
                NOT_EXECUTABLE,
                format!("`{name}` can't be executed: permission denied"),
                "`chmod +x` makes a script executable; or name the program that runs it, such as `python script.py`",
            ),
            _ => (
                NOT_EXECUTABLE,
                format!("`{name}` can't be executed: {why}"),
                "name the program that runs it, such as `sh script.sh`",
            ),
        };
        Self { code, error: Error::input(message).with_hint(hint) }
    }
}

/// Starts a command with this process's own streams, and with the place of its marks in [`VARIABLE`].
///
/// # Errors
/// The inner one if the command can't be started, the outer one if this process lacks threads.
pub(crate) fn start(
    command: &[OsString],
    marks: MarkFile,
    signals: &mut Signals,
    clock: &Clock,
) -> Result<Result<Running, NotStarted>> {
    let Some((program, arguments)) = command.split_first() else { return Err(Error::input("there is no command")) };
    let (events, received) = mpsc::channel();
    let path = marks.path().to_owned();
    let on_mark = events.clone();
    let watching = marks.watch(clock.clone(), move || drop(on_mark.send(Event::Mark)))?;
    let child = match Command::new(program).args(arguments).env(VARIABLE, path).spawn() {
        Ok(child) => child,
        Err(why) => {
            watching.finish();
            return Ok(Err(NotStarted::of(program, &why)));
        }
    };
    // a process that has no more threads is as good as dead: then the command isn't measured, and goes on by itself
    let signals = signals.pass_on(child.id())?;
    wait_on_a_thread(&child, events)?;
    Ok(Ok(Running { child, marks: watching, signals, events: received }))
}

impl Running {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the command has ended; `on_mark` is called soon after each mark. Its process stays known to the
    /// system until [`Running::finish`].
    pub(crate) fn wait(&self, mut on_mark: impl FnMut()) {
        while let Ok(Event::Mark) = self.events.recv() {
            on_mark();
        }
    }

    /// How the command ended, and the marks that it wrote.
    ///
    /// # Errors
    /// The system doesn't say how it ended.
    pub(crate) fn finish(mut self) -> Result<(Ending, Marks)> {
        // its number may be given to another process as soon as it has been waited for
        self.signals.finish();
        let status = self.child.wait().context(|| "can't wait for the command")?;
        Ok((ending(status), self.marks.finish()))
    }
}

/// Says when the command has ended, without taking its exit status.
fn wait_on_a_thread(child: &Child, events: Sender<Event>) -> Result<()> {
    let pid = child.id();
    let wait = move || {
        while !has_ended(pid) {}
        let _ = events.send(Event::Ended);
    };
    thread::Builder::new().name("wait".into()).spawn(wait).map(drop).context(|| "can't wait for the command")
}

/// Waits; `false` if a signal came in between.
fn has_ended(pid: u32) -> bool {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    // SAFETY: `info` has room for what the call fills in
    let status = unsafe { libc::waitid(libc::P_PID, pid, info.as_mut_ptr(), libc::WEXITED | libc::WNOWAIT) };
    status == 0 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted
}

fn ending(status: ExitStatus) -> Ending {
    match status.code() {
        Some(code) => Ending::Exit(code),
        None => Ending::Signal(status.signal().unwrap_or_default()),
    }
}
