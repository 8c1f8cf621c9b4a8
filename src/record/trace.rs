//! Raw readings over time, on the clock of the run.

use super::EnergyMethod;
use crate::units::Seconds;

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
    /// How much earlier than its time stamp a reading's value was true: half a second for the average of the last
    /// second.
    pub lag: Seconds,
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
    /// `power_usage` in watts, on newer GPUs the average of the last second: a second source only where there is none
    /// better, and what EPT-Bench sums up.
    PowerUsage,
    /// Temperature in °C.
    Temperature,
    /// Clock of the multiprocessors in MHz.
    SmClock,
    /// Clock of the memory in MHz.
    MemoryClock,
    /// Bits of the active clock events.
    ClockEvents,
    /// Performance state: 0 is the fastest.
    PerformanceState,
    /// Compute processes of others.
    ForeignProcesses,
    /// What the engine does from this instant on: [`PREFILL`], [`DECODE`] or [`NEITHER`].
    Phase,
}

impl Quantity {
    /// The stable code, as stored.
    pub fn code(self) -> &'static str {
        match self {
            Quantity::EnergyCounter => "energy_counter",
            Quantity::Power => "power",
            Quantity::PowerUsage => "power_usage",
            Quantity::Temperature => "temperature",
            Quantity::SmClock => "sm_clock",
            Quantity::MemoryClock => "memory_clock",
            Quantity::ClockEvents => "clock_events",
            Quantity::PerformanceState => "performance_state",
            Quantity::ForeignProcesses => "foreign_processes",
            Quantity::Phase => "phase",
        }
    }

    /// All of them.
    pub const ALL: [Quantity; 10] = [
        Quantity::EnergyCounter,
        Quantity::Power,
        Quantity::PowerUsage,
        Quantity::Temperature,
        Quantity::SmClock,
        Quantity::MemoryClock,
        Quantity::ClockEvents,
        Quantity::PerformanceState,
        Quantity::ForeignProcesses,
        Quantity::Phase,
    ];
}

/// The domain of [`Quantity::Phase`], whose readings come from the engine and not from a device.
pub const WORK: &str = "work";

/// Value of [`Quantity::Phase`] between batches.
pub const NEITHER: f64 = 0.0;
/// Value of [`Quantity::Phase`] while the engine reads prompts.
pub const PREFILL: f64 = 1.0;
/// Value of [`Quantity::Phase`] while it generates.
pub const DECODE: f64 = 2.0;

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
