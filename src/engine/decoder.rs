//! The decoder of the Llama family: token ids in, hidden states and logits out.

use std::cell::RefCell;
use std::sync::Arc;

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

/// Positions that the rotation table gets to begin with; it grows when a longer sequence comes.
const FIRST_POSITIONS: usize = 1024;

/// A model's weights, ready to run.
pub(super) struct Decoder {
    config: Config,
    place: Place,
    /// Shared with the batches under way.
    rope: RefCell<Arc<RopeTable>>,
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
        let rope = RopeTable::new(&config.rope, config.head_dim, FIRST_POSITIONS.min(config.max_positions));
        Ok(Self {
            config: config.clone(),
            place: place.clone(),
            rope: RefCell::new(Arc::new(rope)),
            embedding: Linear::new(load(EMBEDDING)?, None, table_kernels)?,
            layers: (0..config.layers).map(|i| Layer::load(config, weights, place, i)).collect::<Result<_>>()?,
            norm: RmsNorm::new(load(FINAL_NORM)?, config.norm_eps),
            output,
        })
    }

    /// An empty batch whose row r begins at column `starts[r]`, with room for `capacity` columns, padding included.
    pub fn begin(&self, starts: Vec<usize>, capacity: usize) -> Result<Sequences> {
        Sequences::new(&self.config, &self.place, self.rope(capacity), starts, capacity)
    }

    fn rope(&self, positions: usize) -> Arc<RopeTable> {
        let mut table = self.rope.borrow_mut();
        if table.positions() < positions {
            *table = Arc::new(RopeTable::new(&self.config.rope, self.config.head_dim, positions.next_power_of_two()));
        }
        Arc::clone(&table)
    }

    /// Runs new tokens `(b, t)` after those in the cache: the hidden states `(b · t, hidden)` before the final norm.
    pub fn hidden(&self, ids: &Tensor, sequences: &mut Sequences) -> Result<Tensor> {
        let tokens = ids.dim(1)?;
        let past = sequences.length;
        let pass = match &sequences.positions {
            Some(positions) => Some(positions.pass(past, tokens)?),
            None => None,
        };
        let step = Step { rope: &sequences.rope, starts: &sequences.starts, past, pass };
        let mut x = self.embedding.rows(&ids.flatten_all()?)?;
        for (layer, cache) in self.layers.iter().zip(&mut sequences.layers) {
            x = layer.forward(x, &step, cache)?;
        }
        sequences.length += tokens;
        Ok(x)
    }

    /// Logits `(m, vocabulary)` of hidden states `(m, hidden)`.
    pub fn logits(&self, rows: &Tensor) -> Result<Tensor> {
        let x = self.norm.forward(rows)?;
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
