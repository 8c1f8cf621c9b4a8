//! Measuring energy: a meter records a [`Trace`](crate::record::Trace) while work runs; [`integrate`] turns it into an
//! energy between two instants, and [`findings`] adds the conditions and the validity. Knows nothing of models or
//! sweeps.

mod choose;
pub mod conditions;
mod course;
pub mod findings;
pub mod integrate;
mod modelled;
mod nvml;
mod options;
pub(crate) mod phases;
mod process_tree;
pub mod rapl;
pub mod recompute;
mod recording;
mod sampled;
pub mod sampler;
pub mod span;
pub(crate) mod stages;
mod survey;
mod synthetic;

#[cfg(test)]
pub(crate) mod fixtures;

pub(crate) use choose::Capabilities;
pub use choose::{open, probe};
pub(crate) use course::{cycle, reaches};
pub use nvml::NvmlMeter;
pub use options::{EngineGpu, MeterOptions};
pub use process_tree::ProcessTree;
pub use recording::{Meter, during, recording};
pub use sampled::{HostSources, Sampled};
pub use sampler::Edge;
