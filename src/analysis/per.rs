//! An energy shared out over what was done with it.

use crate::units::Joules;

/// Joules for each of `parts`; `None` if the energy is unknown or there are no parts.
pub(crate) fn per(energy: Option<Joules>, parts: f64) -> Option<f64> {
    energy.filter(|_| parts > 0.0).map(|energy| energy.get() / parts)
}
