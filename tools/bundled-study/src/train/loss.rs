//! What training minimises, with gradients of its own: one kernel each instead of a long graph.

use candle_core::{D, Tensor};
use ept_sweep::error::{Error, Result};

use super::batches::Labelled;
use super::optimizer::no_gradient;
use crate::arms::Softening;
use crate::model::{Model, one_hot, with_gradient};

/// A teacher's logits, shaped as the student's, and how they are mixed in.
pub(super) type Soft<'a> = (&'a Tensor, Softening);

/// Mean cross-entropy over the rows of `logits` (rows, vocabulary); with a teacher, mixed with T² · KL(teacher_T ‖
/// student_T).
///
/// # Errors
/// The device fails.
pub(super) fn loss(logits: &Tensor, targets: &[u32], soft: Option<Soft<'_>>) -> Result<Tensor> {
    let (n, width) = logits.dims2()?;
    let plain = logits.detach();
    let targets = Tensor::from_slice(targets, n, logits.device())?;
    let wanted = one_hot(&targets, width)?;
    let p = candle_nn::ops::softmax_last_dim(&plain)?;
    let hard = (log_loss(&wanted, &plain)?, ((&p - &wanted)? / n as f64)?);
    let (value, grad) = match soft {
        None => hard,
        Some((teacher, softening)) => mixed(softening, softened(&plain, teacher, softening.temperature)?, hard)?,
    };
    Ok(with_gradient(logits, value, move |_, _, d| grad.broadcast_mul(d))?)
}

/// T² · KL(teacher_T ‖ student_T) and its gradient in the student's logits.
fn softened(student: &Tensor, teacher: &Tensor, temperature: f64) -> Result<(Tensor, Tensor)> {
    let rows = student.dim(0)? as f64;
    let (student, teacher) = ((student / temperature)?, (teacher.detach() / temperature)?);
    let (q, p) = (candle_nn::ops::softmax_last_dim(&student)?, candle_nn::ops::softmax_last_dim(&teacher)?);
    let value = ((log_loss(&p, &student)? - log_loss(&p, &teacher)?)? * temperature.powi(2))?;
    let grad = ((q - p)? * (temperature / rows))?;
    Ok((value, grad))
}

fn mixed(softening: Softening, soft: (Tensor, Tensor), hard: (Tensor, Tensor)) -> Result<(Tensor, Tensor)> {
    let alpha = softening.alpha;
    let mix = |soft: Tensor, hard: Tensor| (soft * alpha)? + (hard * (1.0 - alpha))?;
    Ok((mix(soft.0, hard.0)?, mix(soft.1, hard.1)?))
}

/// Mean over the rows of −Σ p · log softmax(logits).
fn log_loss(p: &Tensor, logits: &Tensor) -> Result<Tensor> {
    let log_q = candle_nn::ops::log_softmax(logits, D::Minus1)?;
    Ok(((p * log_q)?.sum(1)?.sum(0)? / -(p.dim(0)? as f64))?)
}

/// Looks for parameters that training would leave as they are.
///
/// # Errors
/// Names a parameter that gets no gradient, or one that is zero or not finite.
pub(super) fn check_gradients(model: &Model, labelled: &Labelled) -> Result<()> {
    let grads = loss(&model.logits(&labelled.batch)?, &labelled.targets, None)?.backward()?;
    for (name, var) in &model.vars {
        let grad = grads.get(var).ok_or_else(|| no_gradient(name))?;
        let size = grad.abs()?.sum_all()?.to_scalar::<f32>()?;
        if !(size.is_finite() && size > 0.0) {
            return Err(Error::new(format!("`{name}` gets a gradient of size {size}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    #[test]
    fn the_losses_and_their_gradients_match_automatic_differentiation() {
        let (device, softening) = (Device::Cpu, Softening { temperature: 2.0, alpha: 0.7 });
        let logits = Var::randn(0f32, 1f32, (5, 9), &device).unwrap();
        let teacher = Tensor::randn(0f32, 1f32, (5, 9), &device).unwrap();
        let targets = [0u32, 3, 8, 1, 1];
        let hard = || candle_nn::loss::cross_entropy(logits.as_tensor(), &Tensor::new(&targets, &device)?);
        let mixed = || -> candle_core::Result<Tensor> {
            let log_q = candle_nn::ops::log_softmax(&(logits.as_tensor() / 2.0)?, 1)?;
            let log_p = candle_nn::ops::log_softmax(&(&teacher / 2.0)?, 1)?;
            let kl = ((log_p.exp()? * (log_p - log_q)?)?.sum_all()? / 5.0)?;
            (kl * (0.7 * 4.0))? + (hard()? * 0.3)?
        };
        let cases = [(hard().unwrap(), None), (mixed().unwrap(), Some((&teacher, softening)))];
        for (expected, soft) in cases {
            let got = loss(&logits, &targets, soft).unwrap();
            let value = |tensor: &Tensor| tensor.to_scalar::<f32>().unwrap();
            assert!((value(&got) - value(&expected)).abs() < 1e-5);
            let (a, b) = (got.backward().unwrap(), expected.backward().unwrap());
            let gap = (a.get(&logits).unwrap() - b.get(&logits).unwrap()).unwrap().abs().unwrap();
            assert!(value(&gap.max_all().unwrap()) < 1e-6);
        }
    }
}
