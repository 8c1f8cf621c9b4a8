//! What a run is: what was asked for, with which models, on which machine.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{CellSpec, EnergyMethod, MeterInfo, Role};
use crate::units::{Joules, Seconds};
use crate::vocabulary::vocabulary;

/// The contents of `run.json`: what was asked for, and where and with what it was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunInfo {
    /// Format version.
    pub format: u32,
    /// Name of the sweep.
    pub name: String,
    /// The question that the sweep asks.
    pub question: Option<String>,
    /// Prose of the author, printed in the report.
    pub notes: Option<String>,
    /// File name of the sweep file.
    pub sweep_file: String,
    /// Its text.
    pub sweep_yaml: String,
    /// SHA-256 of what the sweep means: comments and layout don't count.
    pub sweep_sha256: String,
    /// The models, in the order of the sweep file.
    pub models: Vec<ModelMeta>,
    /// All cells of the plan.
    pub cells: Vec<CellSpec>,
    /// Blocks (repeats of every cell); with adaptive repeats the fewest.
    pub blocks: u32,
    /// How it is measured.
    pub protocol: Protocol,
    /// The prompts of the energy windows.
    pub prompts: PromptInfo,
    /// SHA-256 over the prompts and references of the accuracy, where it is measured.
    #[serde(default)]
    pub accuracy_sha256: Option<String>,
    /// Relative difference in energy below which two cells count as equivalent.
    pub floor: f64,
    /// The starts that measured trials of this run: one unless the run was continued.
    pub parts: Vec<Part>,
}

/// A model as the study sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelMeta {
    /// Label.
    pub label: String,
    /// What it is in the study.
    pub role: Role,
    /// Label of its teacher.
    pub teacher: Option<String>,
    /// Where it comes from, as the sweep file says.
    pub source: String,
    /// The adapter that is merged into it, as the sweep file says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
    /// What training it cost, where the sweep file names a record of it.
    pub training: Option<TrainingCost>,
}

/// What training a model cost: the study amortises it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainingCost {
    /// How it was trained: `ce`, `kd` …
    #[serde(default)]
    pub recipe: Option<String>,
    /// Time in seconds.
    #[serde(default, rename = "seconds")]
    pub duration_s: Option<Seconds>,
    /// Energy in joules, where it was measured.
    #[serde(default)]
    pub energy_j: Option<Joules>,
    /// How the energy was obtained.
    #[serde(default)]
    pub energy_method: Option<EnergyMethod>,
    /// On what device.
    #[serde(default)]
    pub device: Option<String>,
}

/// The protocol of measuring, as it was used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Protocol {
    /// Shortest window.
    pub min_window_s: Seconds,
    /// Guard work before and after each window.
    pub guard_s: Seconds,
    /// Shortest warm-up for each trial.
    pub warmup_s: Seconds,
    /// Idle baseline for each load of a model.
    pub idle_s: Seconds,
    /// Seed of the order of trials.
    pub seed: u64,
    /// The preset that the sweep file chose.
    #[serde(default)]
    pub preset: Preset,
    /// Longest warm-up while temperature and speed aren't steady.
    #[serde(default)]
    pub max_warmup_s: Seconds,
    /// Rest before an idle baseline, for clocks to settle.
    #[serde(default)]
    pub settle_s: Seconds,
    /// How trials are ordered.
    #[serde(default)]
    pub order: Order,
    /// When repeats go on beyond the planned ones.
    #[serde(default)]
    pub adaptive: Option<Adaptive>,
    /// Each trial begins with a random wait of up to this long.
    #[serde(default, alias = "random_phase_s")]
    pub random_offset_s: Seconds,
}

vocabulary! {
    /// Default thoroughness, for keys that the sweep file leaves out.
    #[derive(Default)]
    pub enum Preset {
        /// To try something: 3 repeats of the shortest valid windows.
        Quick = "quick", "quick";
        /// For decisions: 5 repeats.
        #[default]
        Standard = "standard", "standard";
        /// For a paper: long windows, and repeats until the interval is narrow.
        Publication = "publication", "publication";
    }
}

vocabulary! {
    /// How trials are ordered.
    #[derive(Default)]
    pub enum Order {
        /// Every model is loaded in every block, so that a drift of the machine meets all of them alike.
        #[default]
        Blocks = "blocks", "block by block";
        /// Every model is loaded once, and all its repeats follow: for models too large to load again and again. A drift
        /// of the machine can then favour one of them.
        ByModel = "by_model", "model by model";
    }
}

/// When repeats end.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Adaptive {
    /// Half-width of each cell's 95 % interval, relative to its mean, at which no further block is measured.
    pub half_width: f64,
    /// Most blocks.
    pub max_repeats: u32,
}

/// The prompts of the energy windows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PromptInfo {
    /// Where they come from, as the sweep file says.
    pub source: String,
    /// How many.
    pub count: usize,
    /// SHA-256 over all of them.
    pub sha256: String,
}

/// One start of the program that measured trials of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// RFC 3339.
    pub started_at: String,
    /// Version of this program.
    pub version: String,
    /// Git revision it was built from, with `-dirty` where the tree had changes.
    pub git_revision: Option<String>,
    /// The machine.
    pub host: Host,
    /// What measured the energy.
    pub meter: MeterInfo,
    /// What the models are, by label, where they were loaded.
    pub models: BTreeMap<String, ModelInfo>,
    /// How prompts were put to each model, by label.
    #[serde(default)]
    pub prompt_forms: BTreeMap<String, PromptForm>,
}

/// The machine.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Host {
    /// Its name.
    pub hostname: Option<String>,
    /// Operating system and kernel.
    pub os: Option<String>,
    /// Processor.
    pub cpu: Option<String>,
    /// Logical processors that this process may use.
    pub cores: usize,
    /// Main memory in bytes.
    pub memory_bytes: Option<u64>,
}

/// How a model's prompts were put to it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct PromptForm {
    /// File that the chat template comes from; `None`: prompts went in as plain text.
    pub chat_template: Option<ChatTemplateInfo>,
    /// The model has a chat template that the sweep file didn't ask for.
    pub unused_template: bool,
    /// The longest prompt that was let through, in tokens, and from where longer ones were cut.
    pub limit: Option<PromptLimit>,
    /// What the limit did to the prompts of the energy windows.
    pub energy: Option<Truncated>,
    /// What it did to the prompts of the accuracy.
    pub accuracy: Option<Truncated>,
}

/// A chat template, and what was given to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChatTemplateInfo {
    /// The file that it comes from.
    pub source: String,
    /// SHA-256 of its text.
    pub sha256: String,
    /// The system prompt.
    pub system: Option<String>,
    /// Further names that it was given.
    pub variables: serde_json::Map<String, serde_json::Value>,
    /// What it took for today, `YYYY-MM-DD`.
    pub date: String,
}

/// The longest prompt, and what happens to longer ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptLimit {
    /// Tokens of a whole prompt.
    pub max_tokens: usize,
    /// From where a longer one is cut.
    pub truncate: Truncate,
}

vocabulary! {
    /// What happens to a prompt that is longer than the limit.
    #[derive(Default)]
    pub enum Truncate {
        #[default]
        None = "none", "refused";
        Left = "left", "cut at their beginning";
        Right = "right", "cut at their end";
    }
}

/// What truncation did to a list of prompts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Truncated {
    /// Prompts in the list.
    pub of: usize,
    /// Prompts that were cut.
    pub prompts: usize,
    /// Tokens that they lost together.
    pub tokens: u64,
}

impl PromptForm {
    /// Whether results under both forms can be pooled: they agree in everything that both know.
    pub fn agrees(&self, other: &Self) -> bool {
        let both = |a: Option<Truncated>, b: Option<Truncated>| a.zip(b).is_none_or(|(a, b)| a == b);
        let known = |form: &Self| (form.chat_template.clone(), form.limit);
        known(self) == known(other) && both(self.energy, other.energy) && both(self.accuracy, other.accuracy)
    }
}

/// A model as it was loaded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// The architecture as config.json names it.
    pub architecture: String,
    /// Which code ran it: `decoder`, `synthetic` …
    pub engine: String,
    /// Number of parameters.
    pub parameters: Option<u64>,
    /// Bytes of the weights as they are read in each decoding step.
    pub weight_bytes: Option<u64>,
    /// Data type it ran in.
    pub dtype: String,
    /// Data type of the weights on disk.
    pub stored_dtype: Option<String>,
    /// `cpu`, `cuda:0`.
    pub device: String,
    /// The revision, where the source has revisions.
    pub revision: Option<String>,
    /// SHA-256 of each file, by name.
    pub files: BTreeMap<String, String>,
    /// What was done differently from what was asked for.
    pub notes: Vec<String>,
}

/// The note of an engine that can't pad.
pub const GROUPED: &str =
    "prompts are grouped by equal length: a batch runs as one group after another, one for each length";

impl ModelInfo {
    /// Whether a batch ran as groups of prompts of equal length.
    pub fn is_grouped(&self) -> bool {
        self.notes.iter().any(|note| note == GROUPED)
    }
}
