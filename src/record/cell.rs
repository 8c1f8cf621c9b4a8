//! What a cell is: its name, its axes, and what is said of its model and its energy.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::decoding::Decoding;
use crate::vocabulary::vocabulary;

/// A readable name of a cell, unique in its sweep: `teacher.b8.n32`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CellId(pub String);

impl fmt::Display for CellId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

vocabulary! {
    /// A model's part in the study.
    #[derive(Default)]
    pub enum Role {
        /// Neither teacher nor student: measured for its own sake.
        #[default]
        Model = "model", "model";
        /// The large model that others are compared with.
        Teacher = "teacher", "teacher";
        /// A smaller model distilled from its teacher.
        Student = "student", "student";
        /// A model of the student's size trained without the teacher: what distillation is compared with.
        Control = "control", "control";
    }
}

vocabulary! {
    /// When a sequence ends.
    #[derive(Default)]
    pub enum OutputLength {
        /// At the first end-of-sequence token, or at the output length.
        #[default]
        Natural = "natural", "natural";
        /// At the output length only, with every end-of-sequence token masked, so that every cell produces the same
        /// number of tokens.
        Fixed = "fixed", "fixed";
    }
}

vocabulary! {
    /// Where an energy comes from, the most trustworthy first: a sum is labelled with the last of its parts' methods.
    pub enum EnergyMethod {
        /// Difference of a hardware energy counter (NVML's total energy, RAPL).
        Counter = "counter", "energy counter";
        /// Time integral of sampled power.
        PowerIntegral = "power_integral", "integrated power";
        /// Computed from processor time and stated coefficients: not a measurement.
        Modelled = "modelled", "modelled";
        /// A simulated device with known power: for tests of the tool itself.
        Simulated = "simulated", "simulated";
    }
}

/// The axes of one cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CellSpec {
    /// Unique in the sweep; results refer to the cell by it.
    pub id: CellId,
    /// Label of the model.
    pub model: String,
    /// Sequences that are decoded together.
    pub batch_size: usize,
    /// Output length: the most new tokens of a sequence (the exact number in `fixed` length).
    pub max_new_tokens: usize,
    /// Data type of weights and activations while running: `f32`, `f16`, `bf16`.
    pub dtype: String,
    /// Whether an end-of-sequence token may end a sequence before `max_new_tokens`.
    pub output_length: OutputLength,
    /// How tokens are chosen; greedy in records that don't say.
    #[serde(default)]
    pub decoding: Decoding,
    /// The model has dummy weights: the energy is that of its architecture, and the answers have no meaning.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dummy_weights: bool,
    /// Measured only to separate prefill from decode: in no comparison and no headline.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub probe: bool,
}
