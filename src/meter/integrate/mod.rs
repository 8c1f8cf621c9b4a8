//! Pure functions from a [`Trace`](crate::record::Trace) to an energy between two instants. Reads no device and no
//! clock.

mod counter;
mod ept_bench;
mod power;
mod window;

pub use ept_bench::ept_bench_sum;
pub(crate) use power::derived_power;
pub use power::power_energy;
pub use window::window_energy;
pub(crate) use window::{mean_power, window_evidence};

#[cfg(test)]
mod tests;
