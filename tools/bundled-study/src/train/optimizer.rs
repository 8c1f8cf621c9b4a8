//! AdamW (Loshchilov and Hutter 2019) with a clipped gradient.

use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor, Var};
use ept_sweep::error::{Error, Result};

use crate::model::Model;

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.98;
const EPS: f64 = 1e-8;
const WEIGHT_DECAY: f64 = 0.05;
/// Longest gradient.
const CLIP: f64 = 1.0;
const FLAT_WIDTH: usize = 1024;

/// AdamW on all parameters as one vector, so that a step takes few kernels; matrices decay, norms don't.
pub(super) struct AdamW {
    theta: Tensor,
    first: Tensor,
    second: Tensor,
    decay: Tensor,
    step: i32,
}

impl AdamW {
    pub(super) fn new(model: &Model) -> Result<Self> {
        let tensors: Vec<Tensor> = model.vars.iter().map(|(_, v)| v.as_detached_tensor()).collect();
        let theta = flatten(&tensors)?;
        let decays = tensors
            .iter()
            .map(|t| if t.rank() > 1 { t.ones_like() } else { t.zeros_like() })
            .collect::<candle_core::Result<Vec<_>>>()?;
        Ok(Self { first: theta.zeros_like()?, second: theta.zeros_like()?, decay: flatten(&decays)?, theta, step: 0 })
    }

    /// Moves the model's weights by one step.
    ///
    /// # Errors
    /// A parameter has no gradient, or the device fails.
    pub(super) fn step(&mut self, model: &Model, grads: &GradStore, rate: f64) -> Result<()> {
        self.step += 1;
        let grad = clipped(&gradient(model, grads)?)?;
        self.first = ((&self.first * BETA1)? + (&grad * (1.0 - BETA1))?)?;
        self.second = ((&self.second * BETA2)? + (grad.sqr()? * (1.0 - BETA2))?)?;
        let scale_first = rate / (1.0 - BETA1.powi(self.step));
        let scale_second = 1.0 / (1.0 - BETA2.powi(self.step));
        let change = ((&self.first * scale_first)? / ((&self.second * scale_second)?.sqrt()? + EPS)?)?;
        let decay = ((&self.theta * &self.decay)? * (rate * WEIGHT_DECAY))?;
        self.theta = ((&self.theta - change)? - decay)?;
        self.write_back(model)
    }

    fn write_back(&self, model: &Model) -> Result<()> {
        let flat = self.theta.flatten_all()?;
        let mut at = 0;
        for (_, var) in &model.vars {
            var.set(&flat.narrow(0, at, var.elem_count())?.reshape(var.dims())?)?;
            at += var.elem_count();
        }
        Ok(())
    }
}

/// The gradients of all parameters as one vector.
fn gradient(model: &Model, grads: &GradStore) -> Result<Tensor> {
    let of = |(name, var): &(String, Var)| grads.get(var).map(Tensor::detach).ok_or_else(|| no_gradient(name));
    flatten(&model.vars.iter().map(of).collect::<Result<Vec<_>>>()?)
}

pub(super) fn no_gradient(name: &str) -> Error {
    Error::new(format!("`{name}` gets no gradient"))
}

/// Shortened to a norm of `CLIP` where it is longer.
fn clipped(grad: &Tensor) -> Result<Tensor> {
    let norm = grad.sqr()?.sum_keepdim(1)?.sum_keepdim(0)?.sqrt()?;
    let factor = (((norm + 1e-6)?.recip()? * CLIP)?).minimum(1.0)?;
    Ok(grad.broadcast_mul(&factor)?)
}

/// All tensors one after the other as rows of `FLAT_WIDTH`, filled up with zeros.
fn flatten(tensors: &[Tensor]) -> Result<Tensor> {
    let mut parts = tensors.iter().map(Tensor::flatten_all).collect::<candle_core::Result<Vec<_>>>()?;
    let n: usize = parts.iter().map(Tensor::elem_count).sum();
    let rest = n.next_multiple_of(FLAT_WIDTH) - n;
    if let (Some(first), true) = (parts.first(), rest > 0) {
        parts.push(Tensor::zeros(rest, DType::F32, first.device())?);
    }
    Ok(Tensor::cat(&parts, 0)?.reshape(((), FLAT_WIDTH))?)
}
