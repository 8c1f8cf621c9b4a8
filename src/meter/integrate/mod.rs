//! Pure functions from a [`Trace`](crate::record::Trace) to an energy between two instants. Reads no device and no
//! clock.

mod counter;
mod ept_bench;
mod power;
mod window;

pub use counter::{counter_energy, ticks};
pub use ept_bench::ept_bench_sum;
pub use power::{PowerIntegral, derived_power, power_energy};
pub use window::{mean_power, window_energy, window_evidence};

#[cfg(test)]
mod tests;
