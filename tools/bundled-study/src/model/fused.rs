//! Gradients for candle's fused kernels, which have no backward pass of their own, and an embedding lookup whose
//! backward pass is a matrix product.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, CustomOp2, CustomOp3, D, DType, Layout, Result, Shape, Tensor};

/// `y = f(x)`, already computed as the second argument, with the gradient of x as a closure of (x, y, dy).
struct Unary<F>(F);

impl<F: Fn(&Tensor, &Tensor, &Tensor) -> Result<Tensor>> CustomOp2 for Unary<F> {
    fn name(&self) -> &'static str {
        "fused-unary"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, y: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((y.try_clone(l)?, l.shape().clone()))
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout, y: &CudaStorage, l: &Layout) -> Result<(CudaStorage, Shape)> {
        Ok((y.try_clone(l)?, l.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, _: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some((self.0)(&x.detach(), &y.detach(), dy)?), None))
    }
}

/// `y = f(a, b)`, already computed as the third argument, with the gradients of a and b as a closure of (a, b, dy).
struct Binary<F>(F);

impl<F: Fn(&Tensor, &Tensor, &Tensor) -> Result<(Tensor, Tensor)>> CustomOp3 for Binary<F> {
    fn name(&self) -> &'static str {
        "fused-binary"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        y: &CpuStorage,
        l: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Ok((y.try_clone(l)?, l.shape().clone()))
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        y: &CudaStorage,
        l: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        Ok((y.try_clone(l)?, l.shape().clone()))
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        _: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (da, db) = (self.0)(&a.detach(), &b.detach(), dy)?;
        Ok((Some(da), Some(db), None))
    }
}

/// Gives `y`, computed from `x` outside the graph, its gradient; without a graph it's `y` itself.
pub(crate) fn with_gradient(
    x: &Tensor,
    y: Tensor,
    backward: impl Fn(&Tensor, &Tensor, &Tensor) -> Result<Tensor> + Send + Sync + 'static,
) -> Result<Tensor> {
    if x.track_op() { x.apply_op2(&y.detach(), Unary(backward)) } else { Ok(y) }
}

fn with_gradients(
    a: &Tensor,
    b: &Tensor,
    y: Tensor,
    backward: impl Fn(&Tensor, &Tensor, &Tensor) -> Result<(Tensor, Tensor)> + Send + Sync + 'static,
) -> Result<Tensor> {
    if a.track_op() || b.track_op() { a.apply_op3(b, &y.detach(), Binary(backward)) } else { Ok(y) }
}

/// RMSNorm of the rows of `x`.
pub(super) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let y = candle_nn::ops::rms_norm(&x.detach(), &weight.detach(), eps as f32)?;
    with_gradients(x, weight, y, move |x, weight, dy| {
        let (rows, width) = x.dims2()?;
        let mean_square = (x.sqr()?.sum_keepdim(D::Minus1)? * (1.0 / width as f64))?;
        let scale = (mean_square + eps)?.sqrt()?.recip()?;
        let normed = x.broadcast_mul(&scale)?;
        let ones = Tensor::ones((1, rows), DType::F32, x.device())?;
        let d_weight = ones.matmul(&(dy * &normed)?)?.reshape(width)?;
        let d_normed = dy.broadcast_mul(weight)?;
        let along = ((&d_normed * &normed)?.sum_keepdim(D::Minus1)? * (1.0 / width as f64))?;
        let d_x = (d_normed - normed.broadcast_mul(&along)?)?.broadcast_mul(&scale)?;
        Ok((d_x, d_weight))
    })
}

/// `softmax(scale * scores + mask)` over the last dimension.
pub(super) fn masked_softmax(scores: &Tensor, mask: &Tensor, scale: f64) -> Result<Tensor> {
    let y = candle_nn::ops::softmax_last_dim(&(scores.detach() * scale)?.broadcast_add(mask)?)?;
    with_gradient(scores, y, move |_, y, dy| {
        let weighted = (y * dy)?;
        let total = weighted.sum_keepdim(D::Minus1)?;
        (weighted - y.broadcast_mul(&total)?)? * scale
    })
}

/// Rotary embedding in Hugging Face's half-split convention; its transpose turns the other way.
pub(super) fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let y = candle_nn::rotary_emb::rope(&x.detach(), cos, sin)?;
    let (cos, back) = (cos.clone(), sin.neg()?);
    with_gradient(x, y, move |_, _, dy| candle_nn::rotary_emb::rope(&dy.contiguous()?, &cos, &back))
}

/// `silu(gate) * up`.
pub(super) fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    let y = (gate.detach().silu()? * up.detach())?;
    with_gradients(gate, up, y, |gate, up, dy| {
        let sigmoid = candle_nn::ops::sigmoid(gate)?;
        let silu = (gate * &sigmoid)?;
        let d_up = (dy * &silu)?;
        let slope = (&sigmoid + (&silu - (&silu * &sigmoid)?)?)?;
        Ok((((dy * up)? * slope)?, d_up))
    })
}

/// A 0/1 matrix with a one per row, in column `ids[row]`.
pub(crate) fn one_hot(ids: &Tensor, width: usize) -> Result<Tensor> {
    let columns = Tensor::arange(0u32, width as u32, ids.device())?.reshape((1, width))?;
    ids.reshape(((), 1))?.broadcast_eq(&columns)?.to_dtype(DType::F32)
}

/// Rows of `table`; the backward pass is a matrix product, as candle's scatter runs over the ids one by one.
pub(super) fn embedding(table: &Tensor, ids: &Tensor) -> Result<Tensor> {
    let y = table.detach().index_select(ids, 0)?;
    let ids = ids.clone();
    with_gradient(table, y, move |table, _, dy| one_hot(&ids, table.dim(0)?)?.t()?.matmul(&dy.contiguous()?))
}

/// Distinct rows of `x`; the backward pass reads the gradient through the inverse index.
///
/// `inverse` has, for each row of `x`, its place in `rows`, or `rows.len()` if it isn't taken.
pub(super) fn take_rows(x: &Tensor, rows: &Tensor, inverse: &Tensor) -> Result<Tensor> {
    let y = x.detach().index_select(rows, 0)?;
    let inverse = inverse.clone();
    with_gradient(x, y, move |x, _, dy| {
        let zero = Tensor::zeros((1, x.dim(1)?), DType::F32, x.device())?;
        Tensor::cat(&[&dy.contiguous()?, &zero], 0)?.index_select(&inverse, 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    fn random(shape: &[usize]) -> Result<Var> {
        Var::randn(0f32, 1f32, shape, &Device::Cpu)
    }

    /// Values and gradients of `fused` and `plain` agree for the loss sum(y * weights).
    fn agree(vars: &[Var], fused: Result<Tensor>, plain: Result<Tensor>) -> Result<()> {
        let (fused, plain) = (fused?, plain?);
        let weights = random(fused.dims())?.as_detached_tensor();
        let near = |a: &Tensor, b: &Tensor| -> Result<()> {
            let gap = (a - b)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
            assert!(gap < 1e-4, "differs by {gap}");
            Ok(())
        };
        near(&fused, &plain)?;
        let (a, b) = ((fused * &weights)?.sum_all()?.backward()?, (plain * &weights)?.sum_all()?.backward()?);
        for var in vars {
            let (Some(a), Some(b)) = (a.get(var), b.get(var)) else { panic!("no gradient") };
            near(a, b)?;
        }
        Ok(())
    }

    #[test]
    fn fused_operations_match_the_plain_ones() -> Result<()> {
        let (x, w) = (random(&[6, 8])?, random(&[8])?);
        let vars = [x.clone(), w.clone()];
        agree(&vars, rms_norm(&x, &w, 1e-5), candle_nn::ops::rms_norm_slow(&x, &w, 1e-5))?;

        let (scores, mask) = (random(&[2, 3, 4, 4])?, random(&[4, 4])?.as_detached_tensor());
        let plain = candle_nn::ops::softmax(&(scores.as_tensor() * 0.3)?.broadcast_add(&mask)?, D::Minus1);
        agree(std::slice::from_ref(&scores), masked_softmax(&scores, &mask, 0.3), plain)?;

        let (q, angle) = (random(&[2, 3, 4, 8])?, random(&[4, 4])?.as_detached_tensor());
        let (cos, sin) = (angle.cos()?, angle.sin()?);
        agree(std::slice::from_ref(&q), rope(&q, &cos, &sin), candle_nn::rotary_emb::rope_slow(&q, &cos, &sin))?;

        let (gate, up) = (random(&[5, 7])?, random(&[5, 7])?);
        agree(&[gate.clone(), up.clone()], swiglu(&gate, &up), gate.silu()? * up.as_tensor())?;

        let ids = Tensor::new(&[3u32, 1, 3, 0], &Device::Cpu)?;
        agree(std::slice::from_ref(&x), embedding(&x, &ids), x.index_select(&ids, 0))?;

        let (rows, inverse) =
            (Tensor::new(&[4u32, 1], &Device::Cpu)?, Tensor::new(&[2u32, 1, 2, 2, 0, 2], &Device::Cpu)?);
        agree(std::slice::from_ref(&x), take_rows(&x, &rows, &inverse), x.index_select(&rows, 0))
    }
}
