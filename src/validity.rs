//! Every rule that makes a trial's number unusable or doubtful. Pure: takes facts, gives reasons.
//!
//! A trial's line is written before the baseline after it is measured, so what needs both ([`Reason::IdleDrift`]) is
//! added when records are read.

use crate::record::{Around, Measurement, Reason, Validity};

/// Idle power before and after a model's load may differ by this share of the net power that rests on their mean.
const IDLE_DRIFT: f64 = 0.02;

/// The reasons of a trial with the baselines around it: those that it was stored with, and [`Reason::IdleDrift`].
pub fn with_baselines(measurement: &Measurement, around: &Around<'_>) -> Validity {
    let mut validity = measurement.validity.clone();
    if idle_drifted(measurement, around) && !validity.warnings.contains(&Reason::IdleDrift) {
        validity.warnings.push(Reason::IdleDrift);
    }
    validity
}

/// Whether idle power changed by too much for the net energy to be known.
fn idle_drifted(measurement: &Measurement, around: &Around<'_>) -> bool {
    let net = || {
        let power = measurement.energy.total_j? / measurement.window.duration();
        Some((power - around.power()?).get().max(0.0))
    };
    around.drift().zip(net()).is_some_and(|(drift, net)| drift.get().abs() > IDLE_DRIFT * net)
}
