//! The whole forward pass of a model on an NVIDIA GPU, as launches of this crate's kernels and products of cuBLASLt over
//! buffers that are kept from one call to the next. A step of decoding is recorded once as a CUDA graph and replayed.
//!
//! | file | |
//! |---|---|
//! | `driver`, `pinned` | CUDA: launches, memory, graphs |
//! | `library`, `products`, `matrix` | matrix products, by cuBLASLt or by kernels for few rows |
//! | `experts`, `quantised` | mixtures of experts, products with matrices that stay quantised |
//! | `embed`, `norm`, `rope`, `attention`, `gate`, `choose` | the other kernels, as they are launched |
//! | `room`, `sequences` | the buffers of a batch, and where it is |
//! | `layer`, `mixture`, `model` | the order of launches, from token ids to the next |
//! | `dummy` | dummy weights, made on the device |
//! | `support` | which models run here |
//! | `calibrate` | a pure read of memory |

mod attention;
mod calibrate;
mod choose;
mod driver;
mod dummy;
mod embed;
mod experts;
mod gate;
mod layer;
mod library;
mod matrix;
mod mixture;
mod model;
mod norm;
mod pinned;
mod products;
mod quantised;
mod room;
mod rope;
mod sequences;
mod support;

pub(super) use calibrate::Reader;
pub(super) use dummy::maker;
pub(super) use model::{Model, StepEnd};
pub(super) use sequences::Sequences;
pub(super) use support::obstacles;
