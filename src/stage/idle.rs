//! The idle baseline before and after a model's trials.

use std::sync::atomic::AtomicBool;

use crate::clock::Clock;
use crate::error::Result;
use crate::meter::Meter;
use crate::meter::span::{self, Rest};
use crate::record::{IdleBaseline, Protocol};
use crate::units::Seconds;

/// How long a device idles for a baseline: it cools meanwhile.
pub(crate) fn idle_time(protocol: &Protocol) -> Seconds {
    match protocol.idle_s.0 > 0.0 {
        true => protocol.settle_s + protocol.guard_s * 2.0 + protocol.idle_s,
        false => Seconds(0.0),
    }
}

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
