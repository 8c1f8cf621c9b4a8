//! The training loop: AdamW over one flat vector, warm-up and cosine, cross-entropy or Hinton's distillation, and the energy it took.

use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::{D, DType, Tensor};
use nvml_wrapper::Nvml;
use tokenizers::Tokenizer;

use crate::Res;
use crate::batches::{self, Labelled};
use crate::fused;
use crate::model::Model;

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.98;
const EPS: f64 = 1e-8;
const WEIGHT_DECAY: f64 = 0.05;
const CLIP: f64 = 1.0;
const WARM_UP_STEPS: usize = 300;
const FINAL_RATE: f64 = 0.01;
const REPORT_EVERY: usize = 200;
const FLAT_WIDTH: usize = 1024;

/// Temperature of the softened distributions.
pub const TEMPERATURE: f64 = 2.0;
/// Weight of the softened loss against the cross-entropy.
pub const ALPHA: f64 = 0.7;

/// What one training run is given.
pub struct Plan<'a> {
    pub name: &'a str,
    pub steps: usize,
    pub batch: usize,
    pub seed: u64,
    pub rate: f64,
    pub time_limit: Option<Duration>,
    /// The distilled student's teacher, without a graph.
    pub teacher: Option<&'a Model>,
    /// The progress per step of an earlier run, to be repeated exactly instead of steps and time limit.
    pub repeat: Option<&'a [f64]>,
}

/// What one training run did.
pub struct Outcome {
    pub steps: usize,
    pub tokens: u64,
    pub seconds: f64,
    pub final_loss: f64,
    pub energy_j: Option<f64>,
    pub energy_method: Option<&'static str>,
    /// Schedule progress (0 to 1) at each step.
    pub progress: Vec<f64>,
}

/// Energy of the first GPU's board between start and stop, by NVML's counter.
pub struct TrainingEnergy(Option<(Nvml, u64)>);

impl TrainingEnergy {
    pub fn start(on_gpu: bool) -> Self {
        let counter = || {
            let nvml = Nvml::init().ok()?;
            let millijoules = read_counter(&nvml)?;
            Some((nvml, millijoules))
        };
        Self(if on_gpu { counter() } else { None })
    }

    pub fn stop(self) -> (Option<f64>, Option<&'static str>) {
        let used = self.0.and_then(|(nvml, before)| read_counter(&nvml)?.checked_sub(before));
        (used.map(|mj| mj as f64 / 1000.0), used.map(|_| "counter"))
    }
}

fn read_counter(nvml: &Nvml) -> Option<u64> {
    nvml.device_by_index(0).ok()?.total_energy_consumption().ok()
}

/// AdamW on all parameters as one vector, so that a step takes few kernels; matrices decay, norms don't.
struct AdamW {
    theta: Tensor,
    first: Tensor,
    second: Tensor,
    decay: Tensor,
    step: i32,
}

impl AdamW {
    fn new(model: &Model) -> Res<Self> {
        let tensors: Vec<Tensor> = model.vars.iter().map(|(_, v)| v.as_detached_tensor()).collect();
        let theta = flatten(&tensors)?;
        let decays = tensors
            .iter()
            .map(|t| if t.rank() > 1 { t.ones_like() } else { t.zeros_like() })
            .collect::<candle_core::Result<Vec<_>>>()?;
        Ok(Self { first: theta.zeros_like()?, second: theta.zeros_like()?, decay: flatten(&decays)?, theta, step: 0 })
    }

    fn step(&mut self, model: &Model, grads: &candle_core::backprop::GradStore, rate: f64) -> Res<()> {
        self.step += 1;
        let mut parts = Vec::with_capacity(model.vars.len());
        for (name, var) in &model.vars {
            parts.push(grads.get(var).ok_or_else(|| format!("no gradient for {name}"))?.detach());
        }
        let grad = flatten(&parts)?;
        let norm = grad.sqr()?.sum_keepdim(1)?.sum_keepdim(0)?.sqrt()?;
        let factor = (((norm + 1e-6)?.recip()? * CLIP)?).minimum(1.0)?;
        let grad = grad.broadcast_mul(&factor)?;
        self.first = ((&self.first * BETA1)? + (&grad * (1.0 - BETA1))?)?;
        self.second = ((&self.second * BETA2)? + (grad.sqr()? * (1.0 - BETA2))?)?;
        let scale_first = rate / (1.0 - BETA1.powi(self.step));
        let scale_second = 1.0 / (1.0 - BETA2.powi(self.step));
        let change = ((&self.first * scale_first)? / ((&self.second * scale_second)?.sqrt()? + EPS)?)?;
        let decay = ((&self.theta * &self.decay)? * (rate * WEIGHT_DECAY))?;
        self.theta = ((&self.theta - change)? - decay)?;
        let flat = self.theta.flatten_all()?;
        let mut at = 0;
        for (_, var) in &model.vars {
            var.set(&flat.narrow(0, at, var.elem_count())?.reshape(var.dims())?)?;
            at += var.elem_count();
        }
        Ok(())
    }
}

/// All tensors one after the other as rows of `FLAT_WIDTH`, filled up with zeros.
fn flatten(tensors: &[Tensor]) -> Res<Tensor> {
    let mut parts = tensors.iter().map(Tensor::flatten_all).collect::<candle_core::Result<Vec<_>>>()?;
    let n: usize = parts.iter().map(Tensor::elem_count).sum();
    let rest = n.next_multiple_of(FLAT_WIDTH) - n;
    if let (Some(first), true) = (parts.first(), rest > 0) {
        parts.push(Tensor::zeros(rest, DType::F32, first.device())?);
    }
    Ok(Tensor::cat(&parts, 0)?.reshape(((), FLAT_WIDTH))?)
}

/// Mean cross-entropy at the wanted rows; with teacher logits, mixed with T² · KL(teacher_T || student_T).
fn loss(logits: &Tensor, targets: &[u32], teacher: Option<&Tensor>) -> Res<Tensor> {
    let (n, width) = logits.dims2()?;
    let plain = logits.detach();
    let targets = Tensor::from_slice(targets, n, logits.device())?;
    let wanted = fused::one_hot(&targets, width)?;
    let p = candle_nn::ops::softmax_last_dim(&plain)?;
    let hard = log_loss(&wanted, &plain)?;
    let hard_grad = ((&p - &wanted)? / n as f64)?;
    let (value, grad) = match teacher {
        None => (hard, hard_grad),
        Some(teacher) => {
            let (student_t, teacher_t) = ((&plain / TEMPERATURE)?, (teacher.detach() / TEMPERATURE)?);
            let (q, p) = (candle_nn::ops::softmax_last_dim(&student_t)?, candle_nn::ops::softmax_last_dim(&teacher_t)?);
            let soft = ((log_loss(&p, &student_t)? - log_loss(&p, &teacher_t)?)? * TEMPERATURE.powi(2))?;
            let soft_grad = ((q - p)? * (TEMPERATURE / n as f64))?;
            let mix = |soft: Tensor, hard: Tensor| (soft * ALPHA)? + (hard * (1.0 - ALPHA))?;
            (mix(soft, hard)?, mix(soft_grad, hard_grad)?)
        }
    };
    Ok(fused::with_gradient(logits, value, move |_, _, d| grad.broadcast_mul(d))?)
}

/// Mean over the rows of -sum(p * log softmax(logits)).
fn log_loss(p: &Tensor, logits: &Tensor) -> Res<Tensor> {
    let log_q = candle_nn::ops::log_softmax(logits, D::Minus1)?;
    Ok(((p * log_q)?.sum(1)?.sum(0)? / -(p.dim(0)? as f64))?)
}

/// Fails, naming the parameter, unless each one gets a finite gradient that isn't all zero.
pub fn every_parameter_gets_a_gradient(model: &Model, labelled: &Labelled) -> Res<()> {
    let grads = loss(&model.logits(&labelled.batch)?, &labelled.targets, None)?.backward()?;
    for (name, var) in &model.vars {
        let grad = grads.get(var).ok_or_else(|| format!("{name} gets no gradient"))?;
        let size = grad.abs()?.sum_all()?.to_scalar::<f32>()?;
        if !(size.is_finite() && size > 0.0) {
            return Err(format!("{name} gets a gradient of size {size}").into());
        }
    }
    Ok(())
}

/// The learning rate's factor: linear warm-up over steps, then a cosine over the progress.
fn rate_factor(step: usize, warm_up: usize, progress: f64) -> f64 {
    let warm = ((step + 1) as f64 / warm_up.max(1) as f64).min(1.0);
    let cosine = 0.5 * (1.0 + (std::f64::consts::PI * progress.min(1.0)).cos());
    warm * (FINAL_RATE + (1.0 - FINAL_RATE) * cosine)
}

impl Plan<'_> {
    /// How far step `step` is: by steps or by time, whichever is further; `None` when the run is over.
    fn progress(&self, step: usize, started: Instant) -> Option<f64> {
        if let Some(repeat) = self.repeat {
            return repeat.get(step).copied();
        }
        let by_steps = step as f64 / self.steps.max(1) as f64;
        let by_time = self.time_limit.map_or(0.0, |l| started.elapsed().as_secs_f64() / l.as_secs_f64());
        Some(by_steps.max(by_time)).filter(|p| *p < 1.0)
    }
}

/// Trains `model` in place.
pub fn train(model: &Model, tokenizer: &Arc<Tokenizer>, plan: &Plan) -> Res<Outcome> {
    let stream = batches::stream(tokenizer.clone(), plan.seed, plan.batch);
    let first =
        batches::collate(&[batches::example(tokenizer, plan.seed, 0)?, batches::example(tokenizer, plan.seed, 1)?]);
    every_parameter_gets_a_gradient(model, &first)?;
    let warm_up = WARM_UP_STEPS.min(plan.steps / 10);
    let mut optimizer = AdamW::new(model)?;
    let energy = TrainingEnergy::start(model.device.is_cuda());
    let started = Instant::now();
    let (mut tokens, mut progress, mut last) = (0u64, Vec::new(), None);
    while let Some(p) = plan.progress(progress.len(), started) {
        let step = progress.len();
        let labelled = stream.recv().map_err(|_| "the batch thread ended")??;
        let teacher = plan.teacher.map(|t| t.logits(&labelled.batch)).transpose()?;
        let loss = loss(&model.logits(&labelled.batch)?, &labelled.targets, teacher.as_ref())?;
        let grads = loss.backward()?;
        optimizer.step(model, &grads, plan.rate * rate_factor(step, warm_up, p))?;
        tokens += labelled.tokens as u64;
        progress.push(p);
        if step.is_multiple_of(REPORT_EVERY) {
            let value = loss.to_scalar::<f32>()?;
            report(plan.name, step, p, value, tokens, started);
            if !value.is_finite() {
                return Err(format!("{}: the loss is {value} at step {step}", plan.name).into());
            }
        }
        last = Some(loss.detach());
    }
    let final_loss = match last {
        Some(loss) => f64::from(loss.to_scalar::<f32>()?),
        None => return Err(format!("{}: no step was made", plan.name).into()),
    };
    model.device.synchronize()?;
    let (energy_j, energy_method) = energy.stop();
    let seconds = started.elapsed().as_secs_f64();
    report(plan.name, progress.len(), 1.0, final_loss as f32, tokens, started);
    Ok(Outcome { steps: progress.len(), tokens, seconds, final_loss, energy_j, energy_method, progress })
}

fn report(name: &str, step: usize, progress: f64, loss: f32, tokens: u64, started: Instant) {
    let elapsed = started.elapsed().as_secs_f64();
    eprintln!(
        "{name}: step {step} ({:.1} %), loss {loss:.4}, {:.0} tokens/s, {elapsed:.1} s",
        100.0 * progress,
        tokens as f64 / elapsed.max(1e-9)
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::STUDENT;
    use crate::vocab;
    use candle_core::{Device, Var};

    #[test]
    fn gradients_reach_every_parameter() -> Res<()> {
        let tokenizer = vocab::train(1)?;
        let model = Model::new(STUDENT, 1, &Device::Cpu)?;
        let examples = (0..4).map(|i| batches::example(&tokenizer, 1, i)).collect::<Res<Vec<_>>>()?;
        every_parameter_gets_a_gradient(&model, &batches::collate(&examples))
    }

    #[test]
    fn the_losses_and_their_gradients_match_automatic_differentiation() -> Res<()> {
        let device = Device::Cpu;
        let logits = Var::randn(0f32, 1f32, (5, 9), &device)?;
        let teacher = Tensor::randn(0f32, 1f32, (5, 9), &device)?;
        let targets = [0u32, 3, 8, 1, 1];
        let hard = candle_nn::loss::cross_entropy(logits.as_tensor(), &Tensor::new(&targets, &device)?)?;
        let log_q = candle_nn::ops::log_softmax(&(logits.as_tensor() / TEMPERATURE)?, 1)?;
        let log_p = candle_nn::ops::log_softmax(&(&teacher / TEMPERATURE)?, 1)?;
        let kl = ((log_p.exp()? * (log_p - log_q)?)?.sum_all()? / 5.0)?;
        let mixed = ((kl * (ALPHA * TEMPERATURE * TEMPERATURE))? + (&hard * (1.0 - ALPHA))?)?;
        for (expected, teacher) in [(hard, None), (mixed, Some(&teacher))] {
            let got = loss(&logits, &targets, teacher)?;
            assert!((got.to_scalar::<f32>()? - expected.to_scalar::<f32>()?).abs() < 1e-5);
            let (a, b) = (got.backward()?, expected.backward()?);
            let (Some(a), Some(b)) = (a.get(&logits), b.get(&logits)) else { return Err("no gradient".into()) };
            assert!((a - b)?.abs()?.max_all()?.to_scalar::<f32>()? < 1e-6);
        }
        Ok(())
    }

    #[test]
    fn the_rate_warms_up_and_anneals_by_time_as_by_steps() {
        assert!(rate_factor(0, 100, 0.0) < 0.02);
        assert!((rate_factor(100, 100, 0.0) - 1.0).abs() < 1e-9);
        assert!((rate_factor(100, 100, 1.0) - FINAL_RATE).abs() < 1e-9);
    }
}
