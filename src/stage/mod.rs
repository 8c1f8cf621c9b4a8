//! One trial: warm up, guarded window, validity → outcome. Prints nothing, writes nothing.
//!
//! ```text
//! random wait │ meter on │ warm-up │ guard │ t0 ── whole passes over the prompt list ── t1 │ guard │ meter off
//! ```

mod calibrate;
mod idle;
mod passes;
mod steady;
mod trial;

pub(crate) use calibrate::{Calibrating, Costs};
pub use idle::idle_baseline;
pub(crate) use idle::idle_time;
pub(crate) use trial::{Measured, Stage, cost, random_offset};
