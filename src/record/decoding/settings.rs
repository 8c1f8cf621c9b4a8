//! The settings themselves.

use serde::{Deserialize, Serialize};

/// How tokens are chosen. Written as `greedy`, `{sample: {…}}` or `{beam: {…}}`.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Decoding {
    /// The most likely token of each step; the lowest id of several.
    #[default]
    Greedy,
    /// A token drawn at each step.
    Sample(Sampling),
    /// The most likely of several sequences that are followed side by side.
    Beam(BeamSearch),
}

/// Settings of sampling. Names, defaults and order are those of Hugging Face transformers: logits are divided by the
/// temperature, then `top_k`, `top_p` and `min_p` each leave fewer tokens, and one of those left is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sampling {
    /// Logits are divided by it: below 1 the draw favours likely tokens more than the model does.
    pub temperature: f64,
    /// Only this many of the most likely tokens are left (more if the last of them is tied); 0: all.
    pub top_k: usize,
    /// Only the most likely tokens are left whose probabilities add up to this, with the one that crosses it; 1: all.
    pub top_p: f64,
    /// Only tokens are left that have at least this share of the largest probability; left out: all.
    pub min_p: Option<f64>,
    /// Seed of the draw.
    pub seed: u64,
}

/// Settings of beam search. Names, defaults and meaning are those of Hugging Face transformers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BeamSearch {
    /// Sequences that are followed for each prompt.
    pub num_beams: usize,
    /// A sequence's score is its log-probability over its length to this power: above 0 longer answers gain.
    #[serde(default = "default_length_penalty")]
    pub length_penalty: f64,
    /// When the search of a prompt ends, once `num_beams` sequences have ended.
    #[serde(default)]
    pub early_stopping: EarlyStopping,
}

fn default_length_penalty() -> f64 {
    1.0
}

/// When the search of a prompt ends, once `num_beams` sequences have ended. Written as `false`, `true` or `never`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EarlyStopping {
    /// `false`: when the best open sequence, scored at its present length, is no better than the worst ended one.
    #[default]
    Likely,
    /// `true`: at once.
    Always,
    /// `never`: when no open sequence can become better than the worst ended one, also if a positive length penalty
    /// favours longer ones.
    Never,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 1.0, top_k: 50, top_p: 1.0, min_p: None, seed: 42 }
    }
}

impl Decoding {
    /// Sequences that are computed side by side for one prompt.
    pub(crate) fn sequences_per_prompt(&self) -> usize {
        match self {
            Decoding::Greedy | Decoding::Sample(_) => 1,
            Decoding::Beam(beam) => beam.num_beams,
        }
    }

    /// Whether an answer to a longer limit begins with the answer to a shorter one. A beam search may choose another
    /// sequence.
    pub(crate) fn prolongs(&self) -> bool {
        !matches!(self, Decoding::Beam(_))
    }
}
