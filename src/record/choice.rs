//! What a sweep file may choose about meter and simulated engine: written by `sweep`, carried out by `meter` and
//! `engine`, which don't know of each other.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::units::{Joules, Seconds, Watts};
use crate::vocabulary::vocabulary;

vocabulary! {
    /// Which meter measures.
    #[derive(Default)]
    pub enum MeterChoice {
        /// NVML if the engine runs on a GPU; on the CPU RAPL, else the modelled meter.
        #[default]
        Auto = "auto", "the best that covers the device";
        /// The GPU's energy counter and power sensor.
        Nvml = "nvml", "NVML";
        /// The processor's energy counters (Linux powercap).
        Rapl = "rapl", "RAPL";
        /// Processor time and stated coefficients: not a measurement.
        Modelled = "modelled", "modelled";
        /// A simulated device.
        Synthetic = "synthetic", "simulated";
    }
}

/// What a second of processor time and a second of waiting are taken to cost.
///
/// The defaults are round numbers within the range of current processors, not measured on this machine: rated power
/// by cores is 3.8 W for an EPYC 9654 (360 W, 96 cores), 6.3 W for a Xeon Platinum 8480+ (350 W, 56 cores), 9.7 W
/// for an EPYC 7302 (155 W, 16 cores) and 10.5 W for a Core i9-13900K (253 W, 24 cores). Known figures of a machine
/// should replace them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelCoefficients {
    /// Watts that one fully busy logical processor adds; 8 by default.
    pub watts_per_core: f64,
    /// Watts that are drawn all the time on behalf of this process (memory, uncore, power supply); 5 by default.
    pub idle_w: f64,
}

impl Default for ModelCoefficients {
    fn default() -> Self {
        Self { watts_per_core: 8.0, idle_w: 5.0 }
    }
}

impl ModelCoefficients {
    /// Energy of `processor_time` within `elapsed` time.
    pub fn energy(&self, processor_time: Seconds, elapsed: Seconds) -> Joules {
        Watts(self.watts_per_core) * processor_time + Watts(self.idle_w) * elapsed
    }

    /// # Errors
    /// A coefficient is negative or not a number, or both are zero.
    pub fn check(&self) -> Result<()> {
        let usable = |watts: f64| watts.is_finite() && watts >= 0.0;
        if !usable(self.watts_per_core) || !usable(self.idle_w) {
            return Err(Error::input("`watts_per_core` and `idle_w` of the modelled meter must be 0 or more"));
        }
        if self.watts_per_core + self.idle_w <= 0.0 {
            return Err(Error::input("`watts_per_core` and `idle_w` of the modelled meter can't both be 0")
                .with_hint("leave them out to use the defaults"));
        }
        Ok(())
    }
}
