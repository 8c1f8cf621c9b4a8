//! The feed-forward of a layer: gated, plain, or a mixture of experts.

use candle_core::{DType, Tensor};
use candle_nn::ops::{sigmoid, softmax_last_dim};

use super::linear::Linear;
use super::place::{Kernels, Place};
use crate::engine::config::{Activation, Experts};
use crate::engine::cpu::gate;
use crate::engine::layout::{ExpertWeights, ExpertsSpec, FeedForwardSpec, GatedSpec, MatrixSpec};
use crate::engine::weights::Weights;
use crate::error::Result;

/// A feed-forward with its weights.
pub(crate) enum FeedForward {
    /// down(act(gate x) · up x).
    Gated(Gated),
    /// down(act(up x)).
    Plain {
        /// First projection.
        up: Linear,
        /// Last projection.
        down: Linear,
        /// Between them.
        activation: Activation,
    },
    /// A mixture of experts.
    Mixture(Box<Mixture>),
}

/// down(act(gate x) · up x).
pub(crate) struct Gated {
    /// Gate and up in one product.
    gate_up: Linear,
    down: Linear,
    activation: Activation,
    kernels: Kernels,
}

/// A mixture of experts.
pub(crate) struct Mixture {
    experts: Experts,
    router: Linear,
    weights: Vec<Gated>,
    /// The expert that every token goes through, and its gate.
    shared: Option<(Gated, Linear)>,
}

impl FeedForward {
    /// Loads a feed-forward.
    pub(super) fn load(
        spec: &FeedForwardSpec,
        activation: Activation,
        weights: &Weights,
        place: &Place,
    ) -> Result<Self> {
        Ok(match spec {
            FeedForwardSpec::Gated(spec) => Self::Gated(Gated::load(spec, activation, weights, place)?),
            FeedForwardSpec::Plain { up, down } => Self::Plain {
                up: Linear::load(weights, &[up], place)?,
                down: Linear::load(weights, &[down], place)?,
                activation,
            },
            FeedForwardSpec::Experts(spec) => Self::Mixture(Box::new(Mixture::load(spec, activation, weights, place)?)),
        })
    }

    /// `(m, hidden)` to the same.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Gated(gated) => gated.forward(x),
            Self::Plain { up, down, activation } => down.forward(&activate(&up.forward(x)?, *activation)?),
            Self::Mixture(mixture) => mixture.forward(x),
        }
    }
}

impl Gated {
    fn load(spec: &GatedSpec, activation: Activation, weights: &Weights, place: &Place) -> Result<Self> {
        Ok(Self {
            gate_up: Linear::load_gate_up(weights, &spec.gate_up, place)?,
            down: Linear::load(weights, &[&spec.down], place)?,
            activation,
            kernels: place.kernels,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let gate_up = self.gate_up.forward(x)?;
        let gated = match (self.activation, self.kernels) {
            (Activation::Silu, Kernels::Cpu) => gate::silu_gate(&gate_up)?,
            _ => {
                let inner = gate_up.dim(1)? / 2;
                let gate = activate(&gate_up.narrow(1, 0, inner)?, self.activation)?;
                (gate * gate_up.narrow(1, inner, inner)?)?
            }
        };
        self.down.forward(&gated)
    }
}

impl Mixture {
    fn load(spec: &ExpertsSpec, activation: Activation, weights: &Weights, place: &Place) -> Result<Self> {
        let experts = match &spec.weights {
            ExpertWeights::Apart(experts) => {
                let load = |[gate, up, down]: &[MatrixSpec; 3]| -> Result<Gated> {
                    Ok(Gated {
                        gate_up: Linear::load(weights, &[gate, up], place)?,
                        down: Linear::load(weights, &[down], place)?,
                        activation,
                        kernels: place.kernels,
                    })
                };
                experts.iter().map(load).collect::<Result<_>>()?
            }
            ExpertWeights::Stacked { gate_up, down } => {
                let gate_up = weights.load(gate_up, place.dtype, &place.device)?;
                let down = weights.load(down, place.dtype, &place.device)?;
                let expert = |index: usize| -> Result<Gated> {
                    Ok(Gated {
                        gate_up: Linear::new(gate_up.get(index)?, None, place.kernels)?,
                        down: Linear::new(down.get(index)?, None, place.kernels)?,
                        activation,
                        kernels: place.kernels,
                    })
                };
                (0..spec.experts.count).map(expert).collect::<Result<_>>()?
            }
        };
        let shared = match &spec.shared {
            Some((shared, gate)) => {
                Some((Gated::load(shared, activation, weights, place)?, Linear::load(weights, &[gate], place)?))
            }
            None => None,
        };
        Ok(Self {
            experts: spec.experts,
            router: Linear::load(weights, &[&spec.router], place)?,
            weights: experts,
            shared,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (m, hidden) = x.dims2()?;
        let k = self.experts.per_token;
        let probabilities = softmax_last_dim(&self.router.forward(x)?.to_dtype(DType::F32)?)?;
        // on the host, since the choice decides which products run next, and over how many rows
        let routes = self.route(&probabilities.to_vec2()?);
        let rows = Tensor::from_slice(&routes.rows, m * k, x.device())?;
        let mut fed = Vec::with_capacity(routes.counts.len());
        let mut begin = 0;
        for (expert, count) in self.weights.iter().zip(&routes.counts).filter(|(_, count)| **count > 0) {
            fed.push(expert.forward(&x.index_select(&rows.narrow(0, begin, *count)?, 0)?)?);
            begin += count;
        }
        // back from the order of experts to that of tokens
        let places = Tensor::from_slice(&routes.places, m * k, x.device())?;
        let fed = Tensor::cat(&fed, 0)?.index_select(&places, 0)?.reshape((m, k, hidden))?;
        let shares = Tensor::from_slice(&routes.shares, (m, k, 1), x.device())?.to_dtype(x.dtype())?;
        let sum = fed.broadcast_mul(&shares)?.sum(1)?;
        match &self.shared {
            Some((shared, gate)) => {
                let share = sigmoid(&gate.forward(x)?)?;
                Ok((sum + shared.forward(x)?.broadcast_mul(&share)?)?)
            }
            None => Ok(sum),
        }
    }

    /// Which tokens go through which expert.
    fn route(&self, probabilities: &[Vec<f32>]) -> Routes {
        let k = self.experts.per_token;
        let mut routed: Vec<Vec<(u32, usize)>> = vec![Vec::new(); self.experts.count];
        let mut shares = Vec::with_capacity(probabilities.len() * k);
        for (token, probabilities) in (0..).zip(probabilities) {
            let mut order: Vec<usize> = (0..probabilities.len()).collect();
            // stable: the first of equal experts comes first
            order.sort_by(|a, b| probabilities[*b].total_cmp(&probabilities[*a]));
            order.truncate(k);
            let sum: f32 = match self.experts.normalise {
                true => order.iter().map(|expert| probabilities[*expert]).sum(),
                false => 1.0,
            };
            for expert in order {
                routed[expert].push((token, shares.len()));
                shares.push(probabilities[expert] / sum);
            }
        }
        let mut places = vec![0; shares.len()];
        for (place, (_, slot)) in (0..).zip(routed.iter().flatten()) {
            places[*slot] = place;
        }
        Routes {
            rows: routed.iter().flatten().map(|(token, _)| *token).collect(),
            counts: routed.iter().map(Vec::len).collect(),
            places,
            shares,
        }
    }
}

/// Which tokens go through which expert, in the order of experts.
struct Routes {
    /// Tokens, expert after expert.
    rows: Vec<u32>,
    /// Tokens of each expert.
    counts: Vec<usize>,
    /// Where the outputs of each token's experts lie among `rows`, token after token.
    places: Vec<u32>,
    /// Weights of each token's experts, token after token.
    shares: Vec<f32>,
}

fn activate(x: &Tensor, activation: Activation) -> Result<Tensor> {
    Ok(match activation {
        Activation::Silu => x.silu()?,
        Activation::Gelu => x.gelu_erf()?,
        Activation::GeluTanh => x.gelu()?,
        Activation::Relu => x.relu()?,
        Activation::ReluSquared => x.relu()?.sqr()?,
    })
}
