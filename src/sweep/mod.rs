//! The sweep file and the plan made from it: what is to be measured, and in which order.

pub mod budget;
pub mod measure;
pub mod plan;
pub mod spec;
mod validate;
mod yaml;

pub use plan::Plan;
pub use spec::SweepSpec;
