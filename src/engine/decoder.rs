//! The decoder of the Llama family: token ids in, logits of the last position out.

use candle_core::{Module, Tensor};

use super::attention::{self, Pass};
use super::cache::{LayerCache, Place, Sequences};
use super::config::{Activation, Config};
use super::cpu::attention::Heads;
use super::cpu::gate;
use super::linear::{Kernels, Linear, RmsNorm};
use super::rope::RopeTable;
use super::weights::{EMBEDDING, FINAL_NORM, LayerNames, OUTPUT, Weights};
use crate::error::{Error, Result};

/// A model's weights, ready to run.
pub(super) struct Decoder {
    embedding: Linear,
    layers: Vec<Layer>,
    norm: RmsNorm,
    /// `None` where the embedding table is the output layer.
    output: Option<Linear>,
}

struct Layer {
    heads: Heads,
    attention_norm: RmsNorm,
    /// Queries, keys and values in one product.
    qkv: Linear,
    attention_output: Linear,
    feed_forward_norm: RmsNorm,
    /// Gate and up in one product.
    gate_up: Linear,
    down: Linear,
    activation: Activation,
    kernels: Kernels,
}

/// What all layers of one forward pass share.
struct Step<'a> {
    rope: &'a RopeTable,
    starts: &'a [usize],
    past: usize,
    /// For the stock operations.
    pass: Option<Pass>,
}

impl Decoder {
    /// Loads the tensors that the config asks for; [`Weights::check`] comes first.
    pub fn load(config: &Config, weights: &Weights, place: &Place) -> Result<Self> {
        let load = |name: &str| weights.load(name, place.dtype, &place.device);
        let own_output = weights.has_own_output(config)?;
        // Only a table that is multiplied by, too, is worth packing.
        let table_kernels = if own_output { Kernels::Stock } else { place.kernels };
        let output = match own_output {
            true => Some(Linear::new(load(OUTPUT)?, None, place.kernels)?),
            false => None,
        };
        Ok(Self {
            embedding: Linear::new(load(EMBEDDING)?, None, table_kernels)?,
            layers: (0..config.layers).map(|i| Layer::load(config, weights, place, i)).collect::<Result<_>>()?,
            norm: RmsNorm::new(load(FINAL_NORM)?, config.norm_eps),
            output,
        })
    }

    /// Runs new tokens `(b, t)` after those in the cache and gives the logits `(b, vocabulary)` that follow the last.
    pub fn forward(&self, ids: &Tensor, rope: &RopeTable, sequences: &mut Sequences) -> Result<Tensor> {
        let (batch, tokens) = ids.dims2()?;
        let past = sequences.length;
        let pass = match &sequences.positions {
            Some(positions) => Some(positions.pass(past, tokens)?),
            None => None,
        };
        let step = Step { rope, starts: &sequences.starts, past, pass };
        let mut x = self.embedding.rows(&ids.flatten_all()?)?;
        for (layer, cache) in self.layers.iter().zip(&mut sequences.layers) {
            x = layer.forward(x, &step, cache)?;
        }
        sequences.length += tokens;
        self.logits(&last_rows(&x, batch, tokens)?)
    }

    fn logits(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.norm.forward(x)?;
        self.output.as_ref().unwrap_or(&self.embedding).forward(&x)
    }
}

impl Layer {
    fn load(config: &Config, weights: &Weights, place: &Place, index: usize) -> Result<Self> {
        let names = LayerNames::new(index);
        let norm = |part: &str| -> Result<RmsNorm> {
            let weight = weights.load(&names.of(part, "weight"), place.dtype, &place.device)?;
            Ok(RmsNorm::new(weight, config.norm_eps))
        };
        let linear = |parts: &[&str], bias: bool| -> Result<Linear> {
            let load = |kind: &str| {
                let names: Vec<String> = parts.iter().map(|part| names.of(part, kind)).collect();
                weights.load_stacked(&names, place.dtype, &place.device)
            };
            Linear::new(load("weight")?, bias.then(|| load("bias")).transpose()?, place.kernels)
        };
        let biases = config.biases;
        Ok(Self {
            heads: Heads::of(config),
            attention_norm: norm("input_layernorm")?,
            qkv: linear(&["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], biases.qkv)?,
            attention_output: linear(&["self_attn.o_proj"], biases.attention_output)?,
            feed_forward_norm: norm("post_attention_layernorm")?,
            gate_up: linear(&["mlp.gate_proj", "mlp.up_proj"], biases.mlp)?,
            down: linear(&["mlp.down_proj"], biases.mlp)?,
            activation: config.activation,
            kernels: place.kernels,
        })
    }

    /// `(b · t, hidden)` to the same.
    fn forward(&self, x: Tensor, step: &Step<'_>, cache: &mut LayerCache) -> Result<Tensor> {
        let attended = self.attend(&self.attention_norm.forward(&x)?, step, cache)?;
        let x = (x + attended)?;
        let fed = self.feed_forward(&self.feed_forward_norm.forward(&x)?)?;
        Ok((x + fed)?)
    }

    fn attend(&self, x: &Tensor, step: &Step<'_>, cache: &mut LayerCache) -> Result<Tensor> {
        let qkv = self.qkv.forward(x)?;
        let attended = match (cache, &step.pass) {
            (LayerCache::Stock(cache), Some(pass)) => {
                attention::attend(&qkv, self.heads, step.starts.len(), pass, cache)?
            }
            (LayerCache::Cpu(cache), _) => cache.attend(&qkv, step.rope, step.past, step.starts)?,
            (LayerCache::Stock(_), None) => return Err(Error::new("the cache of a layer lacks its positions")),
        };
        self.attention_output.forward(&attended)
    }

    fn feed_forward(&self, x: &Tensor) -> Result<Tensor> {
        let gate_up = self.gate_up.forward(x)?;
        let gated = match (self.activation, self.kernels) {
            (Activation::Silu, Kernels::Cpu) => gate::silu_gate(&gate_up)?,
            (Activation::Silu, Kernels::Stock) => {
                let inner = gate_up.dim(1)? / 2;
                (gate_up.narrow(1, 0, inner)?.silu()? * gate_up.narrow(1, inner, inner)?)?
            }
        };
        self.down.forward(&gated)
    }
}

/// The last token of each row of the batch: `(b · t, hidden)` to `(b, hidden)`.
fn last_rows(x: &Tensor, batch: usize, tokens: usize) -> Result<Tensor> {
    if tokens == 1 {
        return Ok(x.clone());
    }
    let hidden = x.dim(1)?;
    let last = x.reshape((batch, tokens, hidden))?.narrow(1, tokens - 1, 1)?;
    Ok(last.contiguous()?.reshape((batch, hidden))?)
}
