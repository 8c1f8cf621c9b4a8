//! The idle baseline before and after a model's trials.

use std::sync::atomic::AtomicBool;

use crate::clock::Clock;
use crate::error::Result;
use crate::meter::Meter;
use crate::meter::span::{self, Rest};
use crate::record::{IdleBaseline, Protocol};

/// Power without work, with the model loaded, after a rest for clocks to settle.
///
/// # Errors
/// The meter fails, or `stop` was set.
pub fn idle_baseline(
    meter: &mut dyn Meter,
    clock: &Clock,
    protocol: &Protocol,
    stop: &AtomicBool,
) -> Result<Option<IdleBaseline>> {
    let rest = Rest { settle_s: protocol.settle_s, guard_s: protocol.guard_s, duration_s: protocol.idle_s };
    span::idle_baseline(meter, clock, rest, stop)
}
