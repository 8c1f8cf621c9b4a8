//! The sweep file and the plan made from it: what is to be measured, and in which order.

mod axis;
pub mod budget;
mod default;
pub mod measure;
mod model;
pub mod plan;
mod prompts;
mod read;
pub mod spec;
mod validate;
mod yaml;

pub use plan::Plan;
pub use spec::SweepSpec;
