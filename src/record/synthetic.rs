//! What a simulated model costs: declared in a sweep file, carried out by the synthetic engine.

use serde::{Deserialize, Serialize};

use super::workload::Workload;
use crate::clock::Heating;
use crate::error::{Error, Result};
use crate::units::Seconds;

/// Watts and seconds above this are no device's, and sums of them would not stay finite.
const LARGEST: f64 = 1e6;
/// A shorter step would take too long to fill a window.
const SHORTEST_STEP: f64 = 1e-6;
/// A device is simulated in steps of up to a quarter of a second, which have to be short beside this.
const SHORTEST_TIME_CONSTANT: f64 = 1.0;
/// Each degree costs power and each watt warms: from 1 on there is no steady state.
const MOST_FEEDBACK: f64 = 0.5;

/// A simulated model.
///
/// A batch takes `prefill_s + steps · step_s`, whatever its size. There are `max_new_tokens` steps in `fixed` length,
/// and as many as the longest answer of the batch needs in `natural` length.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyntheticSpec {
    /// Watts while decoding.
    pub(crate) power_w: f64,
    /// Seconds of a decoding step.
    pub(crate) step_s: f64,
    /// Seconds of the prefill of a batch; 0 by default.
    #[serde(default)]
    pub(crate) prefill_s: f64,
    /// Watts during prefill; `power_w` by default.
    #[serde(default)]
    pub(crate) prefill_w: Option<f64>,
    /// Watts without work; 60 by default. One device is simulated for a whole run: it idles as the first model says.
    #[serde(default = "default_idle_w")]
    pub(crate) idle_w: f64,
    /// Tokens of each natural answer, its end-of-sequence token included; by default answers never end.
    #[serde(default)]
    pub(crate) eos_after: Option<usize>,
    /// Answers are up to this many tokens longer than `eos_after`, depending on the prompt; 0 by default.
    #[serde(default)]
    pub(crate) eos_spread: usize,
    /// Number of parameters to report; unknown by default.
    #[serde(default)]
    pub(crate) parameters: Option<u64>,
    /// Varies the token ids (and the lengths within `eos_spread`); 0 by default.
    #[serde(default)]
    pub(crate) seed: u64,
    /// Makes large batches fail; by default nothing fails.
    #[serde(default)]
    pub(crate) fail: Option<SyntheticFailure>,
    /// Makes the device warm up while it works, which takes more power; by default it has no temperature. One device is
    /// simulated for a whole run: it warms as the first model with this key says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) heat: Option<SyntheticHeat>,
    /// The work to report, from which an energy floor is computed; unknown by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) workload: Option<Workload>,
    /// What reading and multiplying cost on the device, for a calibration; without it there is none. One device is
    /// simulated for a whole run: it is the card of the first model with this key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) card: Option<SyntheticCard>,
    /// Kernels of a decode step to report; unknown by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) launches_per_step: Option<u32>,
}

/// What reading and multiplying cost on the simulated device.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyntheticCard {
    /// Bytes a second of a pure read.
    pub(crate) read_bytes_per_s: f64,
    /// Watts while reading.
    pub(crate) read_w: f64,
    /// Operations a second of a large product.
    pub(crate) flops_per_s: f64,
    /// Watts while multiplying.
    pub(crate) product_w: f64,
}

impl SyntheticCard {
    fn check(&self) -> Result<()> {
        let values = [self.read_bytes_per_s, self.read_w, self.flops_per_s, self.product_w];
        match values.iter().all(|value| value.is_finite() && *value > 0.0) {
            true => Ok(()),
            false => Err(Error::input("`card` of a synthetic model needs rates and powers above 0")),
        }
    }
}

/// How the simulated device warms up.
///
/// The defaults are roughly an H100's slow part: 0.4 % more for each °C, some 8 °C from idle to a steady load.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SyntheticHeat {
    /// More power for each °C above `ambient_c`, as a share of `power_w` and `prefill_w`; idling always takes the same.
    pub(crate) share_per_c: f64,
    /// How fast the temperature follows power.
    pub(crate) time_constant_s: f64,
    /// °C above `ambient_c` for each watt, in the steady state.
    pub(crate) c_per_w: f64,
    /// °C of the surroundings.
    pub(crate) ambient_c: f64,
}

impl Default for SyntheticHeat {
    fn default() -> Self {
        Self { share_per_c: 0.004, time_constant_s: 25.0, c_per_w: 0.03, ambient_c: 40.0 }
    }
}

impl SyntheticHeat {
    pub(crate) fn heating(self) -> Heating {
        Heating {
            share_per_c: self.share_per_c,
            time_constant: Seconds(self.time_constant_s),
            c_per_w: self.c_per_w,
            ambient_c: self.ambient_c,
        }
    }

    fn check(self, highest_w: f64) -> Result<()> {
        let shares = [("share_per_c", self.share_per_c), ("c_per_w", self.c_per_w)];
        if let Some((name, value)) = shares.iter().find(|(_, value)| !value.is_finite() || *value < 0.0) {
            return Err(Error::input(format!("`heat.{name}: {value}` of a synthetic model must be 0 or more")));
        }
        if !(SHORTEST_TIME_CONSTANT..=LARGEST).contains(&self.time_constant_s) {
            let message =
                format!("`heat.time_constant_s` of a synthetic model must be {SHORTEST_TIME_CONSTANT} or more");
            return Err(Error::input(message).with_hint("a chip's heat sink takes some 20 s"));
        }
        if !self.ambient_c.is_finite() {
            return Err(Error::input("`heat.ambient_c` of a synthetic model must be a number"));
        }
        if self.share_per_c * self.c_per_w * highest_w > MOST_FEEDBACK {
            let message = "a synthetic model that would go on warming for ever";
            return Err(Error::input(message)
                .with_hint(format!("keep `share_per_c · c_per_w · power_w` of `heat` below {MOST_FEEDBACK}")));
        }
        Ok(())
    }
}

fn default_idle_w() -> f64 {
    60.0
}

/// A failure on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SyntheticFailure {
    /// What breaks.
    pub(crate) kind: SyntheticFailureKind,
    /// Batches of this size and larger fail; 1 by default.
    #[serde(default = "one")]
    pub(crate) from_batch_size: usize,
}

fn one() -> usize {
    1
}

/// What breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SyntheticFailureKind {
    /// The device runs out of memory.
    Oom,
    /// The engine fails.
    Engine,
}

impl SyntheticSpec {
    /// # Errors
    /// A time or a power that no device could have.
    pub fn check(&self) -> Result<()> {
        let powers = [("power_w", self.power_w), ("prefill_w", self.prefill_power()), ("idle_w", self.idle_w)];
        let times = [("step_s", self.step_s), ("prefill_s", self.prefill_s)];
        if let Some((name, value)) = powers.iter().chain(&times).find(|(_, value)| !value.is_finite() || *value < 0.0) {
            return Err(Error::input(format!("`{name}: {value}` of a synthetic model must be 0 or more")));
        }
        if powers.iter().chain(&times).any(|(_, value)| *value > LARGEST) {
            return Err(Error::input(format!("a power or time of a synthetic model above {LARGEST:e}")));
        }
        if self.step_s < SHORTEST_STEP {
            return Err(Error::input(format!("`step_s` of a synthetic model must be {SHORTEST_STEP:e} or more"))
                .with_hint("time has to pass in each step"));
        }
        if self.eos_after == Some(0) {
            return Err(Error::input("`eos_after: 0` leaves no room for the end-of-sequence token")
                .with_hint("1 is an answer of the end-of-sequence token alone"));
        }
        self.card.map_or(Ok(()), |card| card.check())?;
        self.heat.map_or(Ok(()), |heat| heat.check(self.power_w.max(self.prefill_power())))
    }

    pub(crate) fn prefill_power(&self) -> f64 {
        self.prefill_w.unwrap_or(self.power_w)
    }
}
