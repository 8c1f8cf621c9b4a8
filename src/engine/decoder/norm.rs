//! RMSNorm and LayerNorm over the last dimension.

use candle_core::{DType, Tensor};
use candle_nn::ops::{layer_norm, rms_norm};

use super::place::Place;
use crate::engine::config::NormKind;
use crate::engine::layout::NormSpec;
use crate::engine::weights::Weights;
use crate::error::Result;

/// A norm with its weights.
pub(crate) struct Normalise {
    kind: NormKind,
    eps: f32,
    /// `(width)`, or `(heads, width)` if each head has its own.
    weight: Tensor,
    bias: Tensor,
    /// Computed in f32 whatever the model runs in: weights that 1 is added to lose too much in half precision.
    in_f32: bool,
    by_head: bool,
}

impl Normalise {
    /// Loads a norm.
    pub(super) fn load(weights: &Weights, spec: &NormSpec, place: &Place) -> Result<Self> {
        let in_f32 = spec.norm.one_plus && place.dtype != DType::F32;
        let dtype = if in_f32 { DType::F32 } else { place.dtype };
        let load = |tensor| weights.load(tensor, dtype, &place.device);
        let loaded = spec.weight.iter().map(load).collect::<Result<Vec<_>>>()?;
        let weight = match loaded.as_slice() {
            [] => Tensor::ones(spec.width, dtype, &place.device)?,
            [one] => one.clone(),
            apart => Tensor::stack(apart, 0)?,
        };
        let weight = if spec.norm.one_plus { (weight + 1.0)? } else { weight };
        let bias = match &spec.bias {
            Some(bias) => load(bias)?,
            None => Tensor::zeros(spec.width, dtype, &place.device)?,
        };
        let by_head = weight.rank() == 2;
        Ok(Self { kind: spec.norm.kind, eps: spec.norm.eps as f32, weight, bias, in_f32, by_head })
    }

    /// `(rows, width)` to the same; with weights for each head, rows are `(m · heads, width)`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if !self.in_f32 {
            return Ok(self.normalise(x)?);
        }
        Ok(self.normalise(&x.to_dtype(DType::F32)?)?.to_dtype(x.dtype())?)
    }

    fn normalise(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        if self.by_head {
            return self.by_head(x);
        }
        match self.kind {
            NormKind::Rms => rms_norm(x, &self.weight, self.eps),
            NormKind::Layer => layer_norm(x, &self.weight, &self.bias, self.eps),
        }
    }

    fn by_head(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let (heads, width) = self.weight.dims2()?;
        let ones = self.bias.ones_like()?;
        let plain = match self.kind {
            NormKind::Rms => rms_norm(x, &ones, self.eps)?,
            NormKind::Layer => layer_norm(x, &ones, &self.bias, self.eps)?,
        };
        plain.reshape(((), heads, width))?.broadcast_mul(&self.weight)?.reshape(x.shape())
    }
}
