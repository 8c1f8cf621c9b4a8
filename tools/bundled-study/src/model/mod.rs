//! The Llama decoder that is trained here: RMSNorm, rotary grouped-query attention, SwiGLU, tied embeddings,
//! right-padded batches.
//!
//! It is a model of its own, since the library's decoder has no gradients: that one runs fused and cached kernels on
//! weights that stay as they are, and a backward pass needs every intermediate result of whole sequences. A test holds
//! the two together: what is exported here gives the same tokens and log-probabilities there.

mod fused;
mod shape;

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};
use ept_sweep::error::{Context, Error, Result};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::vocab::MAX_LENGTH;

pub(crate) use fused::{one_hot, with_gradient};
pub(crate) use shape::Shape;

pub(crate) const ROPE_THETA: f64 = 10_000.0;
pub(crate) const NORM_EPS: f64 = 1e-5;

/// Sequences padded on the right to one length, and the rows (flat positions) whose next token is wanted.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    pub ids: Vec<u32>,
    pub size: usize,
    pub length: usize,
    pub rows: Vec<u32>,
}

struct Layer {
    attention_norm: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    o: Tensor,
    mlp_norm: Tensor,
    gate: Tensor,
    up: Tensor,
    down: Tensor,
}

/// A model with its parameters on one device, in f32.
pub(crate) struct Model {
    pub shape: Shape,
    pub device: Device,
    /// The parameters in file order; the tensors below share their storage.
    pub vars: Vec<(String, Var)>,
    embedding: Tensor,
    layers: Vec<Layer>,
    norm: Tensor,
    cos: Tensor,
    sin: Tensor,
    masks: RefCell<HashMap<usize, Tensor>>,
}

/// Normal draws by the Box-Muller transform, the same on every device.
fn normal(rng: &mut ChaCha8Rng, n: usize, std: f64) -> Vec<f32> {
    (0..n)
        .map(|_| {
            let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
            (std * (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
        })
        .collect()
}

impl Model {
    /// Seeded initial weights: norms one, matrices normal, those that write to the residual stream scaled down.
    pub(crate) fn new(shape: Shape, seed: u64, device: &Device) -> Result<Self> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let residual = 1.0 / (2.0 * shape.layers as f64).sqrt();
        let mut vars = Vec::new();
        for (name, dims) in shape.parameters() {
            let n = dims.iter().product();
            let values = if dims.len() == 1 {
                vec![1.0; n]
            } else if name.ends_with("embed_tokens.weight") {
                normal(&mut rng, n, 0.05)
            } else {
                let scale = if name.contains("o_proj") || name.contains("down_proj") { residual } else { 1.0 };
                normal(&mut rng, n, scale * (1.0 / dims[1] as f64).sqrt())
            };
            vars.push((name, Var::from_tensor(&Tensor::from_vec(values, dims, device)?)?));
        }
        Self::from_vars(shape, vars, device, true)
    }

    /// Weights from an exported folder, without a graph.
    ///
    /// # Errors
    /// The file can't be read, or a tensor is missing or of another shape.
    pub(crate) fn load(shape: Shape, dir: &Path, device: &Device) -> Result<Self> {
        let path = dir.join("model.safetensors");
        let tensors = candle_core::safetensors::load(&path, device).input_context(|| path.display())?;
        let mut vars = Vec::new();
        for (name, dims) in shape.parameters() {
            let wrong = |why: String| Error::input(format!("tensor `{name}` {why}")).at(path.display());
            let tensor = tensors.get(&name).ok_or_else(|| wrong("is missing".to_owned()))?;
            if tensor.dims() != dims {
                return Err(wrong(format!("is {:?}, not {dims:?}", tensor.dims())));
            }
            vars.push((name, Var::from_tensor(&tensor.to_dtype(DType::F32)?)?));
        }
        Self::from_vars(shape, vars, device, false)
    }

    fn from_vars(shape: Shape, vars: Vec<(String, Var)>, device: &Device, graph: bool) -> Result<Self> {
        let mut tensors = vars
            .iter()
            .map(|(_, v)| if graph { v.as_tensor().clone() } else { v.as_detached_tensor() })
            .collect::<Vec<_>>()
            .into_iter();
        let mut next = || tensors.next().ok_or_else(|| Error::new("the model has too few parameters"));
        let embedding = next()?;
        let mut layers = Vec::new();
        for _ in 0..shape.layers {
            // in the order of `Shape::parameters`
            layers.push(Layer {
                attention_norm: next()?,
                q: next()?,
                k: next()?,
                v: next()?,
                o: next()?,
                mlp_norm: next()?,
                gate: next()?,
                up: next()?,
                down: next()?,
            });
        }
        let norm = next()?;
        let (cos, sin) = rotary_tables(shape.head_dim, device)?;
        Ok(Self { shape, device: device.clone(), vars, embedding, layers, norm, cos, sin, masks: RefCell::default() })
    }

    /// Rounds the weights to half precision in place, so that what is loaded again is what was trained.
    ///
    /// # Errors
    /// The device fails.
    pub(crate) fn round_to_f16(&self) -> Result<()> {
        for (_, var) in &self.vars {
            var.set(&var.as_detached_tensor().to_dtype(DType::F16)?.to_dtype(DType::F32)?)?;
        }
        Ok(())
    }

    pub(crate) fn parameter_count(&self) -> usize {
        self.vars.iter().map(|(_, v)| v.elem_count()).sum()
    }

    fn causal_mask(&self, length: usize) -> Result<Tensor> {
        if let Some(mask) = self.masks.borrow().get(&length) {
            return Ok(mask.clone());
        }
        let values: Vec<f32> = (0..length * length).map(|i| if i % length > i / length { -1e9 } else { 0.0 }).collect();
        let mask = Tensor::from_vec(values, (length, length), &self.device)?;
        self.masks.borrow_mut().insert(length, mask.clone());
        Ok(mask)
    }

    /// Logits (rows, vocabulary) at the batch's wanted rows.
    ///
    /// # Errors
    /// The device fails.
    pub(crate) fn logits(&self, batch: &Batch) -> Result<Tensor> {
        let ids = Tensor::from_slice(&batch.ids, batch.ids.len(), &self.device)?;
        let mut x = fused::embedding(&self.embedding, &ids)?;
        for layer in &self.layers {
            let attended = self.attention(layer, &x, batch)?;
            x = (x + attended)?;
            let h = fused::rms_norm(&x, &layer.mlp_norm, NORM_EPS)?;
            let inner = fused::swiglu(&h.matmul(&layer.gate.t()?)?, &h.matmul(&layer.up.t()?)?)?;
            x = (x + inner.matmul(&layer.down.t()?)?)?;
        }
        let mut inverse = vec![batch.rows.len() as u32; batch.ids.len()];
        for (place, row) in batch.rows.iter().enumerate() {
            inverse[*row as usize] = place as u32;
        }
        let rows = Tensor::from_slice(&batch.rows, batch.rows.len(), &self.device)?;
        let inverse = Tensor::from_vec(inverse, batch.ids.len(), &self.device)?;
        let x = fused::take_rows(&x, &rows, &inverse)?;
        Ok(fused::rms_norm(&x, &self.norm, NORM_EPS)?.matmul(&self.embedding.t()?)?)
    }

    fn attention(&self, layer: &Layer, x: &Tensor, batch: &Batch) -> Result<Tensor> {
        let Shape { heads, kv_heads, head_dim, .. } = self.shape;
        let (size, length) = (batch.size, batch.length);
        let h = fused::rms_norm(x, &layer.attention_norm, NORM_EPS)?;
        let split = |weight: &Tensor, n: usize| -> candle_core::Result<Tensor> {
            h.matmul(&weight.t()?)?.reshape((size, length, n, head_dim))?.transpose(1, 2)?.contiguous()
        };
        let (cos, sin) = (self.cos.narrow(0, 0, length)?, self.sin.narrow(0, 0, length)?);
        let q = fused::rope(&split(&layer.q, heads)?, &cos, &sin)?;
        let k = fused::rope(&split(&layer.k, kv_heads)?, &cos, &sin)?;
        let v = split(&layer.v, kv_heads)?;
        // the query heads of one key head are stacked along the rows, so that keys and values aren't repeated
        let stacked = heads / kv_heads * length;
        let scores = q.reshape((size, kv_heads, stacked, head_dim))?.matmul(&k.transpose(2, 3)?)?;
        let scores = scores.reshape((size, heads, length, length))?;
        let weights = fused::masked_softmax(&scores, &self.causal_mask(length)?, (head_dim as f64).powf(-0.5))?;
        let mixed = weights.reshape((size, kv_heads, stacked, length))?.matmul(&v)?;
        let mixed = mixed.reshape((size, heads, length, head_dim))?.transpose(1, 2)?;
        let mixed = mixed.reshape((size * length, heads * head_dim))?;
        Ok(mixed.matmul(&layer.o.t()?)?)
    }
}

fn rotary_tables(head_dim: usize, device: &Device) -> Result<(Tensor, Tensor)> {
    let half = head_dim / 2;
    let angle = |i: usize| (i / half) as f64 * ROPE_THETA.powf(-2.0 * (i % half) as f64 / head_dim as f64);
    let table = |f: fn(f64) -> f64| -> candle_core::Result<Tensor> {
        let values: Vec<f32> = (0..MAX_LENGTH * half).map(|i| f(angle(i)) as f32).collect();
        Tensor::from_vec(values, (MAX_LENGTH, half), device)
    };
    Ok((table(f64::cos)?, table(f64::sin)?))
}
