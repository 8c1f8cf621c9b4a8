//! The decoder: token ids in, logits out, for every architecture that [`Config`](super::config::Config) describes.

mod attention;
mod cache;
mod feed_forward;
mod layer;
mod linear;
mod model;
mod norm;
mod place;
mod positions;

pub(super) use cache::Sequences;
pub(super) use model::{Decoder, LARGEST_SCORES};
pub use place::Kernels;
pub(super) use place::{Chosen, Place};
