//! Whether a figure may be used: stable codes for what speaks against it.

use serde::{Deserialize, Serialize};

/// Whether a figure may be used.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Validity {
    /// Each of these alone makes the figure unusable in a headline.
    pub invalid_reasons: Vec<Reason>,
    /// Worth knowing; the figure stands.
    pub warnings: Vec<Reason>,
}

impl Validity {
    /// Nothing speaks against the figure.
    pub fn is_valid(&self) -> bool {
        self.invalid_reasons.is_empty()
    }
}

/// A stable code for what is wrong with a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// No source gave an energy for this window.
    NoEnergySource,
    /// The window is shorter than the source needs.
    WindowTooShort,
    /// The two sources disagree by more than 5 %.
    ResidualTooLarge,
    /// The two sources disagree by more than 1 %.
    ResidualNoticeable,
    /// The samples leave more than 5 % of the window uncovered.
    CoverageTooLow,
    /// The energy counter went backwards inside the window.
    CounterReset,
    /// The energy counter did not move inside the window.
    CounterStuck,
    /// Energy is computed from a model, not measured.
    Modelled,
    /// Two passes over the same prompts gave different tokens.
    NondeterministicOutput,
    /// Energy per output token is below what reading the weights once takes at idle power.
    PhysicallyImpossible,
    /// Other processes computed on the GPU.
    ForeignProcess,
    /// The GPU was slowed down by heat, hardware protection or a power brake.
    Throttled,
    /// The GPU's temperature changed by more than 3 °C over the window.
    TemperatureDrift,
    /// Temperature or speed wasn't steady after the longest warm-up.
    NotSteady,
    /// Batches repeat in step with the sensor's own rhythm.
    PhaseLocked,
    /// The GPU is split by MIG, and the energy is the whole GPU's.
    MigShared,
    /// Idle power before and after differ by more than 2 % of the net power that rests on them.
    IdleDrift,
    /// The second source is a trailing average, shifted by half its length.
    AveragedPower,
}

impl Reason {
    /// All of them.
    pub const ALL: [Reason; 18] = [
        Reason::NoEnergySource,
        Reason::WindowTooShort,
        Reason::ResidualTooLarge,
        Reason::ResidualNoticeable,
        Reason::CoverageTooLow,
        Reason::CounterReset,
        Reason::CounterStuck,
        Reason::Modelled,
        Reason::NondeterministicOutput,
        Reason::PhysicallyImpossible,
        Reason::ForeignProcess,
        Reason::Throttled,
        Reason::TemperatureDrift,
        Reason::NotSteady,
        Reason::PhaseLocked,
        Reason::MigShared,
        Reason::IdleDrift,
        Reason::AveragedPower,
    ];

    /// The stable code, as stored.
    pub fn code(self) -> &'static str {
        match self {
            Reason::NoEnergySource => "no_energy_source",
            Reason::WindowTooShort => "window_too_short",
            Reason::ResidualTooLarge => "residual_too_large",
            Reason::ResidualNoticeable => "residual_noticeable",
            Reason::CoverageTooLow => "coverage_too_low",
            Reason::CounterReset => "counter_reset",
            Reason::CounterStuck => "counter_stuck",
            Reason::Modelled => "modelled",
            Reason::NondeterministicOutput => "nondeterministic_output",
            Reason::PhysicallyImpossible => "physically_impossible",
            Reason::ForeignProcess => "foreign_process",
            Reason::Throttled => "throttled",
            Reason::TemperatureDrift => "temperature_drift",
            Reason::NotSteady => "not_steady",
            Reason::PhaseLocked => "phase_locked",
            Reason::MigShared => "mig_shared",
            Reason::IdleDrift => "idle_drift",
            Reason::AveragedPower => "averaged_power",
        }
    }

    /// What it means and what to do about it, in a sentence.
    pub fn explanation(self) -> &'static str {
        match self {
            Reason::NoEnergySource => {
                "no source gave an energy for this window; `ept-sweep meter` says what this machine can measure"
            }
            Reason::WindowTooShort => {
                "the window is shorter than the energy source needs; raise `measure.window_s` or use `auto`"
            }
            Reason::ResidualTooLarge => {
                "the energy counter and the integrated power disagree by more than 5 %; repeat on a quiet machine"
            }
            Reason::ResidualNoticeable => {
                "the energy counter and the integrated power disagree by more than 1 %; use a longer window"
            }
            Reason::CoverageTooLow => {
                "more than 5 % of the window has no power samples; other load may have starved the sampler"
            }
            Reason::CounterReset => "the energy counter went backwards inside the window; repeat the trial",
            Reason::CounterStuck => "the energy counter did not move inside the window; it can't be used here",
            Reason::Modelled => {
                "energy is computed from processor time and stated coefficients: good for trying the tool, \
                 never for a claim"
            }
            Reason::NondeterministicOutput => {
                "two passes over the same prompts gave different tokens; the passes are not the same work"
            }
            Reason::PhysicallyImpossible => {
                "energy per output token is below what reading the weights once takes; the measurement is wrong"
            }
            Reason::ForeignProcess => {
                "another process computed on the GPU, and its energy can't be told apart; stop it and repeat"
            }
            Reason::Throttled => {
                "the GPU was slowed down by heat, hardware protection or a power brake: it isn't its normal state"
            }
            Reason::TemperatureDrift => {
                "the GPU's temperature changed by more than 3 °C over the window; raise `measure.max_warmup_s`"
            }
            Reason::NotSteady => {
                "temperature or speed wasn't steady after the longest warm-up; raise `measure.max_warmup_s`"
            }
            Reason::PhaseLocked => {
                "batches repeat in step with the sensor's rhythm, so that it may see one phase of them only; change \
                 the batch size or the output length slightly and compare"
            }
            Reason::MigShared => {
                "the GPU is split by MIG: the energy is the whole GPU's, with whatever its other parts did"
            }
            Reason::IdleDrift => {
                "idle power before and after differ by more than 2 % of the net power; gross energy stands, net doesn't"
            }
            Reason::AveragedPower => {
                "power is known only as the average of the last second, shifted by half of it: edges are blurred"
            }
        }
    }
}
