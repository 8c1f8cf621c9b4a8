//! What reading memory and multiplying cost on a device: the raw measurements behind the energy floor.

use serde::{Deserialize, Serialize};

use super::cell::EnergyMethod;
use super::energy::IdleBaseline;
use crate::units::{Joules, Seconds};

/// Two pieces of work of known size on one device in one data type, each measured several times by the meter of a run.
///
/// Rates and energies per byte and per operation are computed from these windows; none are stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// The device as models are recorded to run on it: `cuda:0`, `cpu`, `simulated`.
    pub device: String,
    /// Product name of the card, or of the processor.
    pub name: Option<String>,
    /// `GPU-…` of the card.
    pub uuid: Option<String>,
    /// Data type of the products: `f32`, `f16` or `bf16`.
    pub dtype: String,
    /// RFC 3339.
    pub measured_at: String,
    /// The meter.
    pub meter: String,
    /// How the energies were obtained.
    pub method: EnergyMethod,
    /// Power without work, right after it: of everything that the meter charges.
    pub idle: IdleBaseline,
    /// A pure read of memory, again and again.
    pub reads: Vec<CalibrationWindow>,
    /// A large product of random matrices, as often.
    pub products: Vec<CalibrationWindow>,
}

/// A file of calibrations, as `ept-sweep calibrate` writes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct CalibrationFile {
    /// Format version.
    pub(crate) format: u32,
    pub(crate) calibrations: Vec<Calibration>,
}

/// One window of calibration work.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CalibrationWindow {
    /// Bytes that were read or written; for a product the least that it can be: each matrix once.
    pub bytes: f64,
    /// Floating-point operations; those of a read's sum don't count.
    pub flops: f64,
    /// Length of the window.
    pub duration_s: Seconds,
    /// Gross energy of the window.
    pub energy_j: Joules,
    /// °C of the hottest GPU at the end.
    #[serde(default)]
    pub temperature_c: Option<f64>,
    /// Mean clock of the multiprocessors in MHz.
    #[serde(default)]
    pub sm_clock_mhz: Option<f64>,
    /// Mean clock of the memory in MHz.
    #[serde(default)]
    pub memory_clock_mhz: Option<f64>,
    /// Share of the window in which the power cap was active.
    #[serde(default)]
    pub power_cap: Option<f64>,
}
