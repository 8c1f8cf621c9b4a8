//! Signals that reach this process while a command runs, passed on to it.
//!
//! Whatever a terminal sends (Ctrl-C, Ctrl-\, a closed window) goes to all processes of the foreground group, and the
//! command is in the same group as this process: it has the signal already. One that somebody sends to this process
//! alone (`kill`, a batch system) is passed on. The kernel says which of the two a signal is. Stopping (Ctrl-Z)
//! and continuing need nothing: both processes are stopped and continued as one job.
//!
//! A signal that is ignored when the program starts (`nohup`, a background job of a shell script) stays ignored, here
//! and in the command.

use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use libc::{c_int, c_void, siginfo_t};

use crate::error::{Context, Result};

/// What is passed on.
const PASSED_ON: [c_int; 7] =
    [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT, libc::SIGUSR1, libc::SIGUSR2, libc::SIGWINCH];

/// The pipe that the handler writes to.
static PIPE: AtomicI32 = AtomicI32::new(-1);
/// A signal came that ends a process.
static STOP: AtomicBool = AtomicBool::new(false);
/// The last signal of that kind.
static LAST: AtomicI32 = AtomicI32::new(0);
/// The command exists: a terminal's signals reach it by themselves.
static RUNNING: AtomicBool = AtomicBool::new(false);

/// Signals are caught from here on.
#[derive(Debug)]
pub(crate) struct Signals {
    received: Option<io::PipeReader>,
    wake: OwnedFd,
}

/// A thread that passes signals on to one process.
#[derive(Debug)]
pub(super) struct PassingOn {
    /// `None` once the process has been waited for: its number may be another's.
    target: Arc<Mutex<Option<c_int>>>,
    wake: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

impl Signals {
    /// # Errors
    /// No pipe can be opened.
    pub(crate) fn catch() -> Result<Self> {
        let (received, sent) = io::pipe().context(|| "can't open a pipe for signals")?;
        let wake = OwnedFd::from(sent);
        // a handler must not wait
        // SAFETY: the descriptor is open
        unsafe { libc::fcntl(wake.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
        PIPE.store(wake.as_raw_fd(), Ordering::SeqCst);
        // where it was ignored, nobody could learn how the command ended
        // SAFETY: a call with plain values
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
        PASSED_ON.into_iter().for_each(install);
        Ok(Self { received: Some(received), wake })
    }

    /// Set once a signal came that ends a process.
    pub(crate) fn stop(&self) -> &'static AtomicBool {
        &STOP
    }

    /// The signal that set [`Signals::stop`].
    pub(crate) fn last(&self) -> Option<i32> {
        Some(LAST.load(Ordering::SeqCst)).filter(|signal| *signal != 0)
    }

    /// Passes on what comes from now on, and what came since signals are caught.
    pub(super) fn pass_on(&mut self, pid: u32) -> Result<PassingOn> {
        RUNNING.store(true, Ordering::SeqCst);
        let target = Arc::new(Mutex::new(Some(pid as c_int)));
        let wake = self.wake.try_clone().context(|| "can't pass signals on")?;
        let thread = self.received.take().map(|received| {
            let target = Arc::clone(&target);
            thread::Builder::new().name("signals".into()).spawn(move || pass_on(received, &target))
        });
        let thread = thread.transpose().context(|| "can't start the thread that passes signals on")?;
        Ok(PassingOn { target, wake, thread })
    }
}

impl PassingOn {
    /// The process is about to be waited for.
    pub(super) fn finish(mut self) {
        *self.target.lock().unwrap_or_else(PoisonError::into_inner) = None;
        RUNNING.store(false, Ordering::SeqCst);
        write(self.wake.as_raw_fd(), [0, 0]);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Ends this process by a signal, as if it had never been caught; returns if that signal doesn't end a process.
pub(crate) fn end_by(signal: i32) {
    let no_core = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: all are calls with plain values; `no_core` lives through its call. The command has left a core file
    // already if it is to have one, and this process's own would replace it
    unsafe {
        libc::setrlimit(libc::RLIMIT_CORE, &raw const no_core);
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

fn install(signal: c_int) {
    let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) = caught;
    // SAFETY: both actions are zeroed structures of the right type, and the handler does only what a handler may
    unsafe {
        let mut before: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &raw mut before);
        if before.sa_sigaction == libc::SIG_IGN {
            return;
        }
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        libc::sigaction(signal, &raw const action, std::ptr::null_mut());
    }
}

/// Only atomics and `write`: nothing else is allowed in a handler.
extern "C" fn caught(signal: c_int, info: *mut siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel passes a valid structure; positive codes are the kernel's own
    let from_terminal = unsafe { (*info).si_code > 0 };
    if matches!(signal, libc::SIGINT | libc::SIGTERM | libc::SIGHUP | libc::SIGQUIT) {
        LAST.store(signal, Ordering::SeqCst);
        STOP.store(true, Ordering::SeqCst);
    }
    let known = from_terminal && RUNNING.load(Ordering::SeqCst);
    write(PIPE.load(Ordering::SeqCst), [signal as u8, u8::from(known)]);
}

/// Drops the message if the pipe is full, which 30,000 signals at once can do.
fn write(pipe: c_int, message: [u8; 2]) {
    // SAFETY: two bytes are there to be read
    unsafe { libc::write(pipe, message.as_ptr().cast(), message.len()) };
}

fn pass_on(mut received: io::PipeReader, target: &Mutex<Option<c_int>>) {
    let mut message = [0; 2];
    while received.read_exact(&mut message).is_ok() {
        let [signal, known] = message;
        let target = target.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(pid) = *target else { return };
        if signal != 0 && known == 0 {
            // SAFETY: the process exists, since it hasn't been waited for
            unsafe { libc::kill(pid, c_int::from(signal)) };
        }
    }
}
