//! Pure functions from a [`Trace`](crate::record::Trace) to an energy between two instants. Reads no device and no
//! clock.

mod counter;
mod ept_bench;
mod power;
mod window;

pub(crate) use counter::{counter_energy, ticks};
pub use ept_bench::ept_bench_sum;
pub use power::power_energy;
pub(crate) use power::{PowerIntegral, derived_power};
pub use window::window_energy;
pub(crate) use window::{mean_power, window_evidence};

#[cfg(test)]
mod tests;
