//! The feed-forward of a layer that is a mixture of experts: its weights, and the launches from x to y.

use candle_core::{DType, Tensor};

use super::driver::{Buffer, Driver, Pointer};
use super::experts::{self, Routed};
use super::gate::{self, Gate};
use super::matrix::{Gpu, Matrix};
use crate::engine::config::{Activation, Config, Experts, FeedForward};
use crate::engine::layout::{ExpertWeights, ExpertsSpec};
use crate::engine::weights::Weights;
use crate::error::Result;

/// A mixture of experts with its weights.
pub(crate) struct Mixture {
    experts: Experts,
    /// `(experts, hidden)`.
    router: Matrix,
    /// `(experts, 2 · inner, hidden)`.
    gate_up: Buffer,
    /// `(experts, hidden, inner)`.
    down: Buffer,
    shared: Option<Shared>,
}

/// The expert that every token goes through.
struct Shared {
    gate_up: Matrix,
    down: Matrix,
    /// `(1, hidden)`: a sigmoid of its product weights what the expert gives.
    gate: Matrix,
}

/// Activations of a mixture on so many tokens.
pub(crate) struct Buffers {
    /// `(m, experts)`.
    logits: Buffer,
    scratch: experts::Scratch,
    /// Of the shared expert: `(m, 2 · inner)`, `(m, inner)`, `(m, hidden)`, `(m)`.
    shared: Option<[Buffer; 4]>,
}

impl Buffers {
    /// Buffers for `tokens` tokens, if any layer of the model is a mixture.
    ///
    /// # Errors
    /// The device is full.
    pub(crate) fn new(driver: &Driver, config: &Config, tokens: usize, dtype: DType) -> Result<Option<Self>> {
        let experts = config.layers.iter().find_map(|layer| match layer.feed_forward {
            FeedForward::Experts(experts) => Some(experts),
            FeedForward::Gated { .. } | FeedForward::Plain { .. } => None,
        });
        let Some(experts) = experts else { return Ok(None) };
        let buffer = |width: usize| driver.zeros(tokens * width, dtype);
        let hidden = config.hidden_size;
        let shared = |inner| -> Result<_> { Ok([buffer(2 * inner)?, buffer(inner)?, buffer(hidden)?, buffer(1)?]) };
        Ok(Some(Self {
            logits: buffer(experts.count)?,
            scratch: experts::Scratch::new(driver, &experts, hidden, tokens, dtype)?,
            shared: experts.shared_inner.map(shared).transpose()?,
        }))
    }
}

impl Mixture {
    /// Loads a mixture.
    ///
    /// # Errors
    /// Weights that can't be read, or a device that is full.
    pub(crate) fn load(spec: &ExpertsSpec, weights: &Weights, gpu: &Gpu) -> Result<Self> {
        let (dtype, device) = (gpu.dtype, gpu.driver.device());
        let matrix = |parts: &[_]| Matrix::load(weights, parts, gpu);
        let [gate_up, down] = match &spec.weights {
            ExpertWeights::Stacked { gate_up, down } => {
                [weights.load(gate_up, dtype, device)?, weights.load(down, dtype, device)?]
            }
            ExpertWeights::Apart(experts) => {
                let wide = |[gate, up, _]: &[_; 3]| Ok(weights.load_rows(&[gate, up], dtype, device)?.weight);
                let narrow = |[_, _, down]: &[_; 3]| Ok(weights.load_rows(&[down], dtype, device)?.weight);
                [
                    Tensor::stack(&experts.iter().map(wide).collect::<Result<Vec<_>>>()?, 0)?,
                    Tensor::stack(&experts.iter().map(narrow).collect::<Result<Vec<_>>>()?, 0)?,
                ]
            }
        };
        let shared = match &spec.shared {
            Some((shared, gate)) => Some(Shared {
                gate_up: matrix(&shared.gate_up.parts())?,
                down: matrix(&[&shared.down])?,
                gate: matrix(&[gate])?,
            }),
            None => None,
        };
        let (gate_up, down) = (Buffer::of(gate_up)?, Buffer::of(down)?);
        Ok(Self { experts: spec.experts, router: matrix(&[&spec.router])?, gate_up, down, shared })
    }

    /// From x `(rows, hidden)` to y `(rows, hidden)`.
    ///
    /// # Errors
    /// A failure of the device.
    pub(crate) fn launch(
        &self,
        gpu: &Gpu,
        activation: Activation,
        x: Pointer,
        rows: usize,
        buffers: &Buffers,
        y: Pointer,
    ) -> Result<()> {
        self.router.multiply(gpu, x, rows, buffers.logits.pointer())?;
        let shared = match (&self.shared, &buffers.shared) {
            (Some(shared), Some(buffers)) => Some(shared.launch(gpu, activation, x, rows, buffers)?),
            _ => None,
        };
        let routed = Routed {
            experts: self.experts,
            activation,
            hidden: self.router.inputs,
            logits: buffers.logits.pointer(),
            x,
            gate_up: self.gate_up.pointer(),
            down: self.down.pointer(),
            shared,
            y,
        };
        experts::run(&gpu.driver, gpu.dtype, rows, &routed, &buffers.scratch)
    }
}

impl Shared {
    /// What the expert gives `(rows, hidden)`, and its gate `(rows)`.
    fn launch(
        &self,
        gpu: &Gpu,
        activation: Activation,
        x: Pointer,
        rows: usize,
        buffers: &[Buffer; 4],
    ) -> Result<(Pointer, Pointer)> {
        let [wide, inner, y, gate] = buffers.each_ref().map(Buffer::pointer);
        if !self.gate_up.multiply_gated(gpu, x, rows, activation, inner)? {
            self.gate_up.multiply(gpu, x, rows, wide)?;
            let gate = Gate { x: wide, y: inner, inner: self.down.inputs, activation, gated: true };
            gate::run(&gpu.driver, gpu.dtype, rows, &gate)?;
        }
        self.down.multiply(gpu, inner, rows, y)?;
        self.gate.multiply(gpu, x, rows, gate)?;
        Ok((y, gate))
    }
}
