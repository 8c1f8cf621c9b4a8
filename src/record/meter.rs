//! The meter of a run, and what it can do on that machine.

use serde::{Deserialize, Serialize};

use super::cell::EnergyMethod;
use crate::units::{Seconds, Watts};
use crate::vocabulary::vocabulary;

/// A meter, and what it can do on the machine of the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MeterInfo {
    /// `nvml`, `rapl`, `modelled`, `synthetic`.
    pub name: String,
    /// How energies from it are labelled.
    pub method: EnergyMethod,
    /// The charged domains: `gpu0`, `package-0` …
    pub domains: Vec<Domain>,
    /// Time between two updates of the primary source.
    pub tick_s: Option<Seconds>,
    /// The source can't measure a shorter window well.
    pub min_window_s: Seconds,
    /// Guard work that a window needs at each edge: a counter is interpolated between the ticks around an edge, which
    /// is right only if both lie inside the load.
    pub guard_s: Seconds,
    /// How long an idle baseline should last.
    pub idle_s: Seconds,
    /// For the reader: coefficients of the model, what isn't covered.
    pub notes: Vec<String>,
    /// The processor's domains that are measured but not charged.
    #[serde(default)]
    pub host_domains: Vec<Domain>,
    /// The sensor's own rhythm: it would always see the same part of work that is in step with it.
    #[serde(default)]
    pub sensing_period_s: Option<Seconds>,
    /// Every source that was looked for, and what it can do, as measured at the start.
    #[serde(default)]
    pub sources: Vec<SourceInfo>,
    /// One entry for each measured GPU; empty if the meter measures none.
    #[serde(default)]
    pub gpus: Vec<GpuInfo>,
}

/// One source of a domain, as found at the start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceInfo {
    /// `gpu0`, `package-0` …
    pub domain: String,
    /// `energy counter`, `power samples` …
    pub name: String,
    /// If it isn't `Supported`, `detail` says why.
    pub status: SourceStatus,
    /// `Unused` for every source that doesn't work.
    pub role: SourceRole,
    /// Median time between two updates.
    pub tick_s: Option<Seconds>,
    /// Shortest and longest time between two updates.
    pub tick_range_s: Option<(Seconds, Seconds)>,
    /// Median time that a reading takes.
    pub call_s: Option<Seconds>,
    /// What went wrong, or a note for the reader.
    pub detail: Option<String>,
}

vocabulary! {
    /// Whether a source works.
    pub enum SourceStatus {
        /// It can be read; where its value has to change, it did.
        Supported = "supported", "supported";
        /// The device or its driver doesn't have it.
        Unsupported = "unsupported", "unsupported";
        /// The device has it, but reading it fails.
        Failed = "failed", "can't be read";
        /// It can be read, but its value never changes.
        StandsStill = "stands_still", "stands still";
    }
}

vocabulary! {
    /// What a source is used for.
    pub enum SourceRole {
        /// Energies come from it.
        Primary = "primary", "primary";
        /// It confirms the primary source.
        Second = "second", "second, as a check";
        /// In the trace, but neither charged nor a check: the power that EPT-Bench sums up, the processor's counters.
        Recorded = "recorded", "recorded for comparison";
        /// Not read during the run: it doesn't work, or a better one does.
        Unused = "unused", "unused";
    }
}

/// A GPU, and the state in which it was found.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct GpuInfo {
    /// `gpu0` …
    pub domain: String,
    /// The product name.
    pub name: String,
    /// `GPU-…`.
    pub uuid: Option<String>,
    /// `00000000:01:00.0`.
    pub pci_bus_id: Option<String>,
    /// Version of the NVIDIA driver, such as `570.86.15`; `None` if it can't be read.
    pub driver: Option<String>,
    /// Version of the video BIOS, such as `96.00.74.00.01`; `None` if it can't be read.
    pub vbios: Option<String>,
    /// Power limit in force.
    pub power_limit_w: Option<Watts>,
    /// Power limit as delivered.
    pub default_power_limit_w: Option<Watts>,
    /// Highest clock of the multiprocessors in MHz.
    pub max_sm_clock_mhz: Option<u32>,
    /// Highest clock of the memory in MHz.
    pub max_memory_clock_mhz: Option<u32>,
    /// Persistence mode: the driver stays loaded without a client.
    pub persistence: Option<bool>,
    /// Memory has error correction.
    pub ecc: Option<bool>,
    /// The GPU is split by MIG: the energy is that of the whole GPU.
    pub mig: bool,
    /// Highest memory bandwidth in bytes a second, from bus width and clock.
    pub bandwidth: Option<f64>,
    /// Compute processes that were there before this one used the GPU.
    pub foreign_processes: Vec<u32>,
}

/// One domain of a meter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Domain {
    /// `gpu0`, `package-0` …
    pub name: String,
    /// The GPU's name and UUID, the RAPL zone's path …
    pub description: String,
}
