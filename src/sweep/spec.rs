//! The sweep file as types: the meaning and default of each key, and nothing about how it is carried out.

use std::path::PathBuf;

use serde::{Deserialize as DeriveDeserialize, Serialize};

use crate::record::{Decoding, KernelsChoice, OutputLength};
use crate::sweep::default::default_seed;
use crate::sweep::measure::MeasureSpec;

pub(crate) use crate::sweep::axis::Axes;
pub(crate) use crate::sweep::default::Auto;
pub(crate) use crate::sweep::model::{Dtype, ModelSource, ModelSpec, WeightsChoice};
pub(crate) use crate::sweep::prompts::{PromptSpec, TemplateChoice};

/// A whole sweep file.
#[derive(Debug, Clone, PartialEq, DeriveDeserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SweepSpec {
    /// Names the run directory: `reports/<name>`.
    pub(crate) name: String,
    /// The question that the sweep asks; the report opens with it.
    pub(crate) question: Option<String>,
    /// Prose printed in the report.
    pub(crate) notes: Option<String>,
    /// The models.
    pub(crate) models: Vec<ModelSpec>,
    /// The axes; every model runs at every combination unless it names axes of its own.
    pub(crate) sweep: Axes,
    /// The prompts of the energy windows.
    pub(crate) prompts: PromptSpec,
    /// How text is generated.
    #[serde(default)]
    pub(crate) generation: GenerationSpec,
    /// How models are run.
    // left out of the fingerprint unless it is set, so that runs from before there was this key stay what they are
    #[serde(default, skip_serializing_if = "EngineSpec::is_default")]
    pub(crate) engine: EngineSpec,
    /// How energy is measured.
    #[serde(default)]
    pub(crate) measure: MeasureSpec,
    /// How answers are scored; left out, no accuracy is measured.
    pub(crate) accuracy: Option<AccuracySpec>,
    /// How results are judged and reported.
    #[serde(default)]
    pub(crate) report: ReportSpec,
}

/// How text is generated.
#[derive(Debug, Clone, Copy, PartialEq, Default, DeriveDeserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct GenerationSpec {
    /// `natural` or `fixed`.
    pub(crate) length: OutputLength,
    /// `greedy`, `{sample: {…}}` or `{beam: {…}}`.
    pub(crate) decoding: Decoding,
}

/// How models are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, DeriveDeserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct EngineSpec {
    /// `auto` or `plain`.
    pub(crate) kernels: KernelsChoice,
}

impl EngineSpec {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// How answers are scored.
#[derive(Debug, Clone, PartialEq, DeriveDeserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AccuracySpec {
    /// A `.jsonl` file in Dolly's schema, with a `response` in each row; relative to the sweep file.
    pub(crate) file: PathBuf,
    /// How many rows to draw; left out, all.
    pub(crate) count: Option<usize>,
    /// Seed of the draw.
    #[serde(default = "default_seed")]
    pub(crate) seed: u64,
    /// Sequences decoded together while scoring.
    #[serde(default = "default_accuracy_batch")]
    pub(crate) batch_size: usize,
}

fn default_accuracy_batch() -> usize {
    16
}

/// How results are judged and reported.
#[derive(Debug, Clone, PartialEq, DeriveDeserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ReportSpec {
    /// Relative difference in energy below which two cells count as equivalent.
    pub(crate) floor: f64,
}

/// Relative difference in energy below which two cells count as equivalent, unless a sweep or a flag says otherwise.
pub(crate) const DEFAULT_FLOOR: f64 = 0.01;

impl Default for ReportSpec {
    fn default() -> Self {
        Self { floor: DEFAULT_FLOOR }
    }
}

impl SweepSpec {
    /// SHA-256 over what the file means: comments, layout and the order of keys don't count.
    pub(crate) fn fingerprint(&self) -> String {
        // a sweep file holds strings, numbers and lists only: writing it as JSON can't fail
        let canonical = serde_json::to_string(self).unwrap_or_default();
        crate::digest::sha256_hex(canonical.as_bytes())
    }

    /// The model with this label.
    pub fn model(&self, label: &str) -> Option<&ModelSpec> {
        self.models.iter().find(|model| model.label == label)
    }
}
