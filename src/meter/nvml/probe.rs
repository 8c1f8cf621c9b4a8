//! Which of NVML's refusals mean that a GPU doesn't have something, and how its sources are watched.

use std::time::Duration;

use nvml_wrapper::error::NvmlError;

use crate::meter::survey::{Findings, Refusal, Watch, watch};
use crate::record::SourceStatus;

/// Long enough for four updates of a counter of 100 ms; a live one moves within as much again.
const LENGTH: Duration = Duration::from_millis(450);
/// Rest between two readings: the driver's lock is free in between.
const REST: Duration = Duration::from_millis(1);

/// Old drivers know neither the function nor the number of a newer field; anything else is a failure.
pub(super) fn refusal(why: &NvmlError) -> Refusal {
    let unsupported = matches!(
        why,
        NvmlError::NotSupported
            | NvmlError::FailedToLoadSymbol(_)
            | NvmlError::FunctionNotFound
            | NvmlError::NotFound
            | NvmlError::InvalidArg
    );
    Refusal {
        status: if unsupported { SourceStatus::Unsupported } else { SourceStatus::Failed },
        detail: why.to_string(),
    }
}

/// Watches a counter, which has to move.
pub(super) fn counter(mut read: impl FnMut() -> Result<f64, NvmlError>) -> Findings {
    watch(|| read().map_err(|why| refusal(&why)), Watch { length: LENGTH, moves_within: Some(LENGTH), rest: REST })
}

/// Watches a power, which may stand still.
pub(super) fn power(mut read: impl FnMut() -> Result<f64, NvmlError>) -> Findings {
    watch(|| read().map_err(|why| refusal(&why)), Watch { length: LENGTH, moves_within: None, rest: REST })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_driver_does_not_have_is_unsupported_and_what_it_refuses_failed() {
        let status = |why| refusal(&why).status;
        for why in [NvmlError::NotSupported, NvmlError::FunctionNotFound, NvmlError::InvalidArg] {
            assert_eq!(status(why), SourceStatus::Unsupported);
        }
        for why in [NvmlError::NoPermission, NvmlError::GpuLost, NvmlError::Unknown] {
            assert_eq!(status(why), SourceStatus::Failed);
        }
    }
}
