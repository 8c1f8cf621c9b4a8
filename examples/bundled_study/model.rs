//! The Llama decoder that is trained here: RMSNorm, rotary grouped-query attention, SwiGLU, tied embeddings, right-padded batches.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};
use rand::Rng;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::fused;
use crate::vocab::{MAX_LENGTH, VOCAB_SIZE};
use crate::{Failure, Res};

pub const ROPE_THETA: f64 = 10_000.0;
pub const NORM_EPS: f64 = 1e-5;

/// The dimensions in which the models differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub hidden: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub intermediate: usize,
}

pub const TEACHER: Shape = Shape { hidden: 320, layers: 5, heads: 10, kv_heads: 5, head_dim: 32, intermediate: 864 };
pub const STUDENT: Shape = Shape { hidden: 128, layers: 4, heads: 4, kv_heads: 2, head_dim: 32, intermediate: 352 };

impl Shape {
    /// Every parameter's Hugging Face name and shape, in file order.
    pub fn parameters(&self) -> Vec<(String, Vec<usize>)> {
        let (h, i) = (self.hidden, self.intermediate);
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let mut all = vec![("model.embed_tokens.weight".to_string(), vec![VOCAB_SIZE, h])];
        for layer in 0..self.layers {
            let parts: [(&str, Vec<usize>); 9] = [
                ("input_layernorm", vec![h]),
                ("self_attn.q_proj", vec![q, h]),
                ("self_attn.k_proj", vec![kv, h]),
                ("self_attn.v_proj", vec![kv, h]),
                ("self_attn.o_proj", vec![h, q]),
                ("post_attention_layernorm", vec![h]),
                ("mlp.gate_proj", vec![i, h]),
                ("mlp.up_proj", vec![i, h]),
                ("mlp.down_proj", vec![h, i]),
            ];
            all.extend(parts.map(|(name, shape)| (format!("model.layers.{layer}.{name}.weight"), shape)));
        }
        all.push(("model.norm.weight".to_string(), vec![h]));
        all
    }
}

/// Sequences padded on the right to one length, and the rows (flat positions) whose next token is wanted.
#[derive(Clone, Debug)]
pub struct Batch {
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

pub struct Model {
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
    pub fn new(shape: Shape, seed: u64, device: &Device) -> Res<Self> {
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
    pub fn load(shape: Shape, dir: &Path, device: &Device) -> Res<Self> {
        let path = dir.join("model.safetensors");
        let tensors = candle_core::safetensors::load(&path, device).map_err(|e| format!("{}: {e}", path.display()))?;
        let mut vars = Vec::new();
        for (name, dims) in shape.parameters() {
            let tensor = tensors.get(&name).ok_or_else(|| format!("{}: no tensor {name}", path.display()))?;
            if tensor.dims() != dims {
                return Err(format!("{}: {name} is {:?}, not {dims:?}", path.display(), tensor.dims()).into());
            }
            vars.push((name, Var::from_tensor(&tensor.to_dtype(DType::F32)?)?));
        }
        Self::from_vars(shape, vars, device, false)
    }

    /// The same weights (shared, not copied) without a graph.
    pub fn frozen(&self) -> Res<Self> {
        Self::from_vars(self.shape, self.vars.clone(), &self.device, false)
    }

    fn from_vars(shape: Shape, vars: Vec<(String, Var)>, device: &Device, graph: bool) -> Res<Self> {
        let mut tensors = vars
            .iter()
            .map(|(_, v)| if graph { v.as_tensor().clone() } else { v.as_detached_tensor() })
            .collect::<Vec<_>>()
            .into_iter();
        let mut next = || tensors.next().ok_or_else(|| Failure::from("too few parameters"));
        let embedding = next()?;
        let mut layers = Vec::new();
        for _ in 0..shape.layers {
            // The order of `Shape::parameters`.
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

    pub fn parameter_count(&self) -> usize {
        self.vars.iter().map(|(_, v)| v.elem_count()).sum()
    }

    fn causal_mask(&self, length: usize) -> Res<Tensor> {
        if let Some(mask) = self.masks.borrow().get(&length) {
            return Ok(mask.clone());
        }
        let values: Vec<f32> = (0..length * length).map(|i| if i % length > i / length { -1e9 } else { 0.0 }).collect();
        let mask = Tensor::from_vec(values, (length, length), &self.device)?;
        self.masks.borrow_mut().insert(length, mask.clone());
        Ok(mask)
    }

    /// Logits (rows, vocabulary) at the batch's wanted rows.
    pub fn logits(&self, batch: &Batch) -> Res<Tensor> {
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

    fn attention(&self, layer: &Layer, x: &Tensor, batch: &Batch) -> Res<Tensor> {
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
        // The query heads of one key head are stacked along the rows, so keys and values aren't repeated.
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

fn rotary_tables(head_dim: usize, device: &Device) -> Res<(Tensor, Tensor)> {
    let half = head_dim / 2;
    let angle = |i: usize| (i / half) as f64 * ROPE_THETA.powf(-2.0 * (i % half) as f64 / head_dim as f64);
    let table = |f: fn(f64) -> f64| -> candle_core::Result<Tensor> {
        let values: Vec<f32> = (0..MAX_LENGTH * half).map(|i| f(angle(i)) as f32).collect();
        Tensor::from_vec(values, (MAX_LENGTH, half), device)
    };
    Ok((table(f64::cos)?, table(f64::sin)?))
}
