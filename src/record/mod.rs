//! The types that are stored on disk, in `run.json`, `records.jsonl` and `generations.jsonl`, with a format version.
//!
//! Everything downstream of measuring reads these types and nothing else. Derived numbers are not stored:
//! they are recomputed from what is here.

mod baseline;
mod calibration;
mod cell;
mod choice;
mod decoding;
mod energy;
mod heat;
mod kernels;
mod meter;
mod reason;
mod run;
mod synthetic;
mod trace;
mod trial;
mod workload;

pub use crate::host::Host;

pub(crate) use self::baseline::Around;
pub(crate) use self::calibration::CalibrationFile;
pub use self::calibration::{Calibration, CalibrationWindow};
pub use self::cell::{CellId, CellSpec, EnergyMethod, OutputLength, Role};
pub use self::choice::{MeterChoice, ModelCoefficients};
pub use self::decoding::{BeamSearch, Decoding, EarlyStopping, Sampling};
pub use self::energy::{ClockEvent, Conditions, DomainEnergy, IdleBaseline, MemoryEnergy, PhaseSplit, WindowEnergy};
pub(crate) use self::heat::usual;
pub use self::heat::{Cycle, Heat};
pub use self::kernels::{KernelsChoice, KernelsUsed};
pub use self::meter::{Domain, GpuInfo, MeterInfo, SourceInfo, SourceRole, SourceStatus};
pub use self::reason::{Reason, Validity};
pub use self::run::{
    Adaptive, DummyDistribution, DummyWeights, ModelInfo, ModelMeta, Order, Padding, Part, Preset, PromptInfo,
    Protocol, RunInfo, TrainingCost, TrainingStage,
};
pub(crate) use self::run::{ChatTemplateInfo, PromptForm, PromptLimit, Truncate, Truncated};
pub use self::synthetic::{SyntheticCard, SyntheticSpec};
pub(crate) use self::synthetic::{SyntheticFailure, SyntheticFailureKind};
pub(crate) use self::trace::{DECODE, NEITHER, PREFILL, WORK};
pub use self::trace::{Quantity, Sample, SourceTrace, Trace};
pub use self::trial::{
    Baseline, BaselineTime, Cost, Evaluation, FailureKind, Finish, ItemScore, Measurement, Outcome, Trial, TrialKey,
    Window,
};
pub(crate) use self::trial::{GenerationLine, Line};
pub use self::workload::{AttentionWork, ExpertWork, Workload};

/// Version of everything in a run directory. Readers refuse a newer one.
///
/// 2 added baselines around a model's trials, the conditions of a window, and further quantities of a trace. 3 renames
/// what format 2 called `phase_s`, `random_phase_s` and `seed_sum_j`, and states a model's padding, which format 2 has
/// only in a note. Both formats are still read.
pub const FORMAT: u32 = 3;
