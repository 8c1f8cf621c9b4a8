//! The error type of the crate: what went wrong, and what the user can do about it.

use std::fmt;

/// Result of anything that can fail with a message for the user.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, in lower case and without a final period, and optionally what to do next.
#[derive(Debug, Clone, PartialEq)]
pub struct Error {
    message: String,
    hint: Option<String>,
    kind: Kind,
}

/// Who has to act on an error: decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The user, who has to correct the input: a sweep file, a flag, a model folder.
    Input,
    /// The machine or a file failed while the work was under way.
    Runtime,
    /// The user asked to stop (Ctrl-C or SIGTERM); finished work is kept.
    Interrupted,
    /// The device or the host ran out of memory.
    OutOfMemory,
    /// The meter failed while recording.
    Meter,
}

impl Error {
    /// A failure while running.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, kind: Kind::Runtime }
    }

    /// A mistake in the user's input.
    pub fn input(message: impl Into<String>) -> Self {
        Self { kind: Kind::Input, ..Self::new(message) }
    }

    /// An interruption by the user.
    pub(crate) fn interrupted() -> Self {
        Self { kind: Kind::Interrupted, ..Self::new("interrupted") }
    }

    /// Adds a hint: what the user can do next.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Replaces the kind.
    #[must_use]
    pub(crate) fn with_kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// Puts the place of the error in front of the message.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }

    /// The message without the hint.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The hint, if there is one.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Message and hint on one line, for records and tables.
    pub(crate) fn one_line(&self) -> String {
        let message = self.message.split_whitespace().collect::<Vec<_>>().join(" ");
        match &self.hint {
            Some(hint) => format!("{message} (hint: {hint})"),
            None => message,
        }
    }

    /// Who has to act.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

/// Says what a foreign error interrupted: `fs::read(p).context(|| format!("can't read `{}`", p.display()))`.
pub trait Context<T> {
    /// Makes it a runtime failure, with `what` in front of the cause.
    fn context<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T>;

    /// Makes it a mistake in the input, with `what` in front of the cause.
    fn input_context<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T>;
}

impl<T, E: fmt::Display> Context<T> for std::result::Result<T, E> {
    fn context<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|cause| Error::new(format!("{}: {cause}", what())))
    }

    fn input_context<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|cause| Error::input(format!("{}: {cause}", what())))
    }
}
