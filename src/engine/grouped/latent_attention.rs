//! Decoders with multi-head latent attention and routed experts on candle's operations: DeepSeek-V2 (arXiv:2405.04434)
//! and DeepSeek-V3 (arXiv:2412.19437). What is kept of a token is its latent and one rotated key, and attention runs on
//! the latents: the matrices that would make keys and values of them are applied to queries and outputs instead.

use candle_core::{D, DType, Device, Module, Result, Tensor};
use candle_nn::rotary_emb::{rope, rope_i};
use candle_nn::{Embedding, Linear, RmsNorm, VarBuilder, linear_b, linear_no_bias, ops};

use super::definition::Model;
use super::routing::{Expertise, Router};

/// Sizes and variants that the model is built from.
#[derive(Debug, Clone)]
pub(super) struct Sizes {
    pub(crate) vocab_size: usize,
    pub(crate) hidden_size: usize,
    /// Width inside the feed-forward of the first layers.
    pub(crate) intermediate_size: usize,
    pub(crate) layers: usize,
    /// Layers that come before those with experts.
    pub(crate) dense_layers: usize,
    pub(crate) heads: usize,
    /// Rank of the query's latent, if it has one.
    pub(crate) query_rank: Option<usize>,
    /// Rank of the latent of keys and values.
    pub(crate) latent: usize,
    /// Width of the part of a head's key that has no position.
    pub(crate) plain: usize,
    /// Width of the rotated key that all heads share.
    pub(crate) rotated: usize,
    /// Width of a head's value.
    pub(crate) value: usize,
    pub(crate) attention_bias: bool,
    pub(crate) norm_eps: f64,
    /// The output layer is the embedding table.
    pub(crate) tied: bool,
    pub(crate) rotation: Rotation,
    /// Factor of the scores.
    pub(crate) scale: f64,
    pub(crate) experts: Expertise,
}

/// Rotary embedding of the shared key.
#[derive(Debug, Clone)]
pub(super) struct Rotation {
    /// Angle per position of each pair.
    pub(crate) frequencies: Vec<f64>,
    /// Factor of sine and cosine.
    pub(crate) magnitude: f64,
    /// Pairs are neighbours; else a pair is an element of each half.
    pub(crate) interleaved: bool,
    pub(crate) positions: usize,
}

impl Rotation {
    /// Cosines and sines `(positions, pairs)`, computed in f64 and rounded once.
    fn table(&self, dtype: DType, device: &Device) -> Result<(Tensor, Tensor)> {
        let of = |function: fn(f64) -> f64| {
            let angles = (0..self.positions).flat_map(|p| self.frequencies.iter().map(move |f| p as f64 * f));
            let values: Vec<f32> = angles.map(|angle| (function(angle) * self.magnitude) as f32).collect();
            Tensor::from_vec(values, (self.positions, self.frequencies.len()), device)?.to_dtype(dtype)
        };
        Ok((of(f64::cos)?, of(f64::sin)?))
    }
}

/// A loaded model.
pub(super) struct LatentAttention {
    embedding: Embedding,
    layers: Vec<Layer>,
    norm: RmsNorm,
    output: Linear,
    cosines: Tensor,
    sines: Tensor,
}

/// Data that the layers of one pass share.
struct Pass {
    cosines: Tensor,
    sines: Tensor,
    /// −∞ for later tokens `(t, past + t)`; a single token sees everything.
    mask: Option<Tensor>,
}

impl LatentAttention {
    pub(super) fn load(sizes: &Sizes, tensors: VarBuilder<'_>) -> Result<Self> {
        let model = tensors.pp("model");
        let embedding = candle_nn::embedding(sizes.vocab_size, sizes.hidden_size, model.pp("embed_tokens"))?;
        let output = match sizes.tied {
            true => Linear::new(embedding.embeddings().clone(), None),
            false => linear_no_bias(sizes.hidden_size, sizes.vocab_size, tensors.pp("lm_head"))?,
        };
        let named = model.pp("layers");
        let layers =
            (0..sizes.layers).map(|index| Layer::load(sizes, index, named.pp(index))).collect::<Result<_>>()?;
        let norm = candle_nn::rms_norm(sizes.hidden_size, sizes.norm_eps, model.pp("norm"))?;
        // last, since the sizes are checked against the files by now
        let (cosines, sines) = sizes.rotation.table(tensors.dtype(), tensors.device())?;
        Ok(Self { embedding, layers, norm, output, cosines, sines })
    }

    fn pass(&self, past: usize, tokens: usize, device: &Device) -> Result<Pass> {
        let mask = match tokens {
            1 => None,
            _ => {
                let hidden = |row, column| if column > past + row { f32::NEG_INFINITY } else { 0.0 };
                let columns = past + tokens;
                let mask: Vec<f32> = (0..tokens).flat_map(|row| (0..columns).map(move |c| hidden(row, c))).collect();
                Some(Tensor::from_vec(mask, (tokens, columns), device)?)
            }
        };
        Ok(Pass { cosines: self.cosines.narrow(0, past, tokens)?, sines: self.sines.narrow(0, past, tokens)?, mask })
    }
}

impl Model for LatentAttention {
    fn begin(&mut self, _: usize, _: usize) -> Result<()> {
        self.layers.iter_mut().for_each(|layer| layer.attention.kept = None);
        Ok(())
    }

    fn forward(&mut self, ids: &Tensor, past: usize) -> Result<Tensor> {
        let (_, tokens) = ids.dims2()?;
        let pass = self.pass(past, tokens, ids.device())?;
        let mut x = self.embedding.forward(ids)?;
        for layer in &mut self.layers {
            x = layer.forward(&x, &pass)?;
        }
        let last = x.narrow(1, tokens - 1, 1)?.squeeze(1)?.contiguous()?;
        self.output.forward(&self.norm.forward(&last)?)
    }
}

struct Layer {
    attention_norm: RmsNorm,
    attention: Attention,
    feed_forward_norm: RmsNorm,
    feed_forward: FeedForward,
}

impl Layer {
    fn load(sizes: &Sizes, index: usize, tensors: VarBuilder<'_>) -> Result<Self> {
        let norm = |name: &str| candle_nn::rms_norm(sizes.hidden_size, sizes.norm_eps, tensors.pp(name));
        let mlp = tensors.pp("mlp");
        Ok(Self {
            attention_norm: norm("input_layernorm")?,
            attention: Attention::load(sizes, tensors.pp("self_attn"))?,
            feed_forward_norm: norm("post_attention_layernorm")?,
            feed_forward: match index < sizes.dense_layers {
                true => FeedForward::Dense(Gated::load(sizes.hidden_size, sizes.intermediate_size, mlp)?),
                false => FeedForward::Routed(Experts::load(sizes, mlp)?),
            },
        })
    }

    /// `(b, t, hidden)` to the same.
    fn forward(&mut self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let x = (x + self.attention.forward(&self.attention_norm.forward(x)?, pass)?)?;
        let normed = self.feed_forward_norm.forward(&x)?;
        let fed = match &self.feed_forward {
            FeedForward::Dense(gated) => gated.forward(&normed)?,
            FeedForward::Routed(experts) => experts.forward(&normed)?,
        };
        x + fed
    }
}

/// The norms of latents have this epsilon, whatever the config says.
const LATENT_EPS: f64 = 1e-6;

enum Query {
    Plain(Linear),
    Latent { down: Linear, norm: RmsNorm, up: Linear },
}

impl Query {
    fn load(sizes: &Sizes, tensors: &VarBuilder<'_>) -> Result<Self> {
        let wide = sizes.heads * (sizes.plain + sizes.rotated);
        match sizes.query_rank {
            None => Ok(Self::Plain(linear_no_bias(sizes.hidden_size, wide, tensors.pp("q_proj"))?)),
            Some(rank) => Ok(Self::Latent {
                down: linear_b(sizes.hidden_size, rank, sizes.attention_bias, tensors.pp("q_a_proj"))?,
                norm: candle_nn::rms_norm(rank, LATENT_EPS, tensors.pp("q_a_layernorm"))?,
                up: linear_no_bias(rank, wide, tensors.pp("q_b_proj"))?,
            }),
        }
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Plain(linear) => linear.forward(x),
            Self::Latent { down, norm, up } => up.forward(&norm.forward(&down.forward(x)?)?),
        }
    }
}

struct Attention {
    query: Query,
    /// Latent and rotated key of a token.
    down: Linear,
    norm: RmsNorm,
    /// Makes a query for latents `(heads, plain, latent)`.
    key_up: Tensor,
    /// Makes a head's output of a mean latent `(heads, latent, value)`.
    value_up: Tensor,
    output: Linear,
    /// Latents and rotated keys so far `(b, past, latent + rotated)`.
    kept: Option<Tensor>,
    sizes: Sizes,
}

impl Attention {
    fn load(sizes: &Sizes, tensors: VarBuilder<'_>) -> Result<Self> {
        let Sizes { heads, latent, plain, rotated, value, hidden_size, attention_bias, .. } = *sizes;
        let up = tensors.pp("kv_b_proj").get((heads * (plain + value), latent), "weight")?;
        let up = up.reshape((heads, plain + value, latent))?;
        Ok(Self {
            query: Query::load(sizes, &tensors)?,
            down: linear_b(hidden_size, latent + rotated, attention_bias, tensors.pp("kv_a_proj_with_mqa"))?,
            norm: candle_nn::rms_norm(latent, LATENT_EPS, tensors.pp("kv_a_layernorm"))?,
            key_up: up.narrow(1, 0, plain)?.contiguous()?,
            value_up: up.narrow(1, plain, value)?.transpose(1, 2)?.contiguous()?,
            output: linear_b(heads * value, hidden_size, attention_bias, tensors.pp("o_proj"))?,
            kept: None,
            sizes: sizes.clone(),
        })
    }

    fn forward(&mut self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let (rows, tokens, _) = x.dims3()?;
        let Sizes { heads, latent, value, .. } = self.sizes;
        let queries = self.queries(x, pass)?.reshape((rows, heads * tokens, ()))?;
        let kept = self.keep(x, pass)?;
        let columns = kept.dim(1)?;
        let scores = (queries.matmul(&kept.transpose(1, 2)?)?.to_dtype(DType::F32)? * self.sizes.scale)?;
        let scores = scores.reshape((rows, heads, tokens, columns))?;
        let scores = match &pass.mask {
            Some(mask) => scores.broadcast_add(mask)?,
            None => scores,
        };
        let weights = ops::softmax_last_dim(&scores)?.to_dtype(x.dtype())?.reshape((rows, heads * tokens, columns))?;
        let mean = weights.matmul(&kept.narrow(2, 0, latent)?.contiguous()?)?.reshape((rows, heads, tokens, latent))?;
        let out = mean.broadcast_matmul(&self.value_up)?.transpose(1, 2)?.reshape((rows, tokens, heads * value))?;
        self.output.forward(&out)
    }

    /// Queries for what is kept `(b, heads, t, latent + rotated)`.
    fn queries(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let (rows, tokens, _) = x.dims3()?;
        let Sizes { heads, plain, rotated, .. } = self.sizes;
        let queries = self.query.forward(x)?.reshape((rows, tokens, heads, plain + rotated))?.transpose(1, 2)?;
        let for_latents = queries.narrow(3, 0, plain)?.contiguous()?.broadcast_matmul(&self.key_up)?;
        let turned = self.rotate(&queries.narrow(3, plain, rotated)?, pass)?;
        Tensor::cat(&[for_latents, turned], 3)
    }

    /// Adds the new tokens to what is kept, and gives all of it.
    fn keep(&mut self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let Sizes { latent, rotated, .. } = self.sizes;
        let compressed = self.down.forward(x)?;
        let latents = self.norm.forward(&compressed.narrow(2, 0, latent)?.contiguous()?)?;
        let turned = self.rotate(&compressed.narrow(2, latent, rotated)?.unsqueeze(1)?, pass)?.squeeze(1)?;
        let new = Tensor::cat(&[latents, turned], 2)?;
        let all = match &self.kept {
            Some(kept) => Tensor::cat(&[kept, &new], 1)?,
            None => new,
        };
        self.kept = Some(all.clone());
        Ok(all)
    }

    /// `(b, heads, t, rotated)`
    fn rotate(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        match self.sizes.rotation.interleaved {
            true => rope_i(&x.contiguous()?, &pass.cosines, &pass.sines),
            false => rope(&x.contiguous()?, &pass.cosines, &pass.sines),
        }
    }
}

enum FeedForward {
    Dense(Gated),
    Routed(Experts),
}

/// A feed-forward with a gate.
struct Gated {
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl Gated {
    fn load(hidden_size: usize, inner: usize, tensors: VarBuilder<'_>) -> Result<Self> {
        Ok(Self {
            gate: linear_no_bias(hidden_size, inner, tensors.pp("gate_proj"))?,
            up: linear_no_bias(hidden_size, inner, tensors.pp("up_proj"))?,
            down: linear_no_bias(inner, hidden_size, tensors.pp("down_proj"))?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.down.forward(&(ops::silu(&self.gate.forward(x)?)? * self.up.forward(x)?)?)
    }
}

/// Experts of which each token meets a few, and one that all tokens meet.
struct Experts {
    router: Router,
    routed: Vec<Gated>,
    shared: Gated,
}

impl Experts {
    fn load(sizes: &Sizes, tensors: VarBuilder<'_>) -> Result<Self> {
        let Expertise { experts, inner, shared, .. } = sizes.experts;
        let routed = tensors.pp("experts");
        let expert = |index: usize| Gated::load(sizes.hidden_size, inner, routed.pp(index));
        Ok(Self {
            router: Router::load(&sizes.experts, sizes.hidden_size, tensors.pp("gate"))?,
            routed: (0..experts).map(expert).collect::<Result<_>>()?,
            shared: Gated::load(sizes.hidden_size, inner * shared, tensors.pp("shared_experts"))?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let flat = x.flatten_to(D::Minus2)?;
        let mut sum = flat.zeros_like()?;
        for (expert, tokens, weights) in self.router.choose(&flat)? {
            let Some(gated) = self.routed.get(expert) else { candle_core::bail!("there is no expert {expert}") };
            let count = tokens.len();
            let tokens = Tensor::from_vec(tokens, count, x.device())?;
            let weights = Tensor::from_vec(weights, (count, 1), x.device())?.to_dtype(x.dtype())?;
            let made = gated.forward(&flat.index_select(&tokens, 0)?)?.broadcast_mul(&weights)?;
            sum = sum.index_add(&tokens, &made, 0)?;
        }
        sum.reshape(x.shape())? + self.shared.forward(x)?
    }
}
