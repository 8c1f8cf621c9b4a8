//! What is stored on disk: the types of `run.json`, `records.jsonl` and `generations.jsonl`, with a format version.
//!
//! Everything downstream of measuring reads these types and nothing else. Derived numbers are not stored:
//! they are recomputed from what is here.

mod decoding;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

pub use self::decoding::{BadSetting, BeamSearch, Decoding, EarlyStopping, Sampling};
use crate::units::{Joules, JoulesPerToken, Seconds, Tokens, Watts};

/// Version of everything in a run directory. Readers refuse a newer one.
pub const FORMAT: u32 = 1;

/// A readable name of a cell, unique in its sweep: `teacher.b8.n32`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CellId(pub String);

impl fmt::Display for CellId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a model is in the study.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Neither teacher nor student: measured for its own sake.
    #[default]
    Model,
    /// The large model that others are compared with.
    Teacher,
    /// A smaller model distilled from its teacher.
    Student,
    /// A model of the student's size trained without the teacher: what distillation is compared with.
    Control,
}

/// When a sequence ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputLength {
    /// At the first end-of-sequence token, or at the limit.
    #[default]
    Natural,
    /// At the limit only, with every end-of-sequence token masked, so that every cell produces the same number
    /// of tokens.
    Fixed,
}

/// Where an energy figure comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EnergyMethod {
    /// Difference of a hardware energy counter (NVML's total energy, RAPL).
    Counter,
    /// Time integral of sampled power.
    PowerIntegral,
    /// Computed from processor time and stated coefficients: not a measurement.
    Modelled,
    /// A simulated device with known power: for tests of the tool itself.
    Simulated,
}

/// The axes of one cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CellSpec {
    /// The readable name.
    pub id: CellId,
    /// Label of the model.
    pub model: String,
    /// Sequences that are decoded together.
    pub batch_size: usize,
    /// Upper limit of new tokens a sequence (the exact number in `fixed` length).
    pub max_new_tokens: usize,
    /// Data type of weights and activations while running: `f32`, `f16`, `bf16`.
    pub dtype: String,
    /// When a sequence ends.
    pub output_length: OutputLength,
    /// How its tokens are chosen.
    #[serde(default)]
    pub decoding: Decoding,
    /// The model's weights are made up: energy of an architecture, answers without meaning.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dummy_weights: bool,
}

/// One line of `records.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Line {
    /// A cell measured once, in one block.
    Trial(Box<Trial>),
    /// A model's accuracy, outside of every energy window.
    Evaluation(Box<Evaluation>),
}

/// One cell in one block: the unit that is run, recorded and resumed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Format version of this line.
    pub format: u32,
    /// The cell.
    pub cell: CellSpec,
    /// Which repeat, from 0.
    pub block: u32,
    /// Index into `RunInfo::parts` of the start that measured this trial.
    pub part: usize,
    /// Wall-clock time at which the trial started, RFC 3339.
    pub started_at: String,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a trial. A failure is a row with a kind and a message, never a zero.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// A window was measured; its energy may still be unknown (`null`) or the window invalid.
    Measured(Box<Measurement>),
    /// The trial broke.
    Failed {
        /// What kind of failure.
        failure: FailureKind,
        /// What went wrong, with the hint.
        message: String,
    },
    /// The trial was not tried.
    Skipped {
        /// Why.
        message: String,
    },
}

/// What kind of failure ended a trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The model could not be loaded.
    Load,
    /// The prompts could not be tokenised or are too long for the model.
    Prompt,
    /// The engine failed while generating.
    Engine,
    /// Out of memory.
    OutOfMemory,
    /// The meter failed.
    Meter,
}

/// One measured window and what belongs to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// The window of time.
    pub window: Window,
    /// Input tokens processed inside the window: the sum of the attention masks over all passes.
    pub tokens_in: Tokens,
    /// Output tokens generated inside the window; the end-of-sequence token counts, padding never does.
    pub tokens_out: Tokens,
    /// Padding positions that prefill processed beside `tokens_in`.
    pub tokens_pad: Tokens,
    /// UTF-8 bytes of the generated text over all passes, for comparing models with different tokenizers.
    pub output_bytes: Option<u64>,
    /// Gross energy of the window.
    pub energy: WindowEnergy,
    /// Idle baseline with the model resident, measured next to this trial's model load.
    pub idle: Option<IdleBaseline>,
    /// What loading this model took; shared by the trials of one load.
    pub load: Cost,
    /// What warming up for this trial took.
    pub warmup: Cost,
    /// Whether the figure may be used, and why not.
    pub validity: Validity,
}

/// Whole passes over one fixed prompt list between two instants of the run's clock.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// Start, on the clock of the trace.
    pub t0_s: Seconds,
    /// End, on the clock of the trace.
    pub t1_s: Seconds,
    /// Whole passes over the prompt list.
    pub passes: u32,
    /// Batches in all passes together.
    pub batches: u32,
    /// Prompts in all passes together.
    pub prompts: u32,
}

impl Window {
    /// How long the window lasted.
    pub fn duration(&self) -> Seconds {
        self.t1_s - self.t0_s
    }
}

/// Gross energy of a window, with everything that says how far it can be trusted.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct WindowEnergy {
    /// Sum over the domains of the primary source; `None` where nothing was measured.
    pub total_j: Option<Joules>,
    /// Where `total_j` comes from.
    pub method: Option<EnergyMethod>,
    /// The domains one by one: `gpu0`, `package-0`, `dram-0`, `cpu`.
    pub domains: Vec<DomainEnergy>,
    /// The same energy by the second source (time integral of power), where there is one.
    pub integral_j: Option<Joules>,
    /// (counter − integral) / counter.
    pub residual: Option<f64>,
    /// Share of the window that the second source's samples cover.
    pub coverage: Option<f64>,
    /// Longest gap between samples of the second source inside the window.
    pub max_gap_s: Option<Seconds>,
    /// Time between two ticks of the primary counter.
    pub tick_s: Option<Seconds>,
}

/// Energy of one domain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DomainEnergy {
    /// `gpu0`, `package-0`, `dram-0`, `cpu` …
    pub domain: String,
    /// Energy inside the window.
    pub energy_j: Joules,
    /// How it was obtained.
    pub method: EnergyMethod,
}

/// Power without work, with the model resident.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct IdleBaseline {
    /// Mean power.
    pub power_w: Watts,
    /// How long it was measured.
    pub duration_s: Seconds,
}

/// What something beside the window took.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Cost {
    /// Time.
    pub duration_s: Seconds,
    /// Energy, where it was measured.
    pub energy_j: Option<Joules>,
}

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
    /// The power samples of the window could not be stored.
    SamplesLost,
}

impl Reason {
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
            Reason::SamplesLost => "samples_lost",
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
            Reason::SamplesLost => "the power samples of the window could not be stored",
        }
    }
}

/// What one source said over time, on the clock of the run.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Trace {
    /// One entry for each domain and quantity.
    pub sources: Vec<SourceTrace>,
}

/// The readings of one source.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceTrace {
    /// `gpu0`, `package-0`, `cpu` …
    pub domain: String,
    /// What the values are.
    pub quantity: Quantity,
    /// How an energy from this source is to be labelled.
    pub method: EnergyMethod,
    /// Time between two updates of the source, where it is known: 100 ms for NVML's counter.
    pub tick: Option<Seconds>,
    /// The readings, in order of time.
    pub samples: Vec<Sample>,
}

/// What a source reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Quantity {
    /// A running total in joules: energy is a difference.
    EnergyCounter,
    /// Power in watts: energy is a time integral.
    Power,
}

/// One reading.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// When, on the clock of the run.
    pub t: Seconds,
    /// Joules or watts, as the source's quantity says.
    pub value: f64,
}

/// A model's accuracy on one data set at one output length, outside of every energy window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Format version of this line.
    pub format: u32,
    /// Label of the model.
    pub model: String,
    /// Data type it ran in.
    pub dtype: String,
    /// Output length at which the answers were cut.
    pub max_new_tokens: usize,
    /// The data set as the sweep file names it.
    pub dataset: String,
    /// SHA-256 over the prompts and references that were scored.
    pub dataset_sha256: String,
    /// Time that the evaluation took.
    pub duration_s: Seconds,
    /// One entry for each prompt, in the order of the sampled data set (the same for every model of a run).
    pub items: Vec<ItemScore>,
    /// Why there are no scores, where the evaluation failed.
    pub error: Option<String>,
}

/// The score of one answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ItemScore {
    /// Category of the prompt, where the data set names one.
    pub category: Option<String>,
    /// The answer equals the reference after trimming.
    pub exact_match: bool,
    /// ROUGE-L F1 (Lin 2004) against the reference.
    pub rouge_l: f64,
    /// Tokens of the answer, the end-of-sequence token included.
    pub tokens_out: u32,
    /// What the model wrote.
    pub answer: String,
}

/// One line of `generations.jsonl`: what a model wrote for one prompt of a cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GenerationLine {
    /// Format version of this line.
    pub format: u32,
    /// The cell.
    pub cell: CellId,
    /// Index into the prompt list.
    pub prompt_index: usize,
    /// The prompt as the model saw it.
    pub prompt: String,
    /// Input tokens.
    pub tokens_in: u32,
    /// Output token ids, the end-of-sequence token included.
    pub output_ids: Vec<u32>,
    /// Text of the output without special tokens; in `fixed` length the whole of it.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
    /// In `fixed` length: how many tokens the natural answer has (its end-of-sequence token included), where it
    /// would have ended.
    pub natural_length: Option<u32>,
}

/// Why a sequence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// At an end-of-sequence token.
    Eos,
    /// At the limit of new tokens.
    Length,
}

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
    /// Blocks (repeats of every cell).
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

/// What happens to a prompt that is longer than the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Truncate {
    /// It is an error.
    #[default]
    None,
    /// It loses its beginning.
    Left,
    /// It loses its end.
    Right,
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

/// What measures the energy, and what it can do here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MeterInfo {
    /// `nvml`, `rapl`, `modelled`, `synthetic`.
    pub name: String,
    /// How energies from it are labelled.
    pub method: EnergyMethod,
    /// What it covers: `gpu0`, `package-0` …
    pub domains: Vec<Domain>,
    /// Time between two updates of the primary source.
    pub tick_s: Option<Seconds>,
    /// Shortest window that the source can measure well.
    pub min_window_s: Seconds,
    /// Guard work that a window needs at each edge so that a tick falls inside the load.
    pub guard_s: Seconds,
    /// How long an idle baseline should last.
    pub idle_s: Seconds,
    /// What a reader has to know: coefficients of the model, what isn't covered.
    pub notes: Vec<String>,
}

/// One domain of a meter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Domain {
    /// `gpu0`, `package-0` …
    pub name: String,
    /// What it is: the GPU's name and UUID, the RAPL zone's path …
    pub description: String,
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

impl Measurement {
    /// Energy per input token: E / T_in.
    pub fn ept_in(&self) -> Option<JoulesPerToken> {
        self.energy.total_j?.per_token(self.tokens_in)
    }

    /// Energy per output token: E / T_out.
    pub fn ept_out(&self) -> Option<JoulesPerToken> {
        self.energy.total_j?.per_token(self.tokens_out)
    }

    /// Energy per token: E / (T_in + T_out).
    pub fn ept_total(&self) -> Option<JoulesPerToken> {
        self.energy.total_j?.per_token(self.tokens_in + self.tokens_out)
    }

    /// Energy above the idle baseline.
    pub fn net_energy(&self) -> Option<Joules> {
        Some(self.energy.total_j? - self.idle?.power_w * self.window.duration())
    }
}
