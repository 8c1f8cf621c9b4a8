//! A run: what was asked for, with which models, on which machine.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use super::calibration::Calibration;
use super::cell::{CellSpec, EnergyMethod, Role};
use super::kernels::KernelsUsed;
use super::meter::MeterInfo;
use super::workload::Workload;
use crate::host::Host;
use crate::units::{Joules, Seconds};
use crate::vocabulary::vocabulary;

/// The contents of `run.json`: what was asked for, and where and with what it was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunInfo {
    /// Format version of `run.json`, from the start that created the run.
    pub format: u32,
    /// From the sweep file; by default the run is in `reports/<name>`.
    pub name: String,
    /// The question that the sweep asks.
    pub question: Option<String>,
    /// Prose of the author, printed in the report.
    pub notes: Option<String>,
    /// File name of the sweep file.
    pub sweep_file: String,
    /// The text of the sweep file.
    pub sweep_yaml: String,
    /// SHA-256 of the sweep's meaning: comments and layout don't count.
    pub sweep_sha256: String,
    /// The models, in the order of the sweep file.
    pub models: Vec<ModelMeta>,
    /// All cells of the plan.
    pub cells: Vec<CellSpec>,
    /// Blocks (repeats of every cell); with adaptive repeats the fewest.
    pub blocks: u32,
    /// How every trial of the run is measured: the sweep file's settings, completed by the preset and the meter.
    pub protocol: Protocol,
    /// The prompts of the energy windows.
    pub prompts: PromptInfo,
    /// SHA-256 over the prompts and references of the accuracy, if it is measured.
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
    /// As in the sweep file; names the model in cells, tables and figures.
    pub label: String,
    /// As in the sweep file: decides which models are compared with which.
    pub role: Role,
    /// Label of its teacher.
    pub teacher: Option<String>,
    /// Where it comes from, as the sweep file says.
    pub source: String,
    /// The adapter that is merged into it, as the sweep file says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
    /// The cost of training it, if the sweep file names a record of that.
    pub training: Option<TrainingCost>,
}

/// The cost of training a model: the report says after how many tokens it is recovered.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct TrainingCost {
    /// How it was trained: `ce`, `kd` …
    #[serde(default)]
    pub recipe: Option<String>,
    /// Time that training took; `seconds` in the training record, `None` if that has only the energy.
    #[serde(default, rename = "seconds")]
    pub duration_s: Option<Seconds>,
    /// `None` if it wasn't measured.
    #[serde(default)]
    pub energy_j: Option<Joules>,
    /// A measured saving never pays back a modelled energy, nor the reverse; `None`: there is no break-even.
    #[serde(default)]
    pub energy_method: Option<EnergyMethod>,
    /// What it was trained on, in the training record's words.
    #[serde(default)]
    pub device: Option<String>,
    /// Its stages, such as training the teacher, labelling and training the student; all occurrences of one name
    /// together. They needn't add up to the whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<TrainingStage>,
    /// Why the record's author uses it although the training failed or its energy isn't valid, in the author's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<String>,
}

/// A stage of a training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainingStage {
    /// As the training named it.
    pub name: String,
    /// `None` if it isn't recorded.
    #[serde(rename = "seconds")]
    pub duration_s: Option<Seconds>,
    /// `None` if it wasn't measured, or was too short for that.
    pub energy_j: Option<Joules>,
}

/// How trials were measured.
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
    /// Where the sweep file's missing keys got their values; `Standard` in records that don't say.
    #[serde(default)]
    pub preset: Preset,
    /// Longest warm-up while the work isn't steady, apart from what makes good a rest before it.
    #[serde(default)]
    pub max_warmup_s: Seconds,
    /// What may still be to come of the energy's approach to its steady state when a warm-up ends, as a share of it (its bound may be twice that); `None`
    /// in records of programs that looked at temperature and speed instead.
    #[serde(default)]
    pub steady: Option<f64>,
    /// Rest before an idle baseline, for clocks to settle.
    #[serde(default)]
    pub settle_s: Seconds,
    /// How often models are loaded; `Blocks` in records that don't say.
    #[serde(default)]
    pub order: Order,
    /// Whether the orders of models and cells are balanced over blocks; false in records that don't say: each block was
    /// shuffled by itself.
    #[serde(default)]
    pub balanced: bool,
    /// Whether repeats continue beyond the planned ones.
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
        /// Every model is loaded once, and all its repeats follow: for models too large to load again and again. A
        /// drift of the machine can then favour one of them.
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
    /// Prompts in one pass, after sampling from the source.
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
    /// Git revision it was built from, with `-dirty` if the tree had changes.
    pub git_revision: Option<String>,
    /// The machine as this start found it.
    pub host: Host,
    /// The meter with its sources, as this start found them.
    pub meter: MeterInfo,
    /// The models that were loaded, by label.
    #[serde(deserialize_with = "read_models")]
    pub models: BTreeMap<String, ModelInfo>,
    /// How prompts were put to each model, by label.
    #[serde(default)]
    pub prompt_forms: BTreeMap<String, PromptForm>,
    /// What reading and multiplying cost on the devices of the models, in each of their data types: measured by this
    /// start, or taken over from an earlier one or from a file. Empty: no energy floor is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calibrations: Vec<Calibration>,
}

/// How a model's prompts were put to it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct PromptForm {
    /// File that the chat template comes from; `None`: prompts went in as plain text.
    pub(crate) chat_template: Option<ChatTemplateInfo>,
    /// The model has a chat template that the sweep file didn't ask for.
    pub(crate) unused_template: bool,
    /// The longest prompt allowed, and from where longer ones were cut.
    pub(crate) limit: Option<PromptLimit>,
    /// What the limit did to the prompts of the energy windows.
    pub(crate) energy: Option<Truncated>,
    /// What it did to the prompts of the accuracy.
    pub(crate) accuracy: Option<Truncated>,
}

/// A chat template and its input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ChatTemplateInfo {
    /// The file that it comes from.
    pub(crate) source: String,
    /// SHA-256 of its text.
    pub(crate) sha256: String,
    pub(crate) system: Option<String>,
    /// Further variables of the template.
    pub(crate) variables: serde_json::Map<String, serde_json::Value>,
    /// The date that it took as today, `YYYY-MM-DD`.
    pub(crate) date: String,
}

/// The longest prompt, and what happens to longer ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PromptLimit {
    /// Tokens of a whole prompt.
    pub(crate) max_tokens: usize,
    pub(crate) truncate: Truncate,
}

vocabulary! {
    /// What happens to a prompt that is longer than the limit.
    #[derive(Default)]
    pub(crate) enum Truncate {
        #[default]
        None = "none", "refused";
        Left = "left", "cut at their beginning";
        Right = "right", "cut at their end";
    }
}

/// What truncation did to a list of prompts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Truncated {
    /// Prompts in the list.
    pub(crate) of: usize,
    /// Prompts that were cut.
    pub(crate) prompts: usize,
    /// Tokens that those lost together.
    pub(crate) tokens: u64,
}

impl PromptForm {
    /// Whether results under both forms can be pooled: they agree in everything that both know.
    pub(crate) fn agrees(&self, other: &Self) -> bool {
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
    /// The code that ran it: `decoder`, `synthetic` …
    pub engine: String,
    /// A tied output layer isn't counted twice; `None`: a synthetic model that states no number.
    pub parameters: Option<u64>,
    /// Bytes of the weights that each decode step reads.
    pub weight_bytes: Option<u64>,
    /// Data type of weights and activations while running.
    pub dtype: String,
    /// Data type of the weights on disk.
    pub stored_dtype: Option<String>,
    /// `cpu`, `cuda:0`.
    pub device: String,
    /// `None` if the source has no revisions.
    pub revision: Option<String>,
    /// SHA-256 of each file, by name.
    pub files: BTreeMap<String, String>,
    /// What the engine does with prompts of different lengths.
    #[serde(default)]
    pub padding: Padding,
    /// The random numbers that its weights are; `None`: trained weights, or a record of an earlier version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dummy: Option<DummyWeights>,
    /// The operations that it ran on; `None`: a simulated model, or a record of an earlier version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernels: Option<KernelsUsed>,
    /// Why it didn't run on faster kernels although the sweep file leaves the choice open: one text for each part of
    /// the model, or property of the run, that they don't cover.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fallback: Vec<String>,
    /// The work that its shapes ask for; `None` if the engine doesn't know it, and in records of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<Workload>,
    /// Kernels that a decode step launches; a graph's kernels count one by one. `None` if the engine doesn't know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launches_per_step: Option<u32>,
    /// For the reader: what was done differently from what was asked for.
    pub notes: Vec<String>,
}

/// Random numbers in place of trained weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DummyWeights {
    /// Varies the numbers.
    pub seed: u64,
    /// How the numbers of matrices and tables are distributed.
    pub distribution: DummyDistribution,
}

vocabulary! {
    /// How dummy weights are distributed: the power of a matrix product depends on the bits that go into it.
    #[derive(Default)]
    pub enum DummyDistribution {
        /// Mean 0 and standard deviation 0.02, as trained weights roughly are.
        #[default]
        Gaussian = "gaussian", "Gaussian";
        /// The same mean and deviation, every value between the ends as likely.
        Uniform = "uniform", "uniform";
        /// All bits are 0: the least power that these shapes can draw.
        Zeros = "zeros", "zeros";
    }
}

vocabulary! {
    /// How an engine puts prompts of different lengths into one batch.
    #[derive(Default)]
    pub enum Padding {
        /// Shorter prompts are padded on the left, so the batch runs as one.
        #[default]
        Left = "left", "padded on the left";
        /// It can't pad: the batch runs as one group after another, each of prompts of equal length.
        Grouped = "grouped", "grouped by length";
    }
}

impl ModelInfo {
    /// Whether a batch ran as groups of prompts of equal length.
    pub fn is_grouped(&self) -> bool {
        self.padding == Padding::Grouped
    }
}

/// The note by which records of format 2 and older say that the engine can't pad.
const GROUPED_IN_FORMAT_2: &str =
    "prompts are grouped by equal length: a batch runs as one group after another, one for each length";

fn read_models<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, ModelInfo>, D::Error> {
    let mut models: BTreeMap<String, ModelInfo> = Deserialize::deserialize(deserializer)?;
    for model in models.values_mut().filter(|model| model.notes.iter().any(|note| note == GROUPED_IN_FORMAT_2)) {
        model.padding = Padding::Grouped;
    }
    Ok(models)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(model: &str) -> Padding {
        let part = format!(
            r#"{{"started_at":"2026-01-01T00:00:00Z","version":"0.1.0","git_revision":null,"host":{{"hostname":null,
            "os":null,"cpu":null,"cores":1,"memory_bytes":null}},"meter":{{"name":"synthetic","method":"simulated",
            "domains":[],"tick_s":null,"min_window_s":0,"guard_s":0,"idle_s":0,"notes":[]}},"models":{{"m":{{
            "architecture":"a","engine":"e","parameters":null,"weight_bytes":null,"dtype":"f32","stored_dtype":null,
            "device":"cpu","revision":null,"files":{{}},{model}}}}}}}"#
        );
        serde_json::from_str::<Part>(&part).unwrap().models["m"].padding
    }

    #[test]
    fn a_model_that_could_not_pad_is_known_also_from_a_record_that_says_so_only_in_a_note() {
        let sentence =
            "prompts are grouped by equal length: a batch runs as one group after another, one for each length";
        assert_eq!(read(&format!(r#""notes":["{sentence}"]"#)), Padding::Grouped);
        assert_eq!(read(r#""notes":["another note"]"#), Padding::Left);
        assert_eq!(read(r#""padding":"grouped","notes":["a sentence that was reworded"]"#), Padding::Grouped);
        assert_eq!(read(r#""padding":"left","notes":[]"#), Padding::Left);
    }
}
