//! RWKV-4 (Peng et al. 2023, arXiv:2305.13048) on candle's operations. Projections take a whole prompt at once; the
//! recurrence takes its tokens one after another, in f32.

use candle_core::{DType, Module, Result, Tensor};
use candle_nn::{Embedding, LayerNorm, Linear, VarBuilder, layer_norm, linear_no_bias, ops};

use super::definition::{Definition, KvCache, Model};
use crate::error;
use crate::json::Fields;

/// The code, as records name it.
const ENGINE: &str = "rwkv";

/// Defaults as in transformers.
pub(super) fn read(fields: &Fields<'_>) -> error::Result<Definition> {
    let hidden_size = fields.required_size("hidden_size")?;
    let rescale_every = match fields.get("rescale_every") {
        None => 6,
        // zero or less: never
        Some(value) => value.as_i64().map_or(0, |every| every.max(0)) as usize,
    };
    let sizes = Sizes {
        vocab_size: fields.required_size("vocab_size")?,
        hidden_size,
        attention_size: fields.size("attention_hidden_size")?.unwrap_or(hidden_size),
        intermediate_size: fields.size("intermediate_size")?.unwrap_or(4 * hidden_size),
        layers: fields.required_size("num_hidden_layers")?,
        norm_eps: fields.positive("layer_norm_epsilon")?.unwrap_or(1e-5),
        rescale_every,
        tied: fields.flag("tie_word_embeddings")?.unwrap_or(false),
    };
    Ok(Definition {
        engine: ENGINE,
        vocab_size: sizes.vocab_size,
        max_positions: None,
        layers: sizes.layers,
        experts: None,
        cache: KvCache::default(),
        embedding: "rwkv.embeddings.weight",
        renamed: &[],
        ignored: None,
        one_row: false,
        only_f32: None,
        notes: vec!["states are f32, and the recurrence runs through a prompt token by token".to_owned()],
        build: Box::new(move |tensors| Ok(Box::new(Rwkv::load(&sizes, tensors)?))),
    })
}

#[derive(Debug, Clone)]
struct Sizes {
    vocab_size: usize,
    hidden_size: usize,
    attention_size: usize,
    intermediate_size: usize,
    layers: usize,
    norm_eps: f64,
    /// After so many layers the residual stream is halved, and what later layers add to it is, too; 0 for never.
    rescale_every: usize,
    tied: bool,
}

struct Rwkv {
    embedding: Embedding,
    first_norm: LayerNorm,
    layers: Vec<Layer>,
    norm: LayerNorm,
    output: Linear,
}

impl Rwkv {
    fn load(sizes: &Sizes, tensors: VarBuilder<'_>) -> Result<Self> {
        let model = tensors.pp("rwkv");
        let embedding = candle_nn::embedding(sizes.vocab_size, sizes.hidden_size, model.pp("embeddings"))?;
        let output = match sizes.tied {
            true => Linear::new(embedding.embeddings().clone(), None),
            false => linear_no_bias(sizes.hidden_size, sizes.vocab_size, tensors.pp("head"))?,
        };
        let blocks = model.pp("blocks");
        Ok(Self {
            embedding,
            first_norm: layer_norm(sizes.hidden_size, sizes.norm_eps, blocks.pp("0.pre_ln"))?,
            layers: (0..sizes.layers)
                .map(|index| Layer::load(sizes, index, blocks.pp(index)))
                .collect::<Result<_>>()?,
            norm: layer_norm(sizes.hidden_size, 1e-5, model.pp("ln_out"))?,
            output,
        })
    }
}

impl Model for Rwkv {
    fn begin(&mut self, rows: usize, _: usize) -> Result<()> {
        self.layers.iter_mut().try_for_each(|layer| layer.begin(rows))
    }

    fn forward(&mut self, ids: &Tensor, _: usize) -> Result<Tensor> {
        let (_, tokens) = ids.dims2()?;
        let mut x = self.first_norm.forward(&self.embedding.forward(ids)?)?;
        for layer in &mut self.layers {
            x = layer.forward(&x)?;
        }
        let last = x.narrow(1, tokens - 1, 1)?.squeeze(1)?.contiguous()?;
        self.output.forward(&self.norm.forward(&last)?)
    }
}

struct Layer {
    attention_norm: LayerNorm,
    attention: Attention,
    feed_forward_norm: LayerNorm,
    feed_forward: FeedForward,
    /// Whether the residual stream is halved after this layer.
    halves: bool,
}

impl Layer {
    fn load(sizes: &Sizes, index: usize, tensors: VarBuilder<'_>) -> Result<Self> {
        let norm = |name: &str| layer_norm(sizes.hidden_size, sizes.norm_eps, tensors.pp(name));
        let every = sizes.rescale_every;
        let halvings = index.checked_div(every).unwrap_or(0);
        let factor = 0.5f64.powf(halvings as f64);
        Ok(Self {
            attention_norm: norm("ln1")?,
            attention: Attention::load(sizes, factor, tensors.pp("attention"))?,
            feed_forward_norm: norm("ln2")?,
            feed_forward: FeedForward::load(sizes, factor, tensors.pp("feed_forward"))?,
            halves: every > 0 && (index + 1).is_multiple_of(every),
        })
    }

    fn begin(&mut self, rows: usize) -> Result<()> {
        self.attention.begin(rows)?;
        self.feed_forward.shift.begin(rows)
    }

    /// `(b, t, hidden)` to the same.
    fn forward(&mut self, x: &Tensor) -> Result<Tensor> {
        let x = (x + self.attention.forward(&self.attention_norm.forward(x)?)?)?;
        let x = (&x + self.feed_forward.forward(&self.feed_forward_norm.forward(&x)?)?)?;
        if self.halves { x / 2.0 } else { Ok(x) }
    }
}

/// Hands each token the one before it.
struct Shift {
    /// The last token so far `(b, 1, hidden)`.
    last: Tensor,
}

impl Shift {
    fn new(sizes: &Sizes, tensors: &VarBuilder<'_>) -> Result<Self> {
        Ok(Self { last: Tensor::zeros((1, 1, sizes.hidden_size), tensors.dtype(), tensors.device())? })
    }

    fn begin(&mut self, rows: usize) -> Result<()> {
        let hidden_size = self.last.dim(2)?;
        self.last = Tensor::zeros((rows, 1, hidden_size), self.last.dtype(), self.last.device())?;
        Ok(())
    }

    fn forward(&mut self, x: &Tensor) -> Result<Tensor> {
        let tokens = x.dim(1)?;
        let before = Tensor::cat(&[&self.last, &x.narrow(1, 0, tokens - 1)?], 1)?;
        self.last = x.narrow(1, tokens - 1, 1)?.contiguous()?;
        Ok(before)
    }
}

/// How much of a token, and how much of the one before it, goes into a projection: `(1, 1, hidden)`.
struct Mix(Tensor);

impl Mix {
    fn load(sizes: &Sizes, name: &str, tensors: &VarBuilder<'_>) -> Result<Self> {
        Ok(Self(tensors.get((1, 1, sizes.hidden_size), name)?))
    }

    fn forward(&self, x: &Tensor, before: &Tensor) -> Result<Tensor> {
        before + (x - before)?.broadcast_mul(&self.0)?
    }
}

/// A projection whose output is scaled.
fn scaled(inputs: usize, outputs: usize, factor: f64, tensors: VarBuilder<'_>) -> Result<Linear> {
    Ok(Linear::new((tensors.get((outputs, inputs), "weight")? * factor)?, None))
}

/// A mean over the values so far, with weights that grow with the key and decay with time.
struct Attention {
    shift: Shift,
    mixes: [Mix; 3],
    key: Linear,
    value: Linear,
    receptance: Linear,
    output: Linear,
    /// Logarithm of the decay, negative `(attention,)`.
    decay: Tensor,
    /// What the newest key gets on top.
    first: Tensor,
    /// Numerator and denominator of the mean, both divided by e to the third `(b, attention)`.
    state: [Tensor; 3],
}

impl Attention {
    fn load(sizes: &Sizes, factor: f64, tensors: VarBuilder<'_>) -> Result<Self> {
        let Sizes { hidden_size: hidden, attention_size: size, .. } = *sizes;
        let f32 = |name: &str| tensors.get_with_hints_dtype(size, name, Default::default(), DType::F32);
        let mix = |name: &str| Mix::load(sizes, name, &tensors);
        Ok(Self {
            shift: Shift::new(sizes, &tensors)?,
            mixes: [mix("time_mix_key")?, mix("time_mix_value")?, mix("time_mix_receptance")?],
            key: linear_no_bias(hidden, size, tensors.pp("key"))?,
            value: linear_no_bias(hidden, size, tensors.pp("value"))?,
            receptance: linear_no_bias(hidden, size, tensors.pp("receptance"))?,
            output: scaled(size, hidden, factor, tensors.pp("output"))?,
            decay: f32("time_decay")?.exp()?.neg()?,
            first: f32("time_first")?,
            state: empty(1, &f32("time_first")?)?,
        })
    }

    fn begin(&mut self, rows: usize) -> Result<()> {
        self.state = empty(rows, &self.first)?;
        self.shift.begin(rows)
    }

    fn forward(&mut self, x: &Tensor) -> Result<Tensor> {
        let before = self.shift.forward(x)?;
        let [key, value, receptance] = &self.mixes;
        let keys = self.key.forward(&key.forward(x, &before)?)?.to_dtype(DType::F32)?;
        let values = self.value.forward(&value.forward(x, &before)?)?.to_dtype(DType::F32)?;
        let receptance = ops::sigmoid(&self.receptance.forward(&receptance.forward(x, &before)?)?)?;
        let tokens = x.dim(1)?;
        let mut means = Vec::with_capacity(tokens);
        for token in 0..tokens {
            let at = |tensor: &Tensor| tensor.narrow(1, token, 1)?.squeeze(1);
            means.push(self.step(&at(&keys)?, &at(&values)?)?);
        }
        let means = Tensor::stack(&means, 1)?.to_dtype(x.dtype())?;
        self.output.forward(&(receptance * means)?)
    }

    /// The mean with a new key and value `(b, attention)`; the state goes one token on.
    fn step(&mut self, key: &Tensor, value: &Tensor) -> Result<Tensor> {
        let [numerator, denominator, largest] = &self.state;
        let added = |old: &Tensor, new: &Tensor| -> Result<[Tensor; 3]> {
            let largest = old.maximum(new)?;
            let (old, new) = ((old - &largest)?.exp()?, (new - &largest)?.exp()?);
            Ok([((numerator * &old)? + (&new * value)?)?, ((denominator * &old)? + &new)?, largest])
        };
        let [above, below, _] = added(largest, &key.broadcast_add(&self.first)?)?;
        let next = added(&largest.broadcast_add(&self.decay)?, key)?;
        self.state = next;
        above / below
    }
}

/// The state before the first token.
fn empty(rows: usize, like: &Tensor) -> Result<[Tensor; 3]> {
    let zeros = Tensor::zeros((rows, like.dim(0)?), DType::F32, like.device())?;
    Ok([zeros.clone(), zeros.clone(), (zeros - 1e38)?])
}

struct FeedForward {
    shift: Shift,
    mixes: [Mix; 2],
    key: Linear,
    receptance: Linear,
    value: Linear,
}

impl FeedForward {
    fn load(sizes: &Sizes, factor: f64, tensors: VarBuilder<'_>) -> Result<Self> {
        let Sizes { hidden_size: hidden, intermediate_size: inner, .. } = *sizes;
        let mix = |name: &str| Mix::load(sizes, name, &tensors);
        Ok(Self {
            shift: Shift::new(sizes, &tensors)?,
            mixes: [mix("time_mix_key")?, mix("time_mix_receptance")?],
            key: linear_no_bias(hidden, inner, tensors.pp("key"))?,
            receptance: linear_no_bias(hidden, hidden, tensors.pp("receptance"))?,
            value: scaled(inner, hidden, factor, tensors.pp("value"))?,
        })
    }

    fn forward(&mut self, x: &Tensor) -> Result<Tensor> {
        let before = self.shift.forward(x)?;
        let [key, receptance] = &self.mixes;
        let key = self.key.forward(&key.forward(x, &before)?)?.relu()?.sqr()?;
        let receptance = ops::sigmoid(&self.receptance.forward(&receptance.forward(x, &before)?)?)?;
        receptance * self.value.forward(&key)?
    }
}
