//! Trials and their measurements; what a model wrote, and its score.

use serde::{Deserialize, Serialize};

use super::cell::{CellId, CellSpec};
use super::energy::{Conditions, IdleBaseline, PhaseSplit, WindowEnergy};
use super::heat::Heat;
use super::reason::Validity;
use crate::units::{Joules, JoulesPerToken, Seconds, Tokens};
use crate::vocabulary::vocabulary;

/// One line of `records.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Line {
    /// A cell measured once, in one block.
    Trial(Box<Trial>),
    /// A model's accuracy, outside of every energy window.
    Evaluation(Box<Evaluation>),
    /// Idle power before or after a model's trials of one block.
    Baseline(Box<Baseline>),
}

/// Idle power with the model loaded, before or after its trials of one block: the two bracket them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// Format version of this line.
    pub format: u32,
    /// Label of the model.
    pub model: String,
    /// From 0, as in the trials between the two baselines.
    pub block: u32,
    /// Index into `RunInfo::parts`.
    pub part: usize,
    /// On which side of those trials it was taken.
    pub time: BaselineTime,
    /// Kept apart: stored energies are gross, nothing is subtracted from them.
    pub idle: IdleBaseline,
}

vocabulary! {
    /// When a baseline was taken.
    pub enum BaselineTime {
        /// Right after loading.
        Before = "before", "before";
        /// After the last trial.
        After = "after", "after";
    }
}

/// One cell in one block: the unit that is run, recorded and resumed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Format version of this line.
    pub format: u32,
    /// All axes of the cell, so that the line can be read without `run.json`.
    pub cell: CellSpec,
    /// From 0.
    pub block: u32,
    /// Index into `RunInfo::parts` of the start that measured this trial.
    pub part: usize,
    /// Wall-clock time at which the trial started, RFC 3339.
    pub started_at: String,
    /// What was measured, or why nothing was.
    pub outcome: Outcome,
}

/// Names a trial within its run.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrialKey {
    /// As in the plan of the run, such as `teacher.b8.n32`.
    pub cell: CellId,
    /// From 0.
    pub block: u32,
}

impl Trial {
    pub(crate) fn key(&self) -> TrialKey {
        TrialKey { cell: self.cell.id.clone(), block: self.block }
    }

    /// What was measured; `None` if the trial failed or was skipped.
    pub fn measurement(&self) -> Option<&Measurement> {
        match &self.outcome {
            Outcome::Measured(measurement) => Some(measurement),
            Outcome::Failed { .. } | Outcome::Skipped { .. } => None,
        }
    }
}

/// The outcome of a trial. A failure is a row with a kind and a message, never a zero.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// A window was measured; its energy may still be unknown (`null`) or the window invalid.
    Measured(Box<Measurement>),
    /// The trial started and could not be finished.
    Failed {
        /// What broke, as a stable code.
        failure: FailureKind,
        /// The error, with its hint.
        message: String,
    },
    /// The trial was not attempted.
    Skipped {
        /// Why: too little memory, by an estimate or since a cell that needs no more ran out of it.
        message: String,
    },
}

vocabulary! {
    /// What ended a trial.
    pub enum FailureKind {
        /// The model could not be loaded.
        Load = "load", "loading";
        /// The prompts could not be tokenised or are too long for the model.
        Prompt = "prompt", "prompts";
        /// The engine failed while generating.
        Engine = "engine", "engine";
        /// The device had too little memory for the cell; cells that need as much or more are then skipped.
        OutOfMemory = "out_of_memory", "out of memory";
        /// The meter failed, whatever it was measuring.
        Meter = "meter", "meter";
    }
}

/// One measured window, with its context.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// Its times find the window in the trace.
    pub window: Window,
    /// Input tokens processed inside the window: the sum of the attention masks over all passes.
    pub tokens_in: Tokens,
    /// Output tokens generated inside the window; the end-of-sequence token counts, padding never does.
    pub tokens_out: Tokens,
    /// Padding positions that prefill processed in addition to `tokens_in`.
    pub tokens_pad: Tokens,
    /// UTF-8 bytes of the generated text over all passes, for comparing models with different tokenizers.
    pub output_bytes: Option<u64>,
    /// Gross energy of the window.
    pub energy: WindowEnergy,
    /// Idle baseline with the model loaded, measured right after this trial's load of the model.
    pub idle: Option<IdleBaseline>,
    /// The cost of loading this model; shared by the trials of one load.
    pub load: Cost,
    /// The cell's own batches between the random wait and the guard work.
    pub warmup: Cost,
    /// As judged right after the window: without `IdleDrift`, which needs the baseline after it.
    pub validity: Validity,
    /// One entry for each GPU.
    #[serde(default)]
    pub conditions: Vec<Conditions>,
    /// Prefill and decode apart, if prefill lasts long enough for the power samples.
    #[serde(default)]
    pub phases: Option<PhaseSplit>,
    /// How the warm-up came to its steady state; `None` if the meter can't show that.
    #[serde(default)]
    pub heat: Option<Heat>,
}

/// Whole passes over one fixed prompt list between two instants of the run's clock.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// Start, on the clock of the trace.
    pub t0_s: Seconds,
    /// End, on the clock of the trace.
    pub t1_s: Seconds,
    /// As many as reach the shortest window of the protocol.
    pub passes: u32,
    /// In all passes together.
    pub batches: u32,
    /// In all passes together.
    pub prompts: u32,
    /// Decode steps after the first token of each batch, over all batches; `None` in records that don't say.
    #[serde(default)]
    pub decode_steps: Option<u64>,
    /// Time of those steps by the engine's own marks; `None` if it doesn't say when it chose the first tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decode_s: Option<Seconds>,
    /// Random wait before the trial's warm-up: it shifts the work against the sensor's own rhythm.
    #[serde(default, alias = "phase_s")]
    pub offset_s: Seconds,
}

impl Window {
    pub(crate) fn duration(&self) -> Seconds {
        self.t1_s - self.t0_s
    }
}

/// The cost of work outside the window.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Cost {
    /// From start to end of the work, known also where its energy isn't.
    pub duration_s: Seconds,
    /// `None` if it wasn't measured.
    pub energy_j: Option<Joules>,
}

impl Measurement {
    /// Energy per input token: E / T_in.
    pub(crate) fn ept_in(&self) -> Option<JoulesPerToken> {
        self.energy.total_j?.per_token(self.tokens_in)
    }

    /// Energy per output token: E / T_out.
    pub fn ept_out(&self) -> Option<JoulesPerToken> {
        self.energy.total_j?.per_token(self.tokens_out)
    }

    /// Energy per token: E / (T_in + T_out).
    pub(crate) fn ept_total(&self) -> Option<JoulesPerToken> {
        self.energy.total_j?.per_token(self.tokens_in + self.tokens_out)
    }
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
    /// Loading, generating and scoring; all output lengths evaluated together share it.
    pub duration_s: Seconds,
    /// One entry for each prompt, in the order of the sampled data set (the same for every model of a run).
    pub items: Vec<ItemScore>,
    /// Why there are no scores, if the evaluation failed.
    pub error: Option<String>,
}

/// The score of one answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ItemScore {
    /// Category of the prompt, if the data set names one.
    pub category: Option<String>,
    /// The answer equals the reference after trimming.
    pub exact_match: bool,
    /// ROUGE-L F1 (Lin 2004) against the reference.
    pub rouge_l: f64,
    /// Tokens of the answer, the end-of-sequence token included.
    pub tokens_out: u32,
    /// Text up to the output length, untrimmed, without special tokens.
    pub answer: String,
}

/// One line of `generations.jsonl`: what a model wrote for one prompt of a cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GenerationLine {
    /// Format version of this line.
    pub(crate) format: u32,
    pub(crate) cell: CellId,
    /// Index into the prompt list.
    pub(crate) prompt_index: usize,
    /// The prompt as the model saw it.
    pub(crate) prompt: String,
    pub(crate) tokens_in: u32,
    /// Output token ids, the end-of-sequence token included.
    pub(crate) output_ids: Vec<u32>,
    /// Text of the output without special tokens; in `fixed` length all of it.
    pub(crate) text: String,
    pub(crate) finish: Finish,
    /// In `fixed` length: tokens of the natural answer (its end-of-sequence token included), if it would have ended.
    pub(crate) natural_length: Option<u32>,
}

vocabulary! {
    /// Why a sequence ended.
    pub enum Finish {
        /// At an end-of-sequence token.
        Eos = "eos", "end of sequence";
        /// At the output length.
        Length = "length", "output length";
    }
}
