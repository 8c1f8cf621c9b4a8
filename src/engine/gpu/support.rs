//! Which models take the GPU path whole, and what keeps the others from it.

use candle_core::{DType, Device};

use super::experts;
use super::norm;
use crate::engine::config::{Config, FeedForward};
use crate::engine::weights::Weights;

/// The widest head that the attention kernels take.
const WIDEST_HEAD: usize = 256;

/// What of a model the kernels can't run, in words for the record; empty: they run all of it.
pub(crate) fn obstacles(config: &Config, weights: &Weights, dtype: DType, devices: &[Device]) -> Vec<String> {
    let mut found = Vec::new();
    let mut refuse = |refused: bool, why: &str| {
        if refused {
            found.push(why.to_owned());
        }
    };
    refuse(devices.len() > 1, "the layers are spread over several devices");
    let is_mixture = |layer: &FeedForward| matches!(layer, FeedForward::Experts(_));
    let is_mixture = config.layers.iter().any(|layer| is_mixture(&layer.feed_forward));
    refuse(weights.are_quantised() && is_mixture, "its experts are quantised");
    refuse(config.embedding.width != config.hidden_size, "its embedding is projected to another width");
    let too_many = |layer: &FeedForward| matches!(layer, FeedForward::Experts(experts) if !experts::fits(experts));
    let too_many = config.layers.iter().any(|layer| too_many(&layer.feed_forward));
    refuse(too_many, "its router chooses from more than 512 experts, or more than 32 of them");
    refuse(config.hidden_size > norm::WIDEST_ROW, "its residual stream is wider than 16,384");
    refuse(config.attention.head_dim > WIDEST_HEAD, "its heads are wider than 256");
    refuse(too_old(devices), "the GPU's compute capability is below 8.0");
    // kernels read 16 bytes at a time
    let step = 16 / dtype.size_in_bytes();
    let widths = [config.hidden_size, config.attention.heads * config.attention.head_dim];
    let inner = config.layers.iter().map(|layer| match layer.feed_forward {
        FeedForward::Gated { inner, .. } | FeedForward::Plain { inner, .. } => inner,
        FeedForward::Experts(experts) => experts.inner,
    });
    let is_odd = widths.into_iter().chain(inner).any(|width| width % step != 0);
    refuse(is_odd || config.attention.head_dim % 8 != 0, "a width isn't a multiple of 16 bytes");
    found
}

fn too_old(devices: &[Device]) -> bool {
    let capability = |device: &Device| device.as_cuda_device().ok()?.cuda_stream().context().compute_capability().ok();
    devices.iter().filter_map(capability).any(|(major, _)| major < 8)
}
