//! The work that a model's shapes ask for, whatever runs it: what the energy floor is computed from.

use serde::{Deserialize, Serialize};

/// Bytes and arithmetic of a model, by what they grow with. Norms, activations, rotations and the rows that are looked up
/// in tables are left out: together they are below a percent of a transformer's work.
///
/// A floating-point operation is an addition or a multiplication: a product of an n × k matrix with a vector has 2nk.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// Data type whose products are counted: that of the run, or the device's cheapest if weights are quantised.
    #[serde(default = "f32")]
    pub products: String,
    /// Bytes of the weights that every step reads, whatever is in its batch: all but looked-up tables and routed experts.
    pub weight_bytes: u64,
    /// Operations of one token in all products with weights but the output layer's, its own experts included.
    pub token_flops: u64,
    /// Operations of the output layer for one row. Prefill needs it once for each prompt.
    pub output_flops: u64,
    /// Mixtures of experts; empty if the model has none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub experts: Vec<ExpertWork>,
    /// Attention, one entry for each window that layers have.
    pub attention: Vec<AttentionWork>,
}

fn f32() -> String {
    "f32".to_owned()
}

/// Layers with the same mixture of experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpertWork {
    /// Number of such layers.
    pub layers: u64,
    /// Experts of a layer.
    pub count: u64,
    /// Experts that a token goes through.
    pub per_token: u64,
    /// Bytes of one expert's weights.
    pub bytes: u64,
}

/// Layers whose queries see as far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttentionWork {
    /// Number of such layers.
    pub layers: u64,
    /// A query sees so many tokens, its own included; `None`: everything before it.
    #[serde(default)]
    pub window: Option<u64>,
    /// Bytes of a token's key and value in one layer.
    pub kv_bytes: u64,
    /// Operations of one query with one key in one layer, over all heads: its score, and its share of the value.
    pub pair_flops: u64,
}

impl Workload {
    /// Bytes of the weights that a step reads for so many tokens: routed experts as many as uniform routing is expected to
    /// reach, count · (1 − (1 − per_token / count)^tokens).
    pub(crate) fn weight_bytes_for(&self, tokens: f64) -> f64 {
        let reached = |experts: &ExpertWork| {
            let (count, per_token) = (experts.count as f64, experts.per_token as f64);
            let distinct = count * (1.0 - (1.0 - per_token / count).powf(tokens));
            experts.layers as f64 * distinct * experts.bytes as f64
        };
        self.weight_bytes as f64 + self.experts.iter().map(reached).sum::<f64>()
    }
}

impl AttentionWork {
    /// Keys that `queries` in a row see together, the first of them after `before` other tokens:
    /// Σ min(before + i, window) for i = 1 … queries.
    ///
    /// Both numbers may be means over sequences. The sum is convex in them without a window, and is then at most the mean
    /// of the sequences' own sums.
    pub(crate) fn pairs(&self, before: f64, queries: f64) -> f64 {
        let growing = match self.window {
            Some(window) => (window as f64 - before).clamp(0.0, queries),
            None => queries,
        };
        let beyond = self.window.map_or(0.0, |window| (queries - growing) * window as f64);
        growing * before + growing * (growing + 1.0) / 2.0 + beyond
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attention(window: Option<u64>) -> AttentionWork {
        AttentionWork { layers: 1, window, kv_bytes: 1, pair_flops: 1 }
    }

    #[test]
    fn the_keys_that_queries_see_are_those_of_counting_them_one_by_one() {
        for window in [None, Some(1), Some(7), Some(16), Some(100)] {
            for before in [0u64, 1, 6, 7, 8, 40] {
                for queries in [0u64, 1, 5, 33] {
                    let seen = |i: u64| (before + i).min(window.unwrap_or(u64::MAX));
                    let counted: u64 = (1..=queries).map(seen).sum();
                    let pairs = attention(window).pairs(before as f64, queries as f64);
                    assert_eq!(pairs, counted as f64, "{window:?}, {before}, {queries}");
                }
            }
        }
    }

    #[test]
    fn a_batch_reads_the_experts_that_its_tokens_reach() {
        let experts = vec![ExpertWork { layers: 2, count: 8, per_token: 2, bytes: 10 }];
        let workload = Workload { weight_bytes: 100, experts, ..Workload::default() };
        assert_eq!(workload.weight_bytes_for(1.0), 100.0 + 2.0 * 2.0 * 10.0, "a single token reaches its own");
        // of 8 experts each is missed by a token with 6/8, by two tokens with 36/64
        assert!((workload.weight_bytes_for(2.0) - (100.0 + 2.0 * 8.0 * (28.0 / 64.0) * 10.0)).abs() < 1e-9);
        assert!((workload.weight_bytes_for(1e4) - (100.0 + 2.0 * 8.0 * 10.0)).abs() < 1e-9, "many reach all");
    }
}
