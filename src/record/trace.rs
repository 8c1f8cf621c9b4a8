//! Raw readings over time, on the clock of the run.

use super::cell::EnergyMethod;
use crate::units::Seconds;
use crate::vocabulary::vocabulary;

/// The readings of all sources over time, on the clock of the run.
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
    /// What the samples' values are, and in what unit.
    pub quantity: Quantity,
    /// The label of energies from this source.
    pub method: EnergyMethod,
    /// Time between two updates of the source, if it is known: 100 ms for NVML's counter.
    pub tick: Option<Seconds>,
    /// How much earlier than its time stamp a reading's value applied: half a second for the average of the last
    /// second.
    pub lag: Seconds,
    /// The readings, in order of time.
    pub samples: Vec<Sample>,
}

vocabulary! {
    /// What a source reports, and in what unit.
    pub enum Quantity {
        /// A running total in joules: energy is a difference.
        EnergyCounter = "energy_counter", "energy counter";
        /// Power in watts: energy is a time integral.
        Power = "power", "power";
        /// `power_usage` in watts, on newer GPUs the average of the last second: a second source only if there is none
        /// better, and what EPT-Bench sums up.
        PowerUsage = "power_usage", "power usage";
        /// Power of the GPU's memory in watts: a part of its whole power.
        MemoryPower = "memory_power", "memory power";
        /// Temperature in °C.
        Temperature = "temperature", "temperature";
        /// Temperature of the memory in °C.
        MemoryTemperature = "memory_temperature", "memory temperature";
        /// Clock of the multiprocessors in MHz.
        SmClock = "sm_clock", "SM clock";
        /// Clock of the memory in MHz.
        MemoryClock = "memory_clock", "memory clock";
        /// Bits of the active clock events.
        ClockEvents = "clock_events", "clock events";
        /// Performance state: 0 is the fastest.
        PerformanceState = "performance_state", "performance state";
        /// Number of compute processes of others.
        ForeignProcesses = "foreign_processes", "processes of others";
        /// Share of the last sampling period (a sixth of a second to a second) in which some kernel ran, from 0 to 1.
        Utilisation = "utilisation", "utilisation";
        /// Activity of the engine from this instant on: `PREFILL`, `DECODE` or `NEITHER`.
        Phase = "phase", "prefill or decode";
    }
}

/// The domain of [`Quantity::Phase`], whose readings come from the engine and not from a device.
pub(crate) const WORK: &str = "work";

/// Value of [`Quantity::Phase`] between batches.
pub(crate) const NEITHER: f64 = 0.0;
/// Value of [`Quantity::Phase`] during prefill.
pub(crate) const PREFILL: f64 = 1.0;
/// Value of [`Quantity::Phase`] during decode.
pub(crate) const DECODE: f64 = 2.0;

impl Trace {
    /// The source of one quantity of one domain.
    pub fn find(&self, domain: &str, quantity: Quantity) -> Option<&SourceTrace> {
        self.sources.iter().find(|source| source.domain == domain && source.quantity == quantity)
    }
}

/// One reading.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// When, on the clock of the run.
    pub t: Seconds,
    /// In the unit of the source's [`Quantity`]: joules, watts, °C, MHz, bits or a plain number.
    pub value: f64,
}
