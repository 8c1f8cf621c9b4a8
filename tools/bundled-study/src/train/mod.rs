//! The training loop. Measures nothing: who calls [`Training::run`] does.

mod batches;
mod loss;
mod optimizer;
mod schedule;

use std::sync::Arc;
use std::time::Instant;

use candle_core::Tensor;
use ept_sweep::error::{Error, Result};
use ept_sweep::text::Tokenizer;

use crate::arms::{Arm, Objective};
use crate::model::Model;
use batches::Labelled;
use optimizer::AdamW;
use schedule::rate_factor;

pub(crate) use schedule::Length;

const REPORT_EVERY: usize = 200;

/// What one training is given.
pub(crate) struct Plan<'a> {
    pub arm: Arm,
    pub length: Length<'a>,
    /// Sequences per step.
    pub batch: usize,
    /// Which training items come in which order.
    pub seed: u64,
    /// The teacher, without a graph, if the arm is distilled.
    pub teacher: Option<&'a Model>,
}

/// What one training did.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Outcome {
    pub steps: usize,
    /// Tokens of prompts and responses, without padding.
    pub tokens: u64,
    pub first_loss: f64,
    pub final_loss: f64,
    /// Progress of the schedule (0 to 1) at each step.
    pub progress: Vec<f64>,
}

/// A training that is ready to run.
pub(crate) struct Training<'a> {
    model: &'a Model,
    plan: Plan<'a>,
    tokenizer: Arc<Tokenizer>,
    optimizer: AdamW,
}

impl<'a> Training<'a> {
    /// # Errors
    /// The arm is distilled and there is no teacher, or a parameter of the model would not be trained.
    pub(crate) fn new(model: &'a Model, tokenizer: Arc<Tokenizer>, plan: Plan<'a>) -> Result<Self> {
        if matches!(plan.arm.objective, Objective::Distillation(_)) && plan.teacher.is_none() {
            return Err(Error::new(format!("`{}` can't be distilled without a teacher", plan.arm.name)));
        }
        let examples = [0, 1].map(|index| batches::example(&tokenizer, plan.seed, index));
        let examples = examples.into_iter().collect::<Result<Vec<_>>>()?;
        loss::check_gradients(model, &batches::collate(&examples))?;
        Ok(Self { model, plan, tokenizer, optimizer: AdamW::new(model)? })
    }

    /// Trains the model in place, and returns when the device has done all of it.
    ///
    /// # Errors
    /// The loss isn't a number, or the device fails.
    pub(crate) fn run(mut self) -> Result<Outcome> {
        let stream = batches::stream(self.tokenizer.clone(), self.plan.seed, self.plan.batch);
        let started = Instant::now();
        let mut done = Outcome { steps: 0, tokens: 0, first_loss: 0.0, final_loss: 0.0, progress: Vec::new() };
        let mut last = None;
        while let Some(progress) = self.plan.length.progress(done.steps, started.elapsed()) {
            let labelled = stream.recv().map_err(|_| Error::new("the batch thread ended"))??;
            let loss = self.step(&labelled, done.steps, progress)?;
            done.tokens += labelled.tokens as u64;
            // reading the loss waits for the device, so it is read seldom
            if done.steps.is_multiple_of(REPORT_EVERY) {
                done.final_loss = self.report(&done, &loss, progress, started)?;
            }
            if done.steps == 0 {
                done.first_loss = done.final_loss;
            }
            done.progress.push(progress);
            done.steps += 1;
            last = Some(loss);
        }
        let last = last.ok_or_else(|| Error::input(format!("`{}` was given no step", self.plan.arm.name)))?;
        self.model.device.synchronize()?;
        done.final_loss = self.report(&done, &last, 1.0, started)?;
        Ok(done)
    }

    /// One step; the loss before it.
    fn step(&mut self, labelled: &Labelled, step: usize, progress: f64) -> Result<Tensor> {
        let Plan { arm, length, teacher, .. } = &self.plan;
        let teacher = teacher.map(|teacher| teacher.logits(&labelled.batch)).transpose()?;
        let soft = match (&teacher, arm.objective) {
            (Some(logits), Objective::Distillation(softening)) => Some((logits, softening)),
            _ => None,
        };
        let loss = loss::loss(&self.model.logits(&labelled.batch)?, &labelled.targets, soft)?;
        let grads = loss.backward()?;
        let rate = arm.rate * rate_factor(step, length.warm_up(), progress);
        self.optimizer.step(self.model, &grads, rate)?;
        Ok(loss.detach())
    }

    fn report(&self, done: &Outcome, loss: &Tensor, progress: f64, started: Instant) -> Result<f64> {
        let (name, value) = (self.plan.arm.name, f64::from(loss.to_scalar::<f32>()?));
        let elapsed = started.elapsed().as_secs_f64();
        eprintln!(
            "{name}: step {} ({:.1} %), loss {value:.4}, {:.0} tokens/s, {elapsed:.1} s",
            done.steps,
            100.0 * progress,
            done.tokens as f64 / elapsed.max(1e-9)
        );
        match value.is_finite() {
            true => Ok(value),
            false => Err(Error::new(format!("{name}: the loss is {value} at step {}", done.steps))),
        }
    }
}
