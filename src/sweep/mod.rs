//! The sweep file and the plan made from it: what is to be measured, and in which order.

mod axis;
pub(crate) mod budget;
pub(crate) mod calibration;
mod default;
pub mod measure;
mod model;
mod order;
pub(crate) mod plan;
mod prompts;
mod read;
pub(crate) mod spec;
mod validate;
mod yaml;

pub use plan::Plan;
pub use spec::SweepSpec;
