//! One layer: attention and feed-forward around the residual stream.

use candle_core::Tensor;

use super::attention::{AttentionLayer, Step};
use super::cache::LayerCache;
use super::feed_forward::FeedForward;
use super::norm::Normalise;
use super::place::Place;
use crate::engine::config::{Config, Residual};
use crate::engine::layout::{LayerSpec, NormSpec};
use crate::engine::weights::Weights;
use crate::error::Result;

/// A layer with its weights.
pub(crate) struct Layer {
    residual: Residual,
    residual_scale: f64,
    attention_norm: Option<Normalise>,
    attention: AttentionLayer,
    attended_norm: Option<Normalise>,
    feed_forward_norm: Option<Normalise>,
    feed_forward: FeedForward,
    fed_norm: Option<Normalise>,
}

impl Layer {
    /// Loads layer `index`.
    pub(super) fn load(
        config: &Config,
        spec: &LayerSpec,
        index: usize,
        weights: &Weights,
        place: &Place,
    ) -> Result<Self> {
        let norm = |spec: &Option<NormSpec>| -> Result<Option<Normalise>> {
            spec.as_ref().map(|spec| Normalise::load(weights, spec, place)).transpose()
        };
        Ok(Self {
            residual: config.residual,
            residual_scale: config.residual_scale,
            attention_norm: norm(&spec.attention_norm)?,
            attention: AttentionLayer::load(config, spec, index, weights, place)?,
            attended_norm: norm(&spec.attended_norm)?,
            feed_forward_norm: norm(&spec.feed_forward_norm)?,
            feed_forward: FeedForward::load(&spec.feed_forward, config.activation, weights, place)?,
            fed_norm: norm(&spec.fed_norm)?,
        })
    }

    /// `(b · t, hidden)` to the same.
    pub(crate) fn forward(&self, x: Tensor, step: &Step<'_>, cache: &mut LayerCache) -> Result<Tensor> {
        match self.residual {
            Residual::Sequential => {
                let attended = self.attention.forward(&normalised(&self.attention_norm, &x)?, step, cache)?;
                let x = self.join(x, normalised(&self.attended_norm, &attended)?)?;
                let fed = self.feed_forward.forward(&normalised(&self.feed_forward_norm, &x)?)?;
                self.join(x, normalised(&self.fed_norm, &fed)?)
            }
            Residual::FromNorm => {
                let x = normalised(&self.attention_norm, &x)?;
                let attended = self.attention.forward(&x, step, cache)?;
                let x = normalised(&self.feed_forward_norm, &self.join(x, attended)?)?;
                let fed = self.feed_forward.forward(&x)?;
                self.join(x, fed)
            }
            Residual::Parallel => {
                let first = normalised(&self.attention_norm, &x)?;
                let attended = self.attention.forward(&first, step, cache)?;
                let fed = match &self.feed_forward_norm {
                    Some(norm) => self.feed_forward.forward(&norm.forward(&x)?)?,
                    None => self.feed_forward.forward(&first)?,
                };
                self.join(x, (attended + fed)?)
            }
            Residual::NormAfter => {
                let attended = self.attention.forward(&x, step, cache)?;
                let x = normalised(&self.attention_norm, &self.join(x, attended)?)?;
                let fed = self.feed_forward.forward(&x)?;
                normalised(&self.feed_forward_norm, &self.join(x, fed)?)
            }
        }
    }

    fn join(&self, x: Tensor, part: Tensor) -> Result<Tensor> {
        match self.residual_scale {
            1.0 => Ok((x + part)?),
            scale => Ok((x + (part * scale)?)?),
        }
    }
}

fn normalised(norm: &Option<Normalise>, x: &Tensor) -> Result<Tensor> {
    match norm {
        Some(norm) => norm.forward(x),
        None => Ok(x.clone()),
    }
}
