//! Which tensors a model consists of: from the config to names and shapes. Checking files, counting parameters, making
//! dummy weights and loading the decoder all follow this one description.

use super::config::{Config, Experts, FeedForward, FusedOrder, GateUpNames, Names, Norm, QkSpan, QkvNames};

/// A tensor of the model's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TensorSpec {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
}

/// The tensors of a linear layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MatrixSpec {
    /// Weights `(rows, columns)`; `(columns, rows)` if they are stored transposed.
    pub(crate) weight: TensorSpec,
    /// Bias `(rows)`.
    pub(crate) bias: Option<TensorSpec>,
    /// The weights are stored transposed.
    pub(crate) transposed: bool,
}

/// A norm with the names of its tensors.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NormSpec {
    pub(crate) norm: Norm,
    pub(crate) width: usize,
    /// Weights: none, one tensor, or one for each head.
    pub(crate) weight: Vec<TensorSpec>,
    pub(crate) bias: Option<TensorSpec>,
}

/// Query, key and value projections.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum QkvSpec {
    /// Three matrices.
    Apart(Box<[MatrixSpec; 3]>),
    /// One matrix.
    Fused(Box<MatrixSpec>, FusedOrder),
}

/// Gate and up projection.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum GateUpSpec {
    /// Two matrices.
    Apart(Box<[MatrixSpec; 2]>),
    /// One matrix, the gate's rows first.
    Fused(Box<MatrixSpec>),
}

/// The tensors of a feed-forward.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum FeedForwardSpec {
    /// down(act(gate x) · up x).
    Gated(GatedSpec),
    /// down(act(up x)).
    Plain {
        /// First projection.
        up: MatrixSpec,
        /// Last projection.
        down: MatrixSpec,
    },
    /// A mixture of experts.
    Experts(Box<ExpertsSpec>),
}

/// A gated feed-forward.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct GatedSpec {
    /// Gate and up projection.
    pub(crate) gate_up: GateUpSpec,
    /// Last projection.
    pub(crate) down: MatrixSpec,
}

/// A mixture of experts.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ExpertsSpec {
    pub(crate) experts: Experts,
    /// Scores the experts `(experts, hidden)`.
    pub(crate) router: MatrixSpec,
    pub(crate) weights: ExpertWeights,
    /// The expert that every token goes through, and its gate `(1, hidden)`.
    pub(crate) shared: Option<(GatedSpec, MatrixSpec)>,
}

/// How the weights of experts are stored.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ExpertWeights {
    /// Gate, up and down projection of each expert.
    Apart(Vec<[MatrixSpec; 3]>),
    /// Those of all experts in one tensor: gate and up `(experts, 2 · inner, hidden)`, down `(experts, hidden, inner)`.
    Stacked {
        /// Gate and up projections.
        gate_up: TensorSpec,
        /// Down projections.
        down: TensorSpec,
    },
}

/// The tensors of a layer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LayerSpec {
    /// Norm before attention.
    pub(crate) attention_norm: Option<NormSpec>,
    /// Query, key and value projections.
    pub(crate) qkv: QkvSpec,
    /// Norms of queries and keys.
    pub(crate) qk_norm: Option<[NormSpec; 2]>,
    /// Output projection of attention.
    pub(crate) attention_output: MatrixSpec,
    /// Norm of what attention gives.
    pub(crate) attended_norm: Option<NormSpec>,
    /// Norm before the feed-forward.
    pub(crate) feed_forward_norm: Option<NormSpec>,
    pub(crate) feed_forward: FeedForwardSpec,
    /// Norm of what the feed-forward gives.
    pub(crate) fed_norm: Option<NormSpec>,
}

/// The tensors of a model.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Layout {
    /// In front of the names in these files, and in front of the names in transformers.
    prefixes: [&'static str; 2],
    /// Embedding table.
    pub(crate) embedding: TensorSpec,
    /// Table of learned positions.
    pub(crate) positions: Option<TensorSpec>,
    /// Norm after the embedding.
    pub(crate) embedding_norm: Option<NormSpec>,
    /// From the width of the embedding to the hidden size, and back.
    pub(crate) projections: Option<[MatrixSpec; 2]>,
    pub(crate) layers: Vec<LayerSpec>,
    /// Norm before the output layer.
    pub(crate) final_norm: Option<NormSpec>,
    /// The output layer; a tied model may lack it.
    pub(crate) output: MatrixSpec,
}

impl Layout {
    /// The tensors of a model. `has` says whether the files hold a name, which decides between several ways
    /// to name the same tensor.
    pub(super) fn new(config: &Config, has: impl Fn(&str) -> bool) -> Self {
        let named = |prefix: &str| has(&format!("{prefix}{}.weight", config.names.embedding));
        // some checkpoints hold only the inner model, whose names lack the first part of the prefix
        let inner = config.names.prefix.split_once('.').map_or("", |(_, rest)| rest);
        let prefix = if !named(config.names.prefix) && named(inner) { inner } else { config.names.prefix };
        Builder { config, names: &config.names, prefix, has: &has }.layout()
    }

    /// The name that transformers has for a tensor, even if the files leave the prefix out.
    pub(crate) fn full_name(&self, tensor: &TensorSpec) -> String {
        let [here, there] = self.prefixes;
        let is_output = tensor.name == self.output.weight.name || Some(tensor) == self.output.bias.as_ref();
        match tensor.name.strip_prefix(here) {
            Some(rest) if !is_output => format!("{there}{rest}"),
            _ => tensor.name.clone(),
        }
    }

    /// Every tensor; the output layer only `with_output`.
    pub(crate) fn tensors(&self, with_output: bool) -> Vec<&TensorSpec> {
        let mut all = vec![&self.embedding];
        all.extend(&self.positions);
        add_norm(&mut all, &self.embedding_norm);
        self.projections.iter().flatten().for_each(|matrix| add_matrix(&mut all, matrix));
        self.layers.iter().for_each(|layer| layer.add_to(&mut all));
        add_norm(&mut all, &self.final_norm);
        all.extend(&self.output.bias);
        if with_output {
            all.push(&self.output.weight);
        }
        all
    }
}

impl LayerSpec {
    fn add_to<'a>(&'a self, all: &mut Vec<&'a TensorSpec>) {
        for norm in [&self.attention_norm, &self.attended_norm, &self.feed_forward_norm, &self.fed_norm] {
            add_norm(all, norm);
        }
        match &self.qkv {
            QkvSpec::Apart(matrices) => matrices.iter().for_each(|matrix| add_matrix(all, matrix)),
            QkvSpec::Fused(matrix, _) => add_matrix(all, matrix),
        }
        for norm in self.qk_norm.iter().flatten() {
            all.extend(&norm.weight);
            all.extend(&norm.bias);
        }
        add_matrix(all, &self.attention_output);
        match &self.feed_forward {
            FeedForwardSpec::Gated(gated) => gated.add_to(all),
            FeedForwardSpec::Plain { up, down } => [up, down].into_iter().for_each(|matrix| add_matrix(all, matrix)),
            FeedForwardSpec::Experts(experts) => experts.add_to(all),
        }
    }
}

impl GateUpSpec {
    /// The matrices, in the order of their rows.
    pub(crate) fn parts(&self) -> Vec<&MatrixSpec> {
        match self {
            GateUpSpec::Apart(matrices) => matrices.iter().collect(),
            GateUpSpec::Fused(matrix) => vec![matrix],
        }
    }
}

impl GatedSpec {
    fn add_to<'a>(&'a self, all: &mut Vec<&'a TensorSpec>) {
        self.gate_up.parts().into_iter().for_each(|matrix| add_matrix(all, matrix));
        add_matrix(all, &self.down);
    }
}

impl ExpertsSpec {
    fn add_to<'a>(&'a self, all: &mut Vec<&'a TensorSpec>) {
        add_matrix(all, &self.router);
        match &self.weights {
            ExpertWeights::Apart(experts) => experts.iter().flatten().for_each(|matrix| add_matrix(all, matrix)),
            ExpertWeights::Stacked { gate_up, down } => all.extend([gate_up, down]),
        }
        if let Some((shared, gate)) = &self.shared {
            shared.add_to(all);
            add_matrix(all, gate);
        }
    }
}

fn add_matrix<'a>(all: &mut Vec<&'a TensorSpec>, matrix: &'a MatrixSpec) {
    all.push(&matrix.weight);
    all.extend(&matrix.bias);
}

fn add_norm<'a>(all: &mut Vec<&'a TensorSpec>, norm: &'a Option<NormSpec>) {
    if let Some(norm) = norm {
        all.extend(&norm.weight);
        all.extend(&norm.bias);
    }
}

struct Builder<'a> {
    config: &'a Config,
    names: &'a Names,
    prefix: &'static str,
    has: &'a dyn Fn(&str) -> bool,
}

impl Builder<'_> {
    fn layout(&self) -> Layout {
        let config = self.config;
        let (hidden, width) = (config.hidden_size, config.embedding.width);
        let top = |name: &str| format!("{}{name}", self.prefix);
        let projections = (width != hidden).then(|| {
            [
                matrix(&top(self.names.project_in), [hidden, width], false, false),
                matrix(&top(self.names.project_out), [width, hidden], false, false),
            ]
        });
        Layout {
            prefixes: [self.prefix, self.names.prefix],
            embedding: tensor(format!("{}.weight", top(self.names.embedding)), &[config.vocab_size, width]),
            positions: config
                .embedding
                .positions
                .map(|positions| tensor(format!("{}.weight", top(self.names.positions)), &[positions.rows, hidden])),
            embedding_norm: config.embedding.norm.then(|| norm(config.norm, &top(self.names.embedding_norm), hidden)),
            projections,
            layers: (0..config.layers.len()).map(|index| self.layer(index)).collect(),
            final_norm: self.names.final_norm.map(|name| norm(config.norm, &top(name), hidden)),
            output: matrix(self.names.output, [config.vocab_size, width], config.output.bias, false),
        }
    }

    fn layer(&self, index: usize) -> LayerSpec {
        let attention = &self.config.attention;
        let hidden = self.config.hidden_size;
        let name = |part: &str| format!("{}{}.{index}.{part}", self.prefix, self.names.layers);
        let layer_norm = |part: Option<&str>| part.map(|part| norm(self.config.norm, &name(part), hidden));
        let queries = attention.heads * attention.head_dim;
        let keys = attention.kv_heads * attention.head_dim;
        let transposed = self.names.transposed;
        let qkv = match self.names.qkv {
            QkvNames::Apart(parts) => {
                let of = |at: usize, rows| matrix(&name(parts[at]), [rows, hidden], attention.qkv_bias, transposed);
                QkvSpec::Apart(Box::new([of(0, queries), of(1, keys), of(2, keys)]))
            }
            QkvNames::Fused(part, order) => {
                let shape = [queries + 2 * keys, hidden];
                QkvSpec::Fused(Box::new(matrix(&name(part), shape, attention.qkv_bias, transposed)), order)
            }
        };
        let qk_norm = attention.qk_norm.map(|qk| {
            let [query, key] = self.names.qk_norms;
            let of = |part: &str, heads| head_norm(qk.norm, qk.span, &name(part), heads, attention.head_dim);
            [of(query, attention.heads), of(key, attention.kv_heads)]
        });
        let output = [hidden, queries];
        LayerSpec {
            attention_norm: layer_norm(self.names.attention_norm),
            qkv,
            qk_norm,
            attention_output: matrix(&name(self.names.attention_output), output, attention.output_bias, transposed),
            attended_norm: layer_norm(self.names.attended_norm),
            feed_forward_norm: layer_norm(self.names.feed_forward_norm),
            feed_forward: self.feed_forward(&self.config.layers[index].feed_forward, &name),
            fed_norm: layer_norm(self.names.fed_norm),
        }
    }

    fn feed_forward(&self, feed_forward: &FeedForward, name: &dyn Fn(&str) -> String) -> FeedForwardSpec {
        let hidden = self.config.hidden_size;
        let transposed = self.names.transposed;
        match *feed_forward {
            FeedForward::Gated { inner, bias } => {
                let gate_up = match self.names.gate_up {
                    GateUpNames::Apart(parts) => GateUpSpec::Apart(Box::new(
                        parts.map(|part| matrix(&name(part), [inner, hidden], bias, transposed)),
                    )),
                    GateUpNames::Fused(part) => {
                        GateUpSpec::Fused(Box::new(matrix(&name(part), [2 * inner, hidden], bias, transposed)))
                    }
                };
                let down = matrix(&name(self.names.down), [hidden, inner], bias, transposed);
                FeedForwardSpec::Gated(GatedSpec { gate_up, down })
            }
            FeedForward::Plain { inner, bias } => FeedForwardSpec::Plain {
                up: matrix(&name(self.names.up), [inner, hidden], bias, transposed),
                down: matrix(&name(self.names.down), [hidden, inner], bias, transposed),
            },
            FeedForward::Experts(experts) => FeedForwardSpec::Experts(Box::new(self.experts(experts, name))),
        }
    }

    fn experts(&self, experts: Experts, name: &dyn Fn(&str) -> String) -> ExpertsSpec {
        let (hidden, names) = (self.config.hidden_size, self.names.experts);
        let router = |folder: &str| name(&format!("{folder}.gate"));
        let found = names.folders.iter().find(|folder| (self.has)(&format!("{}.weight", router(folder))));
        let folder = found.or(names.folders.first()).copied().unwrap_or_default();
        let linear = |part: &str, shape| matrix(&name(&format!("{folder}.{part}")), shape, false, false);
        let stacked = name(&format!("{folder}.experts.gate_up_proj"));
        let weights = match (self.has)(&stacked) {
            true => ExpertWeights::Stacked {
                gate_up: tensor(stacked, &[experts.count, 2 * experts.inner, hidden]),
                down: tensor(name(&format!("{folder}.experts.down_proj")), &[experts.count, hidden, experts.inner]),
            },
            false => {
                let [gate, up, down] = names.parts;
                let expert = |index: usize| {
                    let of = |part: &str, shape| linear(&format!("experts.{index}.{part}"), shape);
                    let (wide, narrow) = ([experts.inner, hidden], [hidden, experts.inner]);
                    [of(gate, wide), of(up, wide), of(down, narrow)]
                };
                ExpertWeights::Apart((0..experts.count).map(expert).collect())
            }
        };
        let shared = experts.shared_inner.map(|inner| {
            let of = |part: &str, shape| linear(&format!("shared_expert.{part}"), shape);
            let gate_up =
                GateUpSpec::Apart(Box::new([of("gate_proj", [inner, hidden]), of("up_proj", [inner, hidden])]));
            let down = of("down_proj", [hidden, inner]);
            (GatedSpec { gate_up, down }, linear("shared_expert_gate", [1, hidden]))
        });
        ExpertsSpec { experts, router: matrix(&router(folder), [experts.count, hidden], false, false), weights, shared }
    }
}

fn tensor(name: String, shape: &[usize]) -> TensorSpec {
    TensorSpec { name, shape: shape.to_vec() }
}

fn matrix(name: &str, [rows, columns]: [usize; 2], bias: bool, transposed: bool) -> MatrixSpec {
    let shape = if transposed { [columns, rows] } else { [rows, columns] };
    MatrixSpec {
        weight: tensor(format!("{name}.weight"), &shape),
        bias: bias.then(|| tensor(format!("{name}.bias"), &[rows])),
        transposed,
    }
}

fn norm(norm: Norm, name: &str, width: usize) -> NormSpec {
    NormSpec {
        norm,
        width,
        weight: norm.weight.then(|| tensor(format!("{name}.weight"), &[width])).into_iter().collect(),
        bias: norm.bias.then(|| tensor(format!("{name}.bias"), &[width])),
    }
}

fn head_norm(norm_of: Norm, span: QkSpan, name: &str, heads: usize, head_dim: usize) -> NormSpec {
    match span {
        QkSpan::SharedByHeads => norm(norm_of, name, head_dim),
        QkSpan::AllHeads => norm(norm_of, name, heads * head_dim),
        QkSpan::EachHead => NormSpec {
            norm: norm_of,
            width: head_dim,
            weight: vec![tensor(format!("{name}.weight"), &[heads, head_dim])],
            bias: None,
        },
        QkSpan::EachHeadApart => NormSpec {
            norm: norm_of,
            width: head_dim,
            weight: (0..heads).map(|head| tensor(format!("{name}.norms.{head}.weight"), &[head_dim])).collect(),
            bias: None,
        },
    }
}
