//! The work that a model's shapes ask for, for the record: bytes that a step reads, operations of a token.

use candle_core::DType;

use super::config::{Config, Experts};
use super::layout::{
    ExpertWeights, ExpertsSpec, FeedForwardSpec, GatedSpec, LayerSpec, Layout, MatrixSpec, QkvSpec, TensorSpec,
};
use super::weights::Weights;
use crate::record::{AttentionWork, ExpertWork, Workload};

/// The data type in which a floor counts a model's products: that of the run. Products with quantised matrices are exact in
/// none that a device has; the cheapest one bounds them from below.
pub(crate) fn products(quantised: bool, dtype: &str, on_gpu: bool) -> &str {
    if quantised && on_gpu { "bf16" } else { dtype }
}

/// Bytes of a tensor as it lies in memory.
fn size(weights: &Weights, dtype: DType) -> impl Fn(&TensorSpec) -> u64 {
    move |tensor| match weights.are_quantised() {
        true => weights.stored_bytes_of(tensor),
        false => tensor.elements() * dtype.size_in_bytes() as u64,
    }
}

/// Bytes of weights that each decoding step of one sequence reads: all but tables of which only a few rows are looked
/// up and experts that a token doesn't go through.
pub(super) fn bytes_per_step(weights: &Weights, dtype: DType) -> u64 {
    let own: u64 =
        experts(weights.layout(), size(weights, dtype)).map(|experts| experts.per_token * experts.bytes).sum();
    bytes_of_every_step(weights, dtype) + own
}

/// The same without routed experts.
fn bytes_of_every_step(weights: &Weights, dtype: DType) -> u64 {
    let (layout, size) = (weights.layout(), size(weights, dtype));
    let all: u64 = layout.tensors(weights.has_own_output()).into_iter().map(&size).sum();
    let looked_up = if weights.has_own_output() { size(&layout.embedding) } else { 0 };
    let positions = layout.positions.as_ref().map_or(0, &size);
    let routed: u64 = experts(layout, &size).map(|experts| experts.count * experts.bytes).sum();
    all - looked_up - positions - routed
}

/// The mixtures of experts, layer by layer.
fn experts(layout: &Layout, size: impl Fn(&TensorSpec) -> u64) -> impl Iterator<Item = ExpertWork> {
    layout.layers.iter().filter_map(move |layer| {
        let FeedForwardSpec::Experts(mixture) = &layer.feed_forward else { return None };
        let all: u64 = match &mixture.weights {
            ExpertWeights::Apart(experts) => experts.iter().flatten().map(|matrix| size(&matrix.weight)).sum(),
            ExpertWeights::Stacked { gate_up, down } => size(gate_up) + size(down),
        };
        let Experts { count, per_token, .. } = mixture.experts;
        Some(ExpertWork { layers: 1, count: count as u64, per_token: per_token as u64, bytes: all / count as u64 })
    })
}

/// What a model's shapes ask for, on a GPU or on the CPU.
pub(super) fn workload(config: &Config, weights: &Weights, dtype: DType, on_gpu: bool) -> Workload {
    let layout = weights.layout();
    let [project_in, project_out] = match &layout.projections {
        Some(projections) => projections.each_ref().map(elements),
        None => [0, 0],
    };
    let of_layers: u64 = layout.layers.iter().map(layer_elements).sum();
    Workload {
        products: products(weights.are_quantised(), dtype.as_str(), on_gpu).to_owned(),
        weight_bytes: bytes_of_every_step(weights, dtype),
        token_flops: 2 * (of_layers + project_in),
        output_flops: 2 * (elements(&layout.output) + project_out),
        experts: alike(
            experts(layout, size(weights, dtype)),
            |a, b| ExpertWork { layers: a.layers, ..*b } == *a,
            |a| {
                a.layers += 1;
            },
        ),
        attention: attention(config, dtype),
    }
}

/// Weights of a layer that one token is multiplied by: of routed experts only its own.
fn layer_elements(layer: &LayerSpec) -> u64 {
    let qkv = match &layer.qkv {
        QkvSpec::Apart(matrices) => matrices.iter().map(elements).sum(),
        QkvSpec::Fused(matrix, _) => elements(matrix),
    };
    let feed_forward = match &layer.feed_forward {
        FeedForwardSpec::Gated(gated) => gated_elements(gated),
        FeedForwardSpec::Plain { up, down } => elements(up) + elements(down),
        FeedForwardSpec::Experts(experts) => expert_elements(experts),
    };
    qkv + elements(&layer.attention_output) + feed_forward
}

fn expert_elements(mixture: &ExpertsSpec) -> u64 {
    let Experts { count, per_token, .. } = mixture.experts;
    let all: u64 = match &mixture.weights {
        ExpertWeights::Apart(experts) => experts.iter().flatten().map(elements).sum(),
        ExpertWeights::Stacked { gate_up, down } => gate_up.elements() + down.elements(),
    };
    let shared = mixture.shared.as_ref().map_or(0, |(shared, gate)| gated_elements(shared) + elements(gate));
    elements(&mixture.router) + all / count as u64 * per_token as u64 + shared
}

fn gated_elements(gated: &GatedSpec) -> u64 {
    let gate_up: u64 = gated.gate_up.parts().into_iter().map(elements).sum();
    gate_up + elements(&gated.down)
}

fn elements(matrix: &MatrixSpec) -> u64 {
    matrix.weight.elements()
}

fn attention(config: &Config, dtype: DType) -> Vec<AttentionWork> {
    let heads = &config.attention;
    let layers = config.layers.iter().map(|layer| AttentionWork {
        layers: 1,
        window: layer.window.map(|window| window as u64),
        kv_bytes: (2 * heads.kv_heads * heads.head_dim * dtype.size_in_bytes()) as u64,
        // a score is a product of two heads, and its share of the value another
        pair_flops: (4 * heads.heads * heads.head_dim) as u64,
    });
    alike(layers, |a, b| AttentionWork { layers: a.layers, ..*b } == *a, |a| a.layers += 1)
}

/// One entry for all layers that are alike.
fn alike<T>(layers: impl Iterator<Item = T>, same: impl Fn(&T, &T) -> bool, add: impl Fn(&mut T)) -> Vec<T> {
    let mut kinds: Vec<T> = Vec::new();
    for layer in layers {
        match kinds.iter_mut().find(|kind| same(kind, &layer)) {
            Some(kind) => add(kind),
            None => kinds.push(layer),
        }
    }
    kinds
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::engine::load::{DeviceChoice, LoadOptions, load};
    use crate::fixtures::Folder;
    use crate::record::{DummyDistribution, DummyWeights};

    fn of(folder: &Path) -> Workload {
        let dummy = Some(DummyWeights { seed: 1, distribution: DummyDistribution::Gaussian });
        let options = LoadOptions { dtype: Some("f32"), dummy, ..LoadOptions::default() };
        load(folder, &options, DeviceChoice::Cpu).unwrap().info().workload.clone().unwrap()
    }

    fn written(config: &str) -> (Folder, PathBuf) {
        let folder = Folder::new();
        let path = folder.path("");
        std::fs::write(folder.path("config.json"), config).unwrap();
        (folder, path)
    }

    #[test]
    fn the_work_of_a_small_llama_is_that_of_its_matrices_counted_by_hand() {
        let (_folder, path) = written(
            r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 100, "hidden_size": 32,
            "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "tie_word_embeddings": false,
            "torch_dtype": "float32", "hidden_act": "silu"}"#,
        );
        let work = of(&path);
        // queries and their output 32 × 32, keys and values 16 × 32, three matrices of 32 × 48
        let layer = 2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 48;
        assert_eq!((work.token_flops, work.output_flops), (2 * 3 * layer, 2 * 100 * 32));
        assert_eq!(work.weight_bytes, 4 * (3 * (layer + 2 * 32) + 32 + 100 * 32), "with norms, without the embedding");
        let attention = AttentionWork { layers: 3, window: None, kv_bytes: 2 * 16 * 4, pair_flops: 4 * 32 };
        assert_eq!((work.attention, work.experts), (vec![attention], vec![]));
        assert_eq!(work.products, "f32");
    }

    #[test]
    fn a_mixture_of_experts_counts_a_tokens_own_experts_and_the_bytes_of_each() {
        let (_folder, path) = written(
            r#"{"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "vocab_size": 100, "hidden_size": 32,
            "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
            "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "tie_word_embeddings": true, "sliding_window": 16,
            "num_local_experts": 4, "num_experts_per_tok": 2, "torch_dtype": "float32", "hidden_act": "silu"}"#,
        );
        let work = of(&path);
        let (attention, router, expert) = (4 * 32 * 32, 4 * 32, 3 * 32 * 48);
        assert_eq!(work.token_flops, 2 * 2 * (attention + router + 2 * expert));
        assert_eq!(work.experts, [ExpertWork { layers: 2, count: 4, per_token: 2, bytes: 4 * expert }]);
        assert_eq!(
            work.weight_bytes,
            4 * (2 * (attention + router + 2 * 32) + 32 + 100 * 32),
            "tied: the table is read"
        );
        assert_eq!(work.attention[0].window, Some(16));
    }

    #[test]
    fn only_quantised_matrices_on_a_gpu_are_counted_in_another_data_type() {
        assert_eq!(products(false, "f16", true), "f16");
        assert_eq!((products(true, "f32", true), products(true, "f32", false)), ("bf16", "f32"));
    }
}
