//! What a command took, as it is written: `docs/metering-a-command.md` describes every key.

use serde::Serialize;

use crate::meter::stages::Stages;
use crate::record::{Conditions, EnergyMethod, Host, IdleBaseline, MeterInfo, Validity, WindowEnergy};
use crate::units::{Joules, Seconds};

/// The JSON file. A sweep file's `training` reads it, too.
#[derive(Debug, Serialize)]
pub(super) struct Record {
    pub(super) command: Vec<String>,
    /// `None` if a signal ended the command.
    pub(super) exit_code: Option<i32>,
    /// The signal that ended the command.
    pub(super) signal: Option<i32>,
    /// RFC 3339.
    pub(super) started_at: String,
    #[serde(rename = "seconds")]
    pub(super) duration_s: Seconds,
    /// Gross, over all charged domains.
    pub(super) energy_j: Option<Joules>,
    pub(super) energy_method: Option<EnergyMethod>,
    /// Without the idle power before the command.
    pub(super) net_energy_j: Option<Joules>,
    pub(super) device: String,
    pub(super) idle: Option<IdleBaseline>,
    pub(super) validity: Validity,
    /// Why there is no energy, if the meter failed.
    pub(super) error: Option<String>,
    /// Both sources, their residual, each domain, and the processor next to GPUs.
    pub(super) energy: WindowEnergy,
    /// One entry for each GPU.
    pub(super) conditions: Vec<Conditions>,
    #[serde(flatten)]
    pub(super) stages: Stages,
    pub(super) ignored_marks: usize,
    pub(super) meter: MeterInfo,
    pub(super) host: Host,
    pub(super) version: &'static str,
    pub(super) git_revision: Option<String>,
}
