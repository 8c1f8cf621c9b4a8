//! The energy of a window, the idle baseline, and the conditions under which both were measured.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::cell::EnergyMethod;
use crate::units::{Joules, Seconds, Watts};
use crate::vocabulary::vocabulary;

/// Gross energy of a window, with everything that shows how far it can be trusted.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct WindowEnergy {
    /// Sum over the domains of the primary source; `None` if a domain is unknown.
    pub total_j: Option<Joules>,
    /// The least trustworthy of the domains' methods; `None` if `total_j` is unknown.
    pub method: Option<EnergyMethod>,
    /// The charged domains whose energy is known.
    pub domains: Vec<DomainEnergy>,
    /// The same energy by the second source (time integral of power), if there is one.
    pub integral_j: Option<Joules>,
    /// (counter − integral) / counter.
    pub residual: Option<f64>,
    /// Share of the window that the second source's samples cover.
    pub coverage: Option<f64>,
    /// Longest gap between samples of the second source inside the window.
    pub max_gap_s: Option<Seconds>,
    /// Time between two ticks of the primary counter, by the slowest domain.
    pub tick_s: Option<Seconds>,
    /// What the resolution of the two sources explains of `residual`, as one standard deviation.
    #[serde(default)]
    pub residual_sd: Option<f64>,
    /// How closely the counter's ticks next to the window's start and end are known: ± so many seconds.
    #[serde(default)]
    pub edges_s: Option<(Seconds, Seconds)>,
    /// The part of the GPUs' memory, where the driver gives its power by itself.
    #[serde(default)]
    pub memory: Option<MemoryEnergy>,
    /// `E_sum_J`: what EPT-Bench's own estimator gives for this window (Σ Pᵢ·Δtᵢ over `power_usage` every 0.1 s, the
    /// last partial interval dropped), summed over the GPUs. For comparison only.
    #[serde(default, alias = "seed_sum_j")]
    pub ept_bench_sum_j: Option<Joules>,
    /// The processor's domains, if others are charged: `package-0`, `dram-0`. Not in `total_j`.
    #[serde(default)]
    pub host: Vec<DomainEnergy>,
}

/// Energy of one domain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DomainEnergy {
    /// `gpu0`, `package-0`, `dram-0`, `cpu` …
    pub domain: String,
    /// Gross energy over the whole window, by the domain's primary source.
    pub energy_j: Joules,
    /// `PowerIntegral` for a GPU whose energy counter doesn't work.
    pub method: EnergyMethod,
    /// The same energy by the second source of this domain.
    #[serde(default)]
    pub integral_j: Option<Joules>,
    /// (counter − integral) / counter of this domain.
    #[serde(default)]
    pub residual: Option<f64>,
}

/// Energy of the GPUs' memory, as a part of the whole.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MemoryEnergy {
    /// Time integral of the memory's power, summed over the GPUs.
    pub energy_j: Joules,
    /// Share of the window that its samples cover.
    pub coverage: f64,
}

/// Power without work, with the model loaded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IdleBaseline {
    /// Mean power.
    pub power_w: Watts,
    /// How long power was averaged, without the rest before it.
    pub duration_s: Seconds,
    /// Mean power of consecutive, equally long parts of that time: their spread shows how well the mean is known.
    #[serde(default)]
    pub segments_w: Vec<Watts>,
    /// Temperature in °C of the hottest GPU at the end, if it can be read.
    #[serde(default)]
    pub temperature_c: Option<f64>,
}

/// The state of one GPU during a window, from its telemetry.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Conditions {
    /// `gpu0` …
    pub domain: String,
    /// Temperature in °C over the window's first two seconds (its first half, if it's short).
    pub temperature_start_c: Option<f64>,
    /// The same over its last two seconds; `None` if it can't be read.
    pub temperature_end_c: Option<f64>,
    /// Temperature of the memory in °C, likewise.
    #[serde(default)]
    pub memory_temperature_start_c: Option<f64>,
    /// The same at the end.
    #[serde(default)]
    pub memory_temperature_end_c: Option<f64>,
    /// Mean clock of the multiprocessors in MHz.
    pub sm_clock_mhz: Option<f64>,
    /// Lowest reading of that clock in the window, in MHz.
    pub sm_clock_min_mhz: Option<f64>,
    /// Mean memory clock in MHz.
    pub memory_clock_mhz: Option<f64>,
    /// Highest number of a performance state: 0 is the fastest.
    pub performance_state: Option<u32>,
    /// Share of the window in which each clock event was active; events that never were are left out.
    pub clock_events: BTreeMap<ClockEvent, f64>,
    /// Most compute processes of others at once.
    pub foreign_processes: Option<u32>,
    /// Share of the time in which some kernel ran, as the driver samples it; `None` if it doesn't.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub busy: Option<f64>,
}

vocabulary! {
    /// Why a GPU doesn't run at the clocks that it could: the bits of NVML's clock event (formerly throttle) reasons.
    pub enum ClockEvent {
        /// 0x1: nothing runs.
        Idle = "idle", "idle";
        /// 0x2: clocks were set by an application.
        ApplicationClocks = "application_clocks", "application clocks";
        /// 0x4: the power limit. Normal at full load.
        SoftwarePowerCap = "software_power_cap", "power cap";
        /// 0x8: temperature or power brake, by hardware.
        HardwareSlowdown = "hardware_slowdown", "hardware slowdown";
        /// 0x10: clocks are held equal over a group of GPUs.
        SyncBoost = "sync_boost", "sync boost";
        /// 0x20: temperature, by the driver.
        SoftwareThermal = "software_thermal", "thermal (driver)";
        /// 0x40: temperature, by hardware.
        HardwareThermal = "hardware_thermal", "thermal (hardware)";
        /// 0x80: an external power brake.
        PowerBrake = "power_brake", "power brake";
    }
}

impl ClockEvent {
    /// All of them, with their bits (`nvml.h`, `nvmlClocksEventReason…`).
    pub(crate) const BITS: [(u64, ClockEvent); 8] = [
        (0x1, ClockEvent::Idle),
        (0x2, ClockEvent::ApplicationClocks),
        (0x4, ClockEvent::SoftwarePowerCap),
        (0x8, ClockEvent::HardwareSlowdown),
        (0x10, ClockEvent::SyncBoost),
        (0x20, ClockEvent::SoftwareThermal),
        (0x40, ClockEvent::HardwareThermal),
        (0x80, ClockEvent::PowerBrake),
    ];
}

/// A window's energy split at the first token of each batch, from power samples fine enough for it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PhaseSplit {
    /// Energy from the start of each batch to its first tokens, by the second source.
    pub prefill_j: Joules,
    /// Energy from there to the batch's end, by the second source.
    pub decode_j: Joules,
    /// Over all batches.
    pub prefill_s: Seconds,
    /// Over all batches.
    pub decode_s: Seconds,
    /// Decode steps, over all batches (the first token belongs to prefill).
    pub decode_steps: u64,
    /// How much later than the host's mark of the first tokens the samples show the fall of power, as found in this
    /// trial's own readings; the split takes it into account. `None` if they don't show it.
    #[serde(default)]
    pub lag_s: Option<Seconds>,
}
