//! Whether a number may be used: stable codes for what is wrong with it, and an explanation of each.

use serde::{Deserialize, Serialize};

use crate::vocabulary::vocabulary;

/// Whether a number may be used.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Validity {
    /// Each of these alone makes the number unusable in a headline.
    pub invalid_reasons: Vec<Reason>,
    /// Worth knowing; the number remains usable.
    pub warnings: Vec<Reason>,
}

impl Validity {
    /// Valid, perhaps with warnings.
    pub fn is_valid(&self) -> bool {
        self.invalid_reasons.is_empty()
    }
}

vocabulary! {
    /// What is wrong with a window. The thresholds are those of `validity`.
    pub enum Reason {
        /// No source gave an energy for this window.
        NoEnergySource = "no_energy_source", "no energy source";
        /// The window is shorter than the source needs.
        WindowTooShort = "window_too_short", "window too short";
        /// The two sources disagree by far more than their resolution explains.
        ResidualTooLarge = "residual_too_large", "residual too large";
        /// The two sources disagree by more than their resolution explains.
        ResidualNoticeable = "residual_noticeable", "residual noticeable";
        /// The counter's ticks at the window's edges aren't known closely enough.
        EdgesUncertain = "edges_uncertain", "edges uncertain";
        /// The samples leave more than 5 % of the window uncovered.
        CoverageTooLow = "coverage_too_low", "coverage too low";
        /// The energy counter went backwards inside the window.
        CounterReset = "counter_reset", "counter reset";
        /// The energy counter did not move inside the window.
        CounterStuck = "counter_stuck", "counter stuck";
        /// Energy is computed from a model, not measured.
        Modelled = "modelled", "modelled";
        /// Two passes over the same prompts gave different tokens.
        NondeterministicOutput = "nondeterministic_output", "nondeterministic output";
        /// Energy per output token is below what reading the weights once takes at idle power.
        PhysicallyImpossible = "physically_impossible", "physically impossible";
        /// Other processes computed on the GPU.
        ForeignProcess = "foreign_process", "foreign process";
        /// The GPU was slowed down by heat, hardware protection or a power brake.
        Throttled = "throttled", "throttled";
        /// The GPU's temperature changed by more than 3 °C over the window.
        TemperatureDrift = "temperature_drift", "temperature drift";
        /// The energy of the work may still have been changing by more than the protocol allows after the longest warm-up.
        NotSteady = "not_steady", "not steady";
        /// Batches repeat in step with the sensor's own rhythm.
        PhaseLocked = "phase_locked", "phase locked";
        /// The GPU is split by MIG, and the energy is the whole GPU's.
        MigShared = "mig_shared", "shared by MIG";
        /// Idle power before and after differs by more than 2 % of the net power.
        IdleDrift = "idle_drift", "idle drift";
        /// The second source is a trailing average, shifted by half its length.
        AveragedPower = "averaged_power", "averaged power";
    }
}

impl Reason {
    /// The meaning and the remedy, in a sentence.
    pub fn explanation(self) -> &'static str {
        match self {
            Reason::NoEnergySource => {
                "no source gave an energy for this window; `ept-sweep meter` says what this machine can measure"
            }
            Reason::WindowTooShort => {
                "the window is shorter than the energy source needs; raise `measure.window_s` or use `auto`"
            }
            Reason::ResidualTooLarge => {
                "the energy counter and the integrated power disagree by more than eight standard deviations of what their \
                 resolution explains: one of them is wrong; repeat on a quiet machine"
            }
            Reason::ResidualNoticeable => {
                "the energy counter and the integrated power disagree by more than three standard deviations of what \
                 their resolution explains; use a longer window"
            }
            Reason::EdgesUncertain => {
                "the counter's ticks next to the window's edges leave more than 0.5 % of its energy open, since the \
                 machine was too busy to read them closely; use a longer window"
            }
            Reason::CoverageTooLow => {
                "more than 5 % of the window has no power samples; other load may have starved the sampler"
            }
            Reason::CounterReset => "the energy counter went backwards inside the window; repeat the trial",
            Reason::CounterStuck => "the energy counter did not move inside the window; it can't be used here",
            Reason::Modelled => {
                "energy is computed from processor time and stated coefficients: suitable for trying \
                 the tool, not for publication"
            }
            Reason::NondeterministicOutput => {
                "two passes over the same prompts gave different tokens; the passes are not the same work"
            }
            Reason::PhysicallyImpossible => {
                "energy per output token is less than it takes to read the weights once; the measurement is wrong"
            }
            Reason::ForeignProcess => {
                "another process computed on the GPU, and its energy can't be separated; stop it and repeat"
            }
            Reason::Throttled => {
                "the GPU was slowed down by heat, hardware protection or a power brake, which isn't its normal state"
            }
            Reason::TemperatureDrift => {
                "the GPU's temperature changed by more than 3 °C over the window; raise `measure.max_warmup_s`"
            }
            Reason::NotSteady => {
                "after the longest warm-up the energy of the work may still have been changing by more than \
                 `measure.steady` allows; raise `measure.max_warmup_s`"
            }
            Reason::PhaseLocked => {
                "batches repeat in step with the sensor's rhythm, so it may always see the same part of them; change \
                 the batch size or the output length slightly and compare"
            }
            Reason::MigShared => {
                "the GPU is split by MIG: the energy is that of the whole GPU, including its other partitions"
            }
            Reason::IdleDrift => {
                "idle power before and after differs by more than 2 % of the net power; gross energy is valid, net is not"
            }
            Reason::AveragedPower => {
                "power is known only as the average of the last second, so the window's edges are blurred"
            }
        }
    }
}
