//! What a simulated model costs: declared in a sweep file, carried out by the synthetic engine.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Watts and seconds above this are no device's, and sums of them would not stay finite.
const LARGEST: f64 = 1e6;
/// A shorter step would take too long to fill a window.
const SHORTEST_STEP: f64 = 1e-6;

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
        Ok(())
    }

    pub(crate) fn prefill_power(&self) -> f64 {
        self.prefill_w.unwrap_or(self.power_w)
    }
}
