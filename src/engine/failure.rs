//! Failures of candle as errors of this crate.

use candle_core::Error as CandleError;

use crate::error::{Error, Kind};

impl From<CandleError> for Error {
    fn from(cause: CandleError) -> Self {
        let message = plain(&cause);
        match message.contains("out of memory") || message.contains("OUT_OF_MEMORY") {
            true => {
                Error::new(message).with_kind(Kind::OutOfMemory).with_hint("use a smaller batch or a shorter output")
            }
            false => Error::new(message),
        }
    }
}

/// The message without the stack trace that candle adds if `RUST_BACKTRACE` is set.
fn plain(cause: &CandleError) -> String {
    match cause {
        CandleError::WithBacktrace { inner, .. } => plain(inner),
        CandleError::WithPath { inner, .. } => plain(inner),
        other => other.to_string(),
    }
}
