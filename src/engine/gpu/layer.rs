//! One layer: the launches of attention and feed-forward around the residual stream.

use candle_core::{DType, Device, Tensor};

use super::attention::{self, Attend};
use super::driver::{Buffer, NULL, Pointer};
use super::gate::{self, Gate};
use super::matrix::{Gpu, Matrix};
use super::mixture::Mixture;
use super::norm::{self, Join, Norm};
use super::room::{Room, Workspace};
use super::rope::{self, HeadNorms, Rope, Rotation};
use crate::engine::config::{Activation, Config, QkSpan, Residual, RopeStyle};
use crate::engine::heads::Heads;
use crate::engine::layout::{FeedForwardSpec, LayerSpec, NormSpec};
use crate::engine::weights::Weights;
use crate::error::{Error, Result};

/// A norm with its weights.
pub(crate) struct NormLayer {
    norm: Norm,
    /// What the addresses in `norm` are of.
    _weights: Vec<Buffer>,
}

/// A layer with its weights.
pub(crate) struct Layer {
    residual: Residual,
    residual_scale: f32,
    attention_norm: Option<NormLayer>,
    attention: Attention,
    attended_norm: Option<NormLayer>,
    feed_forward_norm: Option<NormLayer>,
    feed_forward: FeedForward,
    fed_norm: Option<NormLayer>,
}

struct Attention {
    heads: Heads,
    scale: f32,
    softcap: f32,
    window: Option<usize>,
    /// Index of the layer's rotary embedding.
    rope: Option<usize>,
    style: RopeStyle,
    qkv: Matrix,
    qk_norm: Option<[NormLayer; 2]>,
    span: QkSpan,
    clip: Option<f32>,
    output: Matrix,
}

enum FeedForward {
    Gated { gate_up: Matrix, down: Matrix },
    Plain { up: Matrix, down: Matrix },
    Mixture(Box<Mixture>),
}

/// The tokens that a launch is for: `tokens` new ones of each of `rows` rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Columns {
    /// The first of the rows.
    pub(crate) first_row: usize,
    pub(crate) rows: usize,
    pub(crate) tokens: usize,
}

/// What has still to be added to the residual stream.
#[derive(Clone, Copy)]
pub(crate) struct Pending<'a> {
    /// `(m, hidden)`; [`NULL`] for nothing.
    pub(crate) part: Pointer,
    /// Its own norm, which comes first.
    norm: Option<&'a NormLayer>,
    /// Added to the part, in a parallel layer.
    other: Pointer,
    scale: f32,
    /// The sum is normalised, and is the residual stream then.
    after: Option<&'a NormLayer>,
}

impl Columns {
    /// Tokens in all.
    pub(crate) fn count(&self) -> usize {
        self.rows * self.tokens
    }
}

impl NormLayer {
    /// Loads a norm.
    pub(crate) fn load(weights: &Weights, spec: &NormSpec, dtype: DType, device: &Device) -> Result<Self> {
        let loaded = spec.weight.iter().map(|tensor| weights.load(tensor, dtype, device));
        let weight = match loaded.collect::<Result<Vec<_>>>()?.as_slice() {
            [] => None,
            [one] => Some(Buffer::of(one.clone())?),
            apart => Some(Buffer::of(Tensor::stack(apart, 0)?)?),
        };
        let bias = spec.bias.as_ref().map(|tensor| weights.load(tensor, dtype, device)).transpose()?;
        let bias = bias.map(Buffer::of).transpose()?;
        let pointer = |buffer: &Option<Buffer>| buffer.as_ref().map_or(NULL, Buffer::pointer);
        let norm = Norm {
            kind: spec.norm.kind,
            eps: spec.norm.eps as f32,
            one_plus: spec.norm.one_plus,
            weight: pointer(&weight),
            bias: pointer(&bias),
        };
        Ok(Self { norm, _weights: weight.into_iter().chain(bias).collect() })
    }
}

impl<'a> Pending<'a> {
    /// Nothing is to be added.
    pub(crate) const NOTHING: Self = Self { part: NULL, norm: None, other: NULL, scale: 1.0, after: None };

    /// Adds it to the residual stream `x`, and writes norms of the sum: the first to the first place, and so on. All are
    /// `(rows, width)`.
    pub(crate) fn join(
        self,
        gpu: &Gpu,
        [rows, width]: [usize; 2],
        x: Pointer,
        norms: [Option<(&NormLayer, Pointer)>; 2],
    ) -> Result<()> {
        if self.part == NULL && norms.iter().all(Option::is_none) {
            return Ok(());
        }
        let join = Join {
            x,
            parts: [self.part, self.other],
            part_norm: self.norm.map(|layer| layer.norm),
            residual_scale: self.scale,
            norm: None,
            x_out: if self.part == NULL { NULL } else { x },
            y_out: NULL,
            second: None,
        };
        if let Some(after) = self.after {
            let join = Join { norm: Some(after.norm), x_out: NULL, y_out: x, ..join };
            norm::run(&gpu.driver, gpu.dtype, rows, width, &join)?;
            return Self::NOTHING.join(gpu, [rows, width], x, norms);
        }
        let [first, second] = norms.map(|norm| norm.map(|(layer, to)| (layer.norm, to)));
        let (norm, y_out) = first.map_or((None, NULL), |(norm, to)| (Some(norm), to));
        norm::run(&gpu.driver, gpu.dtype, rows, width, &Join { norm, y_out, second, ..join })
    }
}

impl Layer {
    /// Loads layer `index`.
    pub(super) fn load(config: &Config, spec: &LayerSpec, index: usize, weights: &Weights, gpu: &Gpu) -> Result<Self> {
        let (dtype, device) = (gpu.dtype, gpu.driver.device());
        let norm = |spec: &Option<NormSpec>| -> Result<Option<NormLayer>> {
            spec.as_ref().map(|spec| NormLayer::load(weights, spec, dtype, device)).transpose()
        };
        Ok(Self {
            residual: config.residual,
            residual_scale: config.residual_scale as f32,
            attention_norm: norm(&spec.attention_norm)?,
            attention: Attention::load(config, spec, index, weights, gpu)?,
            attended_norm: norm(&spec.attended_norm)?,
            feed_forward_norm: norm(&spec.feed_forward_norm)?,
            feed_forward: FeedForward::load(&spec.feed_forward, weights, gpu)?,
            fed_norm: norm(&spec.fed_norm)?,
        })
    }

    /// Launches the layer for tokens whose residual stream is at `x` and lacks `pending`; gives what it lacks then.
    pub(crate) fn launch<'a>(&'a self, pass: &Pass<'_>, x: Pointer, pending: Pending<'a>) -> Result<Pending<'a>> {
        let Pass { gpu, work, .. } = *pass;
        let size = [pass.columns.count(), pass.hidden];
        let scale = self.residual_scale;
        let (normed, part, fed) = (work.normed.pointer(), work.part.pointer(), work.fed.pointer());
        let to = |norm: &'a Option<NormLayer>| norm.as_ref().map(|norm| (norm, normed));
        let input = |norm: &Option<NormLayer>| if norm.is_some() { normed } else { x };
        match self.residual {
            Residual::Sequential => {
                pending.join(gpu, size, x, [to(&self.attention_norm), None])?;
                self.attention.launch(pass, input(&self.attention_norm), part)?;
                let attended = Pending { part, norm: self.attended_norm.as_ref(), scale, ..Pending::NOTHING };
                attended.join(gpu, size, x, [to(&self.feed_forward_norm), None])?;
                self.feed_forward.launch(pass, input(&self.feed_forward_norm), fed)?;
                Ok(Pending { part: fed, norm: self.fed_norm.as_ref(), scale, ..Pending::NOTHING })
            }
            Residual::FromNorm => {
                let over = |norm: &'a Option<NormLayer>| norm.as_ref().map(|norm| (norm, x));
                pending.join(gpu, size, x, [over(&self.attention_norm), None])?;
                self.attention.launch(pass, x, part)?;
                let attended = Pending { part, scale, ..Pending::NOTHING };
                attended.join(gpu, size, x, [over(&self.feed_forward_norm), None])?;
                self.feed_forward.launch(pass, x, fed)?;
                Ok(Pending { part: fed, scale, ..Pending::NOTHING })
            }
            Residual::Parallel => {
                let second = self.feed_forward_norm.as_ref().map(|norm| (norm, work.second.pointer()));
                pending.join(gpu, size, x, [to(&self.attention_norm), second])?;
                self.attention.launch(pass, input(&self.attention_norm), part)?;
                let fed_from = second.map_or(input(&self.attention_norm), |(_, to)| to);
                self.feed_forward.launch(pass, fed_from, fed)?;
                Ok(Pending { part, other: fed, scale, ..Pending::NOTHING })
            }
            Residual::NormAfter => {
                pending.join(gpu, size, x, [None, None])?;
                self.attention.launch(pass, x, part)?;
                let attended = Pending { part, scale, after: self.attention_norm.as_ref(), ..Pending::NOTHING };
                attended.join(gpu, size, x, [None, None])?;
                self.feed_forward.launch(pass, x, fed)?;
                Ok(Pending { part: fed, scale, after: self.feed_forward_norm.as_ref(), ..Pending::NOTHING })
            }
        }
    }
}

/// What all layers of a forward pass share.
#[derive(Clone, Copy)]
pub(crate) struct Pass<'a> {
    pub(crate) gpu: &'a Gpu,
    pub(crate) room: &'a Room,
    pub(crate) work: &'a Workspace,
    pub(crate) columns: Columns,
    /// Width of the residual stream.
    pub(crate) hidden: usize,
    pub(crate) activation: Activation,
    /// Index of the layer.
    pub(crate) layer: usize,
}

impl Attention {
    fn load(config: &Config, spec: &LayerSpec, index: usize, weights: &Weights, gpu: &Gpu) -> Result<Self> {
        let layer = &config.layers[index];
        let (dtype, device) = (gpu.dtype, gpu.driver.device());
        let qk_norm = match &spec.qk_norm {
            Some([query, key]) => {
                Some([NormLayer::load(weights, query, dtype, device)?, NormLayer::load(weights, key, dtype, device)?])
            }
            None => None,
        };
        Ok(Self {
            heads: Heads::of(&config.attention),
            scale: layer.scale as f32,
            softcap: config.attention.softcap.unwrap_or_default() as f32,
            window: layer.window,
            rope: layer.rope,
            style: layer.rope.map_or(RopeStyle::Halves, |rope| config.ropes[rope].style),
            qkv: Matrix::load_qkv(weights, &spec.qkv, &config.attention, gpu)?,
            qk_norm,
            span: config.attention.qk_norm.map_or(QkSpan::SharedByHeads, |qk| qk.span),
            clip: config.attention.clip.map(|clip| clip as f32),
            output: Matrix::load(weights, &[&spec.attention_output], gpu)?,
        })
    }

    /// From x `(m, hidden)` to what is added to the residual stream `(m, hidden)`.
    fn launch(&self, pass: &Pass<'_>, x: Pointer, to: Pointer) -> Result<()> {
        let Pass { gpu, room, work, columns, .. } = *pass;
        self.qkv.multiply(gpu, x, columns.count(), work.qkv.pointer())?;
        let cache = room.caches.get(pass.layer).ok_or_else(|| Error::new("a layer has no cache"))?;
        let row = columns.first_row * self.heads.keys * room.capacity * self.heads.width;
        let (keys, values) = (cache.keys.at(row), cache.values.at(row));
        let starts = room.starts.at(columns.first_row);
        self.rotate(pass, [keys, values], starts)?;
        attention::launch(
            gpu,
            &Attend {
                heads: self.heads,
                queries: work.qkv.pointer(),
                query_stride: self.heads.qkv(),
                keys,
                values,
                output: work.attended.pointer(),
                starts,
                length: room.progress.pointer(),
                alibi: room.alibi.as_ref().map(Buffer::pointer),
                rows: columns.rows,
                tokens: columns.tokens,
                capacity: room.capacity,
                window: self.window,
                scale: self.scale,
                softcap: self.softcap,
                scratch: &room.attention,
            },
        )?;
        self.output.multiply(gpu, work.attended.pointer(), columns.count(), to)
    }

    /// Norms and rotation of queries, which stay where they are, and keys, which go to the cache with the values.
    fn rotate(&self, pass: &Pass<'_>, [keys, values]: [Pointer; 2], starts: Pointer) -> Result<()> {
        let Pass { gpu, room, work, columns, .. } = *pass;
        let table = self.rope.and_then(|rope| room.tables.get(rope));
        let norms = self.qk_norm.as_ref();
        let rope = Rope {
            qkv: work.qkv.pointer(),
            q: work.qkv.pointer(),
            keys,
            values,
            starts,
            length: room.progress.pointer(),
            heads: self.heads,
            capacity: room.capacity,
            norms: norms.map(|[query, key]| HeadNorms { query: query.norm, key: key.norm, span: self.span }),
            clip: self.clip,
            rotation: table.map(|table| Rotation {
                cos: table.cos.pointer(),
                sin: table.sin.pointer(),
                pairs: table.pairs,
                style: self.style,
            }),
        };
        rope::run(&gpu.driver, gpu.dtype, columns.rows, columns.tokens, &rope)
    }
}

impl FeedForward {
    fn load(spec: &FeedForwardSpec, weights: &Weights, gpu: &Gpu) -> Result<Self> {
        let load = |parts: &[_]| Matrix::load(weights, parts, gpu);
        match spec {
            FeedForwardSpec::Gated(gated) => {
                Ok(Self::Gated { gate_up: load(&gated.gate_up.parts())?, down: load(&[&gated.down])? })
            }
            FeedForwardSpec::Plain { up, down } => Ok(Self::Plain { up: load(&[up])?, down: load(&[down])? }),
            FeedForwardSpec::Experts(experts) => Ok(Self::Mixture(Box::new(Mixture::load(experts, weights, gpu)?))),
        }
    }

    /// From x `(m, hidden)` to what is added to the residual stream `(m, hidden)`.
    fn launch(&self, pass: &Pass<'_>, x: Pointer, to: Pointer) -> Result<()> {
        let Pass { gpu, work, columns, activation, .. } = *pass;
        let rows = columns.count();
        let (first, down, gated) = match self {
            Self::Gated { gate_up, down } => (gate_up, down, true),
            Self::Plain { up, down } => (up, down, false),
            Self::Mixture(mixture) => {
                let buffers = work.mixture.as_ref().ok_or_else(|| Error::new("a mixture of experts has no buffers"))?;
                return mixture.launch(gpu, activation, x, rows, buffers, to);
            }
        };
        let (wide, inner) = (work.wide.pointer(), work.gated.pointer());
        if !(gated && first.multiply_gated(gpu, x, rows, activation, inner)?) {
            first.multiply(gpu, x, rows, wide)?;
            let gate = Gate { x: wide, y: inner, inner: down.inputs, activation, gated };
            gate::run(&gpu.driver, gpu.dtype, rows, &gate)?;
        }
        down.multiply(gpu, inner, rows, to)
    }
}
