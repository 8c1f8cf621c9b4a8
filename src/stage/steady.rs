//! Whether a device has become steady in temperature and speed.

use std::collections::BTreeMap;

use crate::units::Seconds;

/// The temperature is compared over this time, in seconds: a slow drift shows in a sensor of whole degrees only then.
const SLOPE_OVER: f64 = 5.0;
/// The most that it may change over that time, in °C: the sensor shows whole degrees.
const SLOPE: f64 = 1.0;
/// The same batch has to take the same time within this share.
const SPEED: f64 = 0.02;

/// The temperature of a device and its speed, over a warm-up.
#[derive(Debug, Default)]
pub(super) struct Warmth {
    temperatures: Vec<(Seconds, f64)>,
    /// How long each batch took, the last time and the time before.
    batches: BTreeMap<usize, (f64, Option<f64>)>,
    last: usize,
}

impl Warmth {
    pub(super) fn note(&mut self, batch: usize, began: Seconds, now: Seconds, temperature: f64) {
        self.temperatures.push((now, temperature));
        let took = (now - began).0;
        let before = self.batches.get(&batch).map(|(last, _)| *last);
        self.batches.insert(batch, (took, before));
        self.last = batch;
    }

    /// Over the last seconds the temperature changed by a degree at most, and the last batch took as long as the time
    /// before. A list so long that no batch came up twice says nothing about speed.
    pub(super) fn is_steady(&self) -> bool {
        let Some((now, temperature)) = self.temperatures.last() else { return false };
        let Some((_, earlier)) = self.temperatures.iter().rev().find(|(t, _)| (*now - *t).0 >= SLOPE_OVER) else {
            return false;
        };
        let same_speed = match self.batches.get(&self.last) {
            Some((took, Some(before))) => (took / before - 1.0).abs() <= SPEED,
            _ => true,
        };
        (temperature - earlier).abs() <= SLOPE && same_speed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warmth(readings: &[(usize, f64, f64)]) -> Warmth {
        let mut warmth = Warmth::default();
        let mut now = 0.0;
        for (batch, took, temperature) in readings {
            warmth.note(*batch, Seconds(now), Seconds(now + took), *temperature);
            now += took;
        }
        warmth
    }

    #[test]
    fn a_device_is_steady_when_neither_its_temperature_nor_its_speed_changes() {
        let steady = |readings: &[(usize, f64, f64)]| warmth(readings).is_steady();
        assert!(!steady(&[(0, 2.0, 50.0)]), "two seconds show no slope");
        assert!(steady(&[(0, 2.0, 50.0), (0, 2.0, 50.0), (0, 2.0, 50.0), (0, 2.0, 51.0)]));
        assert!(!steady(&[(0, 2.0, 50.0), (0, 2.0, 51.0), (0, 2.0, 52.0), (0, 2.0, 53.0)]), "it warms");
        assert!(!steady(&[(0, 3.0, 50.0), (0, 3.0, 50.0), (0, 3.0, 50.0), (0, 3.2, 50.0)]), "it slows down");
        assert!(steady(&[(0, 3.0, 50.0), (1, 4.0, 50.0), (2, 3.5, 50.0)]), "no batch came up twice");
    }
}
