//! Selective state-space models on candle's operations: Mamba (Gu and Dao 2023, arXiv:2312.00752), FalconMamba, and
//! Mamba-2 (Dao and Gu 2024, arXiv:2405.21060). Projections and convolutions take a whole prompt at once, the
//! recurrence takes its tokens one after another. The residual stream and the states are f32, as in transformers.

use candle_core::{D, DType, Module, Result, Tensor};
use candle_nn::{Embedding, Linear, RmsNorm, VarBuilder, linear_b, linear_no_bias, ops};

use super::definition::Model;

/// Sizes and variants of a model, Mamba or Mamba-2.
#[derive(Debug, Clone)]
pub(super) struct Sizes {
    pub(crate) vocab_size: usize,
    pub(crate) hidden_size: usize,
    pub(crate) layers: usize,
    /// Width inside the mixer.
    pub(crate) inner: usize,
    /// Width of the state of a channel.
    pub(crate) state: usize,
    /// Tokens that the convolution sees.
    pub(crate) kernel: usize,
    pub(crate) norm_eps: f64,
    /// Whether the projections have a bias.
    pub(crate) bias: bool,
    /// Whether the convolution has one.
    pub(crate) conv_bias: bool,
    /// The output layer is the embedding table.
    pub(crate) tied: bool,
    pub(crate) kind: Kind,
}

/// The generations, with the sizes that only one of them has.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// Mamba: a time step for each channel, from a projection of low rank.
    One {
        /// The rank.
        rank: usize,
        /// FalconMamba: epsilon of the norms, without weights, of time step, B and C.
        norms: Option<f64>,
    },
    /// Mamba-2: a time step for each head.
    Two { heads: usize, groups: usize },
}

impl Sizes {
    /// Channels that go through the convolution.
    fn convolved(&self) -> usize {
        match self.kind {
            Kind::One { .. } => self.inner,
            Kind::Two { groups, .. } => self.inner + 2 * groups * self.state,
        }
    }
}

/// A loaded model.
pub(super) struct StateSpace {
    embedding: Embedding,
    layers: Vec<Layer>,
    norm: RmsNorm,
    output: Linear,
    dtype: DType,
}

impl StateSpace {
    pub(super) fn load(sizes: &Sizes, tensors: VarBuilder<'_>) -> Result<Self> {
        let backbone = tensors.pp("backbone");
        let embedding = candle_nn::embedding(sizes.vocab_size, sizes.hidden_size, backbone.pp("embeddings"))?;
        let output = match sizes.tied {
            true => Linear::new(embedding.embeddings().clone(), None),
            false => linear_no_bias(sizes.hidden_size, sizes.vocab_size, tensors.pp("lm_head"))?,
        };
        let layers = backbone.pp("layers");
        Ok(Self {
            embedding,
            layers: (0..sizes.layers).map(|index| Layer::load(sizes, layers.pp(index))).collect::<Result<_>>()?,
            norm: candle_nn::rms_norm(sizes.hidden_size, sizes.norm_eps, backbone.pp("norm_f"))?,
            output,
            dtype: tensors.dtype(),
        })
    }
}

impl Model for StateSpace {
    fn begin(&mut self, rows: usize, _: usize) -> Result<()> {
        self.layers.iter_mut().try_for_each(|layer| layer.begin(rows))
    }

    fn forward(&mut self, ids: &Tensor, _: usize) -> Result<Tensor> {
        let (_, tokens) = ids.dims2()?;
        let mut x = self.embedding.forward(ids)?.to_dtype(DType::F32)?;
        for layer in &mut self.layers {
            x = (&x + layer.forward(&x.to_dtype(self.dtype)?)?.to_dtype(DType::F32)?)?;
        }
        let last = x.narrow(1, tokens - 1, 1)?.squeeze(1)?.contiguous()?.to_dtype(self.dtype)?;
        self.output.forward(&self.norm.forward(&last)?)
    }
}

struct Layer {
    norm: RmsNorm,
    input: Linear,
    convolution: Convolution,
    scan: Scan,
    output: Linear,
    inner: usize,
}

impl Layer {
    fn load(sizes: &Sizes, tensors: VarBuilder<'_>) -> Result<Self> {
        let mixer = tensors.pp("mixer");
        let projected = match sizes.kind {
            Kind::One { .. } => 2 * sizes.inner,
            Kind::Two { heads, .. } => sizes.inner + sizes.convolved() + heads,
        };
        Ok(Self {
            norm: candle_nn::rms_norm(sizes.hidden_size, sizes.norm_eps, tensors.pp("norm"))?,
            input: linear_b(sizes.hidden_size, projected, sizes.bias, mixer.pp("in_proj"))?,
            convolution: Convolution::load(sizes, mixer.pp("conv1d"))?,
            scan: match sizes.kind {
                Kind::One { rank, norms } => Scan::One(ChannelScan::load(sizes, rank, norms, &mixer)?),
                Kind::Two { heads, groups } => Scan::Two(HeadScan::load(sizes, heads, groups, &mixer)?),
            },
            output: linear_b(sizes.inner, sizes.hidden_size, sizes.bias, mixer.pp("out_proj"))?,
            inner: sizes.inner,
        })
    }

    fn begin(&mut self, rows: usize) -> Result<()> {
        self.convolution.begin(rows)?;
        match &mut self.scan {
            Scan::One(scan) => scan.begin(rows),
            Scan::Two(scan) => scan.begin(rows),
        }
    }

    /// `(b, t, hidden)` to the same.
    fn forward(&mut self, x: &Tensor) -> Result<Tensor> {
        let dtype = x.dtype();
        let projected = self.input.forward(&self.norm.forward(x)?)?;
        let y = match &mut self.scan {
            Scan::One(scan) => {
                let x = self.convolution.forward(&projected.narrow(2, 0, self.inner)?)?;
                let gate = projected.narrow(2, self.inner, self.inner)?;
                scan.forward(&x, &gate)?
            }
            Scan::Two(scan) => {
                let gate = projected.narrow(2, 0, self.inner)?;
                let convolved = self.convolution.channels;
                let x = self.convolution.forward(&projected.narrow(2, self.inner, convolved)?)?;
                let step = projected.narrow(2, self.inner + convolved, scan.heads)?;
                scan.forward(&x, &step, &gate)?
            }
        };
        self.output.forward(&y.to_dtype(dtype)?)
    }
}

/// A causal convolution along the tokens, each channel by itself, with SiLU after it.
struct Convolution {
    /// Weight of each token that is seen, the oldest first: `(channels,)`.
    weights: Vec<Tensor>,
    bias: Option<Tensor>,
    channels: usize,
    /// The tokens before the next one `(b, kernel − 1, channels)`.
    seen: Tensor,
}

impl Convolution {
    fn load(sizes: &Sizes, tensors: VarBuilder<'_>) -> Result<Self> {
        let channels = sizes.convolved();
        let weight = tensors.get((channels, 1, sizes.kernel), "weight")?.squeeze(1)?;
        let of_token = |token| weight.narrow(1, token, 1)?.squeeze(1)?.contiguous();
        Ok(Self {
            weights: (0..sizes.kernel).map(of_token).collect::<Result<_>>()?,
            bias: sizes.conv_bias.then(|| tensors.get(channels, "bias")).transpose()?,
            channels,
            seen: Tensor::zeros((1, sizes.kernel - 1, channels), tensors.dtype(), tensors.device())?,
        })
    }

    fn begin(&mut self, rows: usize) -> Result<()> {
        let before = self.weights.len() - 1;
        self.seen = Tensor::zeros((rows, before, self.channels), self.seen.dtype(), self.seen.device())?;
        Ok(())
    }

    /// `(b, t, channels)` to the same.
    fn forward(&mut self, x: &Tensor) -> Result<Tensor> {
        let (_, tokens, _) = x.dims3()?;
        let before = self.weights.len() - 1;
        let all = Tensor::cat(&[&self.seen, x], 1)?;
        self.seen = all.narrow(1, tokens, before)?.contiguous()?;
        let mut sum: Option<Tensor> = self.bias.clone();
        for (token, weight) in self.weights.iter().enumerate() {
            let part = all.narrow(1, token, tokens)?.broadcast_mul(weight)?;
            sum = Some(match sum {
                Some(sum) => part.broadcast_add(&sum)?,
                None => part,
            });
        }
        ops::silu(&sum.unwrap_or(all))
    }
}

enum Scan {
    One(ChannelScan),
    Two(HeadScan),
}

/// The recurrence of Mamba: each channel has a time step and a state of its own.
struct ChannelScan {
    /// Time step of low rank, B and C from the convolved input.
    parameters: Linear,
    step: Linear,
    /// A, negative `(inner, state)`.
    decay: Tensor,
    skip: Tensor,
    rank: usize,
    norms: Option<f64>,
    /// `(b, inner, state)`
    state: Tensor,
}

impl ChannelScan {
    fn load(sizes: &Sizes, rank: usize, norms: Option<f64>, tensors: &VarBuilder<'_>) -> Result<Self> {
        let (inner, state) = (sizes.inner, sizes.state);
        let f32 =
            |shape: &[usize], name: &str| tensors.get_with_hints_dtype(shape, name, Default::default(), DType::F32);
        Ok(Self {
            parameters: linear_no_bias(inner, rank + 2 * state, tensors.pp("x_proj"))?,
            step: candle_nn::linear(rank, inner, tensors.pp("dt_proj"))?,
            decay: f32(&[inner, state], "A_log")?.exp()?.neg()?,
            skip: f32(&[inner], "D")?,
            rank,
            norms,
            state: Tensor::zeros((1, inner, state), DType::F32, tensors.device())?,
        })
    }

    fn begin(&mut self, rows: usize) -> Result<()> {
        let (_, inner, state) = self.state.dims3()?;
        self.state = Tensor::zeros((rows, inner, state), DType::F32, self.state.device())?;
        Ok(())
    }

    /// `(b, t, inner)` and its gate to the same, in f32.
    fn forward(&mut self, x: &Tensor, gate: &Tensor) -> Result<Tensor> {
        let (_, tokens, _) = x.dims3()?;
        let (_, _, state) = self.state.dims3()?;
        let parameters = self.parameters.forward(x)?;
        let part = |start, width| normed(&parameters.narrow(2, start, width)?.contiguous()?, self.norms);
        let step = softplus(&self.step.forward(&part(0, self.rank)?)?.to_dtype(DType::F32)?)?;
        let b = part(self.rank, state)?.to_dtype(DType::F32)?;
        let c = part(self.rank + state, state)?.to_dtype(DType::F32)?;
        let x = x.to_dtype(DType::F32)?;
        let input = (&step * &x)?;
        // token by token: a parallel scan would sum in another order than transformers does
        let mut outputs = Vec::with_capacity(tokens);
        for token in 0..tokens {
            let at = |tensor: &Tensor| tensor.narrow(1, token, 1)?.squeeze(1);
            let keep = at(&step)?.unsqueeze(2)?.broadcast_mul(&self.decay)?.exp()?;
            let add = at(&input)?.unsqueeze(2)?.broadcast_mul(&at(&b)?.unsqueeze(1)?)?;
            self.state = ((&self.state * keep)? + add)?;
            outputs.push(self.state.matmul(&at(&c)?.unsqueeze(2)?.contiguous()?)?.squeeze(2)?);
        }
        let y = (Tensor::stack(&outputs, 1)? + x.broadcast_mul(&self.skip)?)?;
        y * ops::silu(&gate.to_dtype(DType::F32)?)?
    }
}

/// The recurrence of Mamba-2: each head has a time step, and a group of heads shares B and C.
struct HeadScan {
    /// A, negative `(heads,)`.
    decay: Tensor,
    step_bias: Tensor,
    skip: Tensor,
    norm: Tensor,
    norm_eps: f64,
    heads: usize,
    groups: usize,
    width: usize,
    /// `(b, groups, channels of a group, state)`
    state: Tensor,
}

impl HeadScan {
    fn load(sizes: &Sizes, heads: usize, groups: usize, tensors: &VarBuilder<'_>) -> Result<Self> {
        let f32 = |size: usize, name: &str| tensors.get_with_hints_dtype(size, name, Default::default(), DType::F32);
        let state = (1, groups, sizes.inner / groups, sizes.state);
        Ok(Self {
            decay: f32(heads, "A_log")?.exp()?.neg()?,
            step_bias: f32(heads, "dt_bias")?,
            skip: f32(heads, "D")?,
            norm: tensors.get(sizes.inner, "norm.weight")?,
            norm_eps: sizes.norm_eps,
            heads,
            groups,
            width: sizes.inner / heads,
            state: Tensor::zeros(state, DType::F32, tensors.device())?,
        })
    }

    fn begin(&mut self, rows: usize) -> Result<()> {
        let (_, groups, channels, state) = self.state.dims4()?;
        self.state = Tensor::zeros((rows, groups, channels, state), DType::F32, self.state.device())?;
        Ok(())
    }

    /// Convolved x, B and C `(b, t, inner + 2 · groups · state)`, time steps `(b, t, heads)` and the gate
    /// `(b, t, inner)` to `(b, t, inner)`.
    fn forward(&mut self, convolved: &Tensor, step: &Tensor, gate: &Tensor) -> Result<Tensor> {
        let (rows, tokens, inner) = gate.dims3()?;
        let (_, groups, channels, state) = self.state.dims4()?;
        let convolved = convolved.to_dtype(DType::F32)?;
        let x = convolved.narrow(2, 0, inner)?.reshape((rows, tokens, self.heads, self.width))?;
        let shared = |start| convolved.narrow(2, start, groups * state)?.reshape((rows, tokens, groups, state));
        let (b, c) = (shared(inner)?, shared(inner + groups * state)?);
        let step = softplus(&step.to_dtype(DType::F32)?.broadcast_add(&self.step_bias)?)?;
        let keep = self.per_channel(&step.broadcast_mul(&self.decay)?.exp()?)?;
        let input = x.broadcast_mul(&step.unsqueeze(3)?)?.reshape((rows, tokens, groups, channels))?;
        let mut outputs = Vec::with_capacity(tokens);
        for token in 0..tokens {
            let at = |tensor: &Tensor| tensor.narrow(1, token, 1)?.squeeze(1);
            let add = at(&input)?.unsqueeze(3)?.broadcast_mul(&at(&b)?.unsqueeze(2)?)?;
            self.state = (self.state.broadcast_mul(&at(&keep)?.unsqueeze(3)?)? + add)?;
            outputs.push(self.state.matmul(&at(&c)?.unsqueeze(3)?.contiguous()?)?.squeeze(3)?);
        }
        let y = Tensor::stack(&outputs, 1)?.reshape((rows, tokens, self.heads, self.width))?;
        let y = (y + x.broadcast_mul(&self.skip.unsqueeze(1)?)?)?.reshape((rows, tokens, inner))?;
        self.gated_norm(&y, gate)
    }

    /// A value of each head `(b, t, heads)` for each of its channels `(b, t, groups, channels of a group)`.
    fn per_channel(&self, values: &Tensor) -> Result<Tensor> {
        let (rows, tokens, heads) = values.dims3()?;
        let repeated = values.unsqueeze(3)?.broadcast_as((rows, tokens, heads, self.width))?;
        repeated.reshape((rows, tokens, self.groups, heads * self.width / self.groups))
    }

    /// RMSNorm of each group after the gate.
    fn gated_norm(&self, y: &Tensor, gate: &Tensor) -> Result<Tensor> {
        let (rows, tokens, inner) = y.dims3()?;
        let gated = (y * ops::silu(&gate.to_dtype(DType::F32)?)?)?;
        let grouped = gated.reshape((rows, tokens, self.groups, inner / self.groups))?;
        let normed = normed(&grouped, Some(self.norm_eps))?.reshape((rows, tokens, inner))?;
        normed.to_dtype(gate.dtype())?.broadcast_mul(&self.norm)
    }
}

/// RMSNorm without weights, computed in f32; nothing without an epsilon.
fn normed(x: &Tensor, eps: Option<f64>) -> Result<Tensor> {
    let Some(eps) = eps else { return Ok(x.clone()) };
    let wide = x.to_dtype(DType::F32)?;
    let scale = (wide.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
    wide.broadcast_div(&scale)?.to_dtype(x.dtype())
}

/// ln(1 + eˣ) as max(x, 0) + ln(1 + e^−|x|), whose exponential can't overflow.
fn softplus(x: &Tensor) -> Result<Tensor> {
    x.relu()? + (x.abs()?.neg()?.exp()? + 1.0)?.log()?
}
